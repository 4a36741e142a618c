"""The cloud in a box: all services together, and the environment that points clients at them.

Strategy: everything that blocks (files, keys, ports) happens first, in one thread; then the services run
until cancelled. The environment file is written and the one ready line printed once all of them accept
connections. Ports are remembered, because addresses are part of what is stored: key identifiers and
authorities of release policies.

Rules: loopback only; TLS by the directory's own authority, except for the metadata service, which is plain
on Azure too; the software processor is always opened by name; the screen says that none of this is Azure.

Managed HSM: a client tells it from a vault by "managedhsm" in the host name or by
SIDECAR_MANAGED_HSM_HOSTS, which the environment file sets; names below localhost do not resolve everywhere.

Kind: composition
"""

from __future__ import annotations

import base64
import logging
import os
import socket
import ssl
import sys
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import trio

from sidecar.asgi import asgi_app
from sidecar.errors import UsageError
from sidecar.local import ca
from sidecar.local.authority import Authority
from sidecar.local.blobauth import Gate, account_signature
from sidecar.local.blobs import ACCOUNT, CONTAINER, MAX_BODY, RESOURCE, BlobService, refuse
from sidecar.local.blobstore import BlobStore
from sidecar.local.dialect import MANAGED_HSM, VAULT, Dialect
from sidecar.local.faults import SERVICES, FaultScript
from sidecar.local.kds import KeyService
from sidecar.local.metadata import THIM_PATH, Metadata
from sidecar.local.options import LocalSettings
from sidecar.local.service import Clock, Service, shifted, utc_now
from sidecar.local.state import StateDirectory, write_whole
from sidecar.local.store import Store
from sidecar.local.sts import TokenEndpoint
from sidecar.local.tokens import TOKEN_LIFE, Identity, TokenSigner
from sidecar.local.vault import Vault
from sidecar.server import bind_loopback, serve_asgi, server_tls
from sidecar.snp.roots import Roots
from sidecar.snp.software import SoftwareProcessor

log = logging.getLogger("sidecar.local")

PLAIN = ("imds",)
READY = "sidecar local: ready"
WORKLOAD_TOKEN = "workload.token"  # noqa: S105 - a file name
BLOB_SAS = "blob.sas"
_SAS_LIFE = timedelta(days=7)
_BLOB_SECONDS = 60.0  # in which the body of a blob request must have arrived


@dataclass(frozen=True, slots=True)
class LocalCloud:
    """A running cloud in a box.

    Attributes:
        ports: by service name.
        environment: what clients need to be told.
        workload_environment: more of it, for clients that use workload identity instead of IMDS.
        ca_file: the root to trust, PEM.
        processor: the software processor whose reports are accepted.
        faults: the script; a test may exchange its rules while it runs.
        identities: of the host, the first one is also the workload's.
    """

    ports: dict[str, int]
    environment: dict[str, str]
    workload_environment: dict[str, str]
    ca_file: Path
    processor: SoftwareProcessor
    faults: FaultScript
    identities: tuple[Identity, ...]

    def host(self, service: str) -> str:
        """`host:port` of a service."""
        return _host(service, self.ports[service])

    def url(self, service: str) -> str:
        """The address of a service."""
        return _url(service, self.ports[service])


@dataclass(frozen=True, slots=True)
class _Parts:
    """What `_open` makes for `serve_local`."""

    cloud: LocalCloud
    services: dict[str, Service]
    sockets: dict[str, socket.socket] = field(repr=False)
    tls: ssl.SSLContext = field(repr=False)
    endpoint: TokenEndpoint
    state: StateDirectory


