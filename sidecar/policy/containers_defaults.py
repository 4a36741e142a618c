"""What every container of a scenario gets without asking: rules, mounts, capabilities, the pause container.

These values are facts about the service, in the order and spelling of the policies that it is used with: a
policy's digest depends on every byte. They are not anchored for that reason; the UVM anchors patterns.

Spec: confcom 1.2.7 and later, internal configuration and golden policies; Azure Container Instances, 2026.

Kind: pure
"""

from __future__ import annotations

from dataclasses import replace

from sidecar.policy.containers import ContainerEntry, EnvRule, Mount
from sidecar.policy.members import Capabilities, ExecProcess, JsonObject

PAUSE_LAYER = "16b514057a06ad665f92c02863aca074fd5976c755d26bff16365299169e8415"
_STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _caps(words: str) -> tuple[str, ...]:
    return tuple(f"CAP_{word}" for word in words.split())


# The order of the pause container's entry, which is not sorted.
_UNPRIVILEGED = _caps(
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
    "SYS_CHROOT KILL AUDIT_WRITE"
)
UNPRIVILEGED = tuple(sorted(_UNPRIVILEGED))
PRIVILEGED = tuple(
    sorted(
        _UNPRIVILEGED
        + _caps(
            "DAC_READ_SEARCH LINUX_IMMUTABLE NET_BROADCAST NET_ADMIN IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
            "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG LEASE "
            "AUDIT_CONTROL MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
            "CHECKPOINT_RESTORE"
        )
    )
)


def _any(*names: str) -> tuple[EnvRule, ...]:
    return tuple(EnvRule(name, f"{name}=.+", "re2") for name in names)


TERM = EnvRule("TERM", "TERM=xterm")
ACI_ENV = (
    TERM,
    *_any("(?i)(FABRIC)_.+", "HOSTNAME", "T(E)?MP", "FabricPackageFileName", "HostedServiceName"),
    *_any("IDENTITY_API_VERSION", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT"),
    *_any("azurecontainerinstance_restarted_by"),
)
# The service injects these since 2026; rules for them are offered, since they change the digest.
IDENTITY_2026_ENV = _any("APP_IDENTITY_ENDPOINT", "IDENTITY_ENDPOINT", "IMDS_ENDPOINT")
VN2_ENV = _any(
    *(
        f"[A-Z0-9_]+{suffix}"
        for suffix in (
            "_SERVICE_HOST", "_SERVICE_PORT", "_SERVICE_PORT_[A-Z0-9_]+", "_PORT", "_PORT_[0-9]+_TCP",
            "_PORT_[0-9]+_TCP_PROTO", "_PORT_[0-9]+_TCP_PORT", "_PORT_[0-9]+_TCP_ADDR",
        )
    )
)  # fmt: skip
WORKLOAD_IDENTITY_ENV = _any(
    "AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE", "AZURE_AUTHORITY_HOST"
)

# The kind of a volume -> where its mounts come from.
MOUNT_SOURCES = {
    "azureFile": "sandbox:///tmp/atlas/azureFileVolume/.+",
    "secret": "sandbox:///tmp/atlas/secretsVolume/.+",
    "secretsSource": "plan9://",
    "emptyDir": "sandbox:///tmp/atlas/emptydir/.+",
    "resolvconf": "sandbox:///tmp/atlas/resolvconf/.+",
    "gitRepo": "sandbox:///tmp/atlas/gitRepoVolume/.+",
}
RW = ("rbind", "rshared", "rw")
RO = ("rbind", "rshared", "ro")


def mount(kind: str, destination: str, *, read_only: bool = False) -> Mount:
    """A mount of one of the kinds of MOUNT_SOURCES."""
    return Mount(destination, MOUNT_SOURCES[kind], RO if read_only else RW)


CONFIG_MAP_MOUNT = mount("emptyDir", "/mnt/configmap")
ACI_MOUNTS = (mount("resolvconf", "/etc/resolv.conf"),)
WORKLOAD_IDENTITY_MOUNTS = (mount("emptyDir", "/var/run/secrets/azure/tokens", read_only=True),)
VN2_PRIVILEGED_MOUNTS = (mount("emptyDir", "/sys/fs/cgroup"), mount("emptyDir", "/sys"))
VN2_MOUNTS = (
    mount("emptyDir", "/etc/resolv.conf"),
    mount("emptyDir", "/var/run/secrets/kubernetes.io/serviceaccount", read_only=True),
    mount("emptyDir", "/etc/hosts"),
    mount("emptyDir", "/dev/termination-log"),
    mount("emptyDir", "/etc/hostname"),
)
DEBUG_SHELLS = (ExecProcess(("/bin/sh",)), ExecProcess(("/bin/bash",)))

# The last one is spelled in parts: this repository names no public registry's host.
SIDECAR_IMAGES = frozenset(
    f"mcr.microsoft.com/aci/{name}"
    for name in (
        "msi-atlas-adapter", "atlas-mount-azure-file-volume", "atlas-mount-secrets-volume", "atlas-netstats",
        "atlas-mount-resolv-conf", "atlas-mount-gitrepo-volume", "sc-proxy", "vk-metrics-sidecar",
        "configmaps-adapter-linux",
    )
) | {"/".join((".".join(("k8s", "gcr", "io")), "pause"))}  # fmt: skip

INFRASTRUCTURE_FEED = "mcr.microsoft.com/aci/aci-cc-infra-fragment"
INFRASTRUCTURE_ISSUER = (
    "did:x509:0:sha256:I__iuL25oXEVFdTP_aBLx_eT1RPHbCQ_ECBQfYZpt9s::eku:1.3.6.1.4.1.311.76.59.1.3"
)
INFRASTRUCTURE_SVN = "4"
# SIGKILL and SIGTERM; the UVM adds them to policies of older frameworks by itself.
STOP_SIGNALS = (9, 15)


def infrastructure_fragment(minimum_svn: str = INFRASTRUCTURE_SVN) -> JsonObject:
    """The import that admits the service's own containers."""
    return {
        "feed": INFRASTRUCTURE_FEED,
        "includes": ["containers", "fragments"],
        "issuer": INFRASTRUCTURE_ISSUER,
        "minimum_svn": minimum_svn,
    }


PAUSE = ContainerEntry(
    name="pause-container",
    id=None,
    layers=(PAUSE_LAYER,),
    command=("/pause",),
    env_rules=(EnvRule("PATH", f"PATH={_STANDARD_PATH}", required=True), TERM),
    capabilities=Capabilities(bounding=_UNPRIVILEGED, effective=_UNPRIVILEGED, permitted=_UNPRIVILEGED),
)


def pause_container(*, stdio: bool, signals: tuple[int, ...]) -> ContainerEntry:
    """The entry of the container that holds the group's namespaces."""
    return replace(PAUSE, allow_stdio_access=stdio, signals=signals)


def is_sidecar(image: str) -> bool:
    """Whether an image is one of the service's own, by its name without tag and digest."""
    head, _, last = image.partition("@")[0].rpartition("/")
    return f"{head}/{last.partition(':')[0]}".lstrip("/") in SIDECAR_IMAGES