async def serve_local(
    settings: LocalSettings,
    *,
    clock: Clock = utc_now,
    task_status: trio.TaskStatus[LocalCloud] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a cloud in a box until cancelled; prints one ready line on stdout.

    Args:
        settings: see there.
        clock: the time its services go by.
        task_status: told the cloud once all services accept connections and the environment file is written.

    Raises:
        UsageError: the directory, a port or a fault cannot be used.
        ReportUnavailable: the software processor can be neither opened nor made.
    """
    with ExitStack() as stack:
        parts = await trio.to_thread.run_sync(_open, settings, clock, stack)
        async with trio.open_nursery() as nursery:
            for name, service in parts.services.items():
                tls = None if name in PLAIN else parts.tls
                app = asgi_app(service)
                if name == "blob":
                    app = asgi_app(service, max_body=MAX_BODY, deadline=_BLOB_SECONDS, refuse=refuse)
                await nursery.start(partial(serve_asgi, app, sockets=[parts.sockets[name]], tls=tls))
            await trio.to_thread.run_sync(_project_token, parts)
            nursery.start_soon(_keep_token_fresh, parts)
            path = settings.env_file or settings.directory / "env"
            await trio.to_thread.run_sync(_write_environment, path, parts)
            _announce(path, parts.cloud)
            task_status.started(parts.cloud)


# -- making it ------------------------------------------------------------------------------------


def _open(settings: LocalSettings, clock: Clock, stack: ExitStack) -> _Parts:
    """Everything that blocks: files, keys, ports. What must be closed goes onto the stack."""
    faults = FaultScript.parse(settings.faults)
    state = StateDirectory(settings.directory, clock())
    stack.callback(state.close)
    store = Store(settings.directory / "state.sqlite")
    stack.callback(store.close)
    blobs = BlobStore(settings.directory)
    stack.callback(blobs.close)
    blobs.add_container(CONTAINER, public=False)
    processor = SoftwareProcessor.open(settings.snp_directory, create=True)
    sockets = {name: _bind(name, settings, store, stack) for name in SERVICES}
    ports = {name: bound.getsockname()[1] for name, bound in sockets.items()}
    root = state.issued("ca", lambda: ca.make_root(clock()))
    issuer = state.issued("issuer", lambda: ca.make_intermediate(root, clock()))
    state.issued("tls", lambda: ca.make_leaf(issuer, "localhost (not Azure)", clock()))
    identities = tuple(_identity(store, index) for index in range(settings.identities))
    cloud = LocalCloud(
        ports=ports,
        environment=_environment(ports, state, processor),
        workload_environment=_workload_environment(ports, state, store, identities[0]),
        ca_file=state.certificate_path("ca"),
        processor=processor,
        faults=faults,
        identities=identities,
    )
    services, endpoint = _compose(settings, cloud, state, store, blobs, issuer, clock)
    key = _account_key(store)
    state.write(BLOB_SAS, account_signature(ACCOUNT, key, "racwd", clock(), _SAS_LIFE).encode())
    tls = server_tls(state.certificate_path("tls"), state.key_path("tls"))
    return _Parts(cloud, services, sockets, tls, endpoint, state)


def _compose(
    settings: LocalSettings,
    cloud: LocalCloud,
    state: StateDirectory,
    store: Store,
    blobs: BlobStore,
    issuer: ca.Issued,
    clock: Clock,
) -> tuple[dict[str, Service], TokenEndpoint]:
    """The services, wired: who trusts whose tokens and keys."""
    faults, processor, tenant = cloud.faults, cloud.processor, _tenant(store)

    def own(service: str) -> Clock:
        return shifted(clock, faults, service)

    def signer(name: str, url: str) -> TokenSigner:
        return TokenSigner(
            url, state.issued(name, lambda: ca.make_self_signed(f"{name} (not Azure)", clock()))
        )

    authorization = f"{cloud.url('sts')}/{tenant}"
    tokens, cluster = signer("sts", f"{authorization}/"), signer("cluster", f"{cloud.url('sts')}/cluster")
    authority = Authority(
        issuer=cloud.url("maa"),
        signer=state.issued("maa", lambda: ca.make_self_signed(f"{cloud.url('maa')} (not Azure)", clock())),
        roots=Roots.of(processor.ark) | Roots.amd(),
        store=store,
        tokens=tokens,
        clock=own("maa"),
        compliance=settings.compliance,
    )

    def vault(dialect: Dialect) -> Vault:
        name = dialect.service
        return Vault(
            dialect,
            base=cloud.url(name),
            authorization=authorization,
            store=store,
            tokens=tokens,
            key_sets=authority.published_keys,
            signer=state.issued(name, lambda: ca.make_leaf(issuer, f"{name} (not Azure)", clock())),
            clock=own(name),
            throttled=settings.throttled,
        )

    metadata = Metadata(
        processor=processor, tokens=tokens, tenant=tenant, identities=cloud.identities, clock=own("imds")
    )
    endpoint = TokenEndpoint(
        base=cloud.url("sts"),
        tenant=tenant,
        tokens=tokens,
        cluster=cluster,
        workload=cloud.identities[0],
        clock=own("sts"),
    )
    gate = Gate(
        key=_account_key(store),
        tokens=tokens,
        audiences=(RESOURCE, cloud.url("blob")),
        challenge=authorization,
    )
    services = {
        "maa": authority.service(faults),
        "akv": vault(VAULT).service(faults),
        "mhsm": vault(MANAGED_HSM).service(faults),
        "imds": metadata.service(faults),
        "sts": endpoint.service(faults),
        "kds": KeyService(processor).service(faults),
        "blob": BlobService(blobs, gate, own("blob")).service(faults),
    }
    return services, endpoint


def _bind(name: str, settings: LocalSettings, store: Store, stack: ExitStack) -> socket.socket:
    remembered = store.setting(f"port:{name}")
    port = settings.ports.get(name) or int(remembered or 0)
    try:
        bound = bind_loopback(port=port)
    except UsageError as exc:
        if name in settings.ports or remembered is None:
            raise
        raise UsageError(
            f"{name}: port {port}, which this directory has used before, cannot be had: {exc}",
            hint="stored keys and policies carry the port: free it, or use another directory",
        ) from exc
    stack.callback(bound.close)
    store.remember(f"port:{name}", str(bound.getsockname()[1]))
    return bound


def _identity(store: Store, index: int) -> Identity:
    name = f"local-{index}"
    group = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local/providers"
    return Identity(
        client_id=store.remembered(f"identity:{index}:client", _guid),
        object_id=store.remembered(f"identity:{index}:object", _guid),
        resource_id=f"{group}/Microsoft.ManagedIdentity/userAssignedIdentities/{name}",
    )


def _tenant(store: Store) -> str:
    return store.remembered("tenant", _guid)


def _account_key(store: Store) -> str:
    """Of the blob account, base64, secret."""
    return store.remembered("blob:key", lambda: base64.b64encode(os.urandom(64)).decode())


def _guid() -> str:
    return str(uuid.uuid4())


# -- telling about it -----------------------------------------------------------------------------


def _host(service: str, port: int) -> str:
    return f"127.0.0.1:{port}" if service in PLAIN else f"localhost:{port}"


def _url(service: str, port: int) -> str:
    return f"{'http' if service in PLAIN else 'https'}://{_host(service, port)}"


def _environment(
    ports: dict[str, int], state: StateDirectory, processor: SoftwareProcessor
) -> dict[str, str]:
    hosts = {name: _host(name, port) for name, port in ports.items()}
    return {
        "SIDECAR_CA_FILE": str(state.certificate_path("ca").absolute()),
        "SIDECAR_ALLOWED_HOSTS": ",".join(hosts[name] for name in ("maa", "akv", "mhsm", "blob")),
        "SIDECAR_MANAGED_HSM_HOSTS": hosts["mhsm"],
        "SIDECAR_THIM_ENDPOINT": _url("imds", ports["imds"]) + THIM_PATH,
        "SIDECAR_KDS_ENDPOINT": _url("kds", ports["kds"]),
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": _url("imds", ports["imds"]),
        "MAA_ENDPOINT": hosts["maa"],
        "AKV_ENDPOINT": hosts["akv"],
        "MHSM_ENDPOINT": hosts["mhsm"],
        "BLOB_ENDPOINT": f"{_url('blob', ports['blob'])}/{ACCOUNT}",
        "BLOB_SAS_FILE": str((state.path / BLOB_SAS).absolute()),
        "SIDECAR_SNP": "software",
        "SIDECAR_SNP_DIRECTORY": str(processor.directory.absolute()),
    }


def _workload_environment(
    ports: dict[str, int], state: StateDirectory, store: Store, identity: Identity
) -> dict[str, str]:
    return {
        "AZURE_AUTHORITY_HOST": _url("sts", ports["sts"]),
        "AZURE_TENANT_ID": _tenant(store),
        "AZURE_CLIENT_ID": identity.client_id,
        "AZURE_FEDERATED_TOKEN_FILE": str((state.path / WORKLOAD_TOKEN).absolute()),
    }


def _write_environment(path: Path, parts: _Parts) -> None:
    write_whole(path, _shell(parts.cloud.environment))
    parts.state.write("workload-identity.env", _shell(parts.cloud.workload_environment))


def _shell(values: dict[str, str]) -> bytes:
    lines = ("export {}='{}'\n".format(name, value.replace("'", "'\\''")) for name, value in values.items())
    return "".join(lines).encode()


def _announce(path: Path, cloud: LocalCloud) -> None:
    lines = [
        "local stand-ins for Azure services; not Azure, and no place for real secrets",
        *(f"  {name:<5} {cloud.url(name)}" for name in SERVICES),
        f"  trust {cloud.ca_file}",
        f"  use   . {path}",
    ]
    for line in lines:
        print(f"sidecar local: {line}", file=sys.stderr)
    print(f"{READY} {path}", flush=True)


def _project_token(parts: _Parts) -> None:
    parts.state.write(WORKLOAD_TOKEN, parts.endpoint.workload_token().encode())


async def _keep_token_fresh(parts: _Parts) -> None:
    """As a cluster does: the projected token is written anew long before it ends."""
    while True:
        await trio.sleep(TOKEN_LIFE / 2)
        await trio.to_thread.run_sync(_project_token, parts)
