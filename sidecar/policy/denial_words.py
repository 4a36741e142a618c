"""What the framework's errors mean, and what usually cures them: one table.

Rules: an error is found by a part of its text, in lower case; the texts are those of framework 0.5.0, and
older ones that say the same in other words. The words are ours.

Spec: hcsshim, pkg/securitypolicy/framework.rego (the rules `errors contains ...`).

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_AGAIN = "generate the policy again from what is deployed, with images by digest"
_COMPARE = "sidecar policy inspect shows what the policy wants"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an error says, what usually cures it, and the part of the request that it is about."""

    words: str
    cure: str = ""
    about: str = ""


# Longer parts come before the parts they contain.
_MEANINGS: Mapping[str, Meaning] = {
    "devicehash not found": Meaning(
        "an image layer has a hash that the policy does not list",
        f"the image changed, or its layers were hashed otherwise: {_AGAIN}; layers without entries for their "
        "parent directories are a known cause, which sidecar policy lint looks for",
        "deviceHash",
    ),
    "no matching containers for overlay": Meaning(
        "no container of the policy has exactly these layers in this order", _AGAIN, "layerPaths"
    ),
    "missing required environment variable": Meaning(
        "a variable that the policy requires was not set",
        "set it, or make its rule not required",
        "envList",
    ),
    "invalid env list": Meaning(
        "these variables have a name or a value that no rule admits",
        f"add rules for them, or let variables be dropped; {_COMPARE}",
    ),
    "invalid command": Meaning(
        "the command is not the policy's, word by word",
        f"a command in the template replaces the image's whole command; {_COMPARE}",
        "argList",
    ),
    "invalid working directory": Meaning("the working directory is not the policy's", _AGAIN, "workingDir"),
    "invalid mount list": Meaning(
        "these mounts have a source, type or options that no rule admits",
        f"compare the volumes and their readOnly; {_COMPARE}",
    ),
    "invalid user": Meaning(
        "the user, a group or the umask is not the policy's",
        "check runAsUser, runAsGroup and the image's user",
        "user",
    ),
    "privileged escalation not allowed": Meaning(
        "the container asks for privileged mode, which the policy does not allow",
        "leave privileged out, or generate the policy from a template that has it",
    ),
    "invalid nonewprivileges": Meaning(
        "the policy wants no new privileges, and the container asks to allow them",
        "set allowPrivilegeEscalation to false in what is deployed",
    ),
    "invalid seccomp": Meaning("the seccomp profile is not the policy's", "deploy the one it was made from"),
    "capabilities don't match": Meaning(
        "the capability sets are not the policy's",
        f"compare securityContext.capabilities; {_COMPARE}",
        "capabilities",
    ),
    "distinguishable by": Meaning(
        "two entries of the policy fit and differ only there, so which one is meant cannot be told",
        "give both the same setting, or different commands",
    ),
    "container already started": Meaning("a container of this id was started before", "", "containerID"),
    "container not started": Meaning("no container of this id was started", "", "containerID"),
    "overlay has already been mounted": Meaning("an overlay is mounted there already", "", "target"),
    "device already mounted": Meaning("a device is mounted there already", "", "target"),
    "scratch already mounted": Meaning("scratch space is mounted there already", "", "target"),
    "to unmount": Meaning("nothing of that kind is mounted there", "", "unmountTarget"),
    "received read-": Meaning("what is mounted there is of the other kind", "", "unmountTarget"),
    "mountpoint invalid": Meaning("the policy allows no mount at that place", "", "target"),
    "rw device mounts uses a filesystem": Meaning("that file system may not be on a scratch device", "", ""),
    "ensurefilesystem must be set": Meaning("the host did not say which file system the device must have"),
    "unencrypted scratch not allowed": Meaning(
        "the host offered scratch space that is not encrypted",
        "that is the host's to change: allow_unencrypted_scratch would let it read what containers write",
    ),
    "isn't allowed to receive the signal": Meaning(
        "the container's entry does not list that signal", "", "signal"
    ),
    "invalid fragment issuer": Meaning(
        "the policy accepts no fragment of this signer",
        "sidecar policy fragment verify shows the signer; the policy's import must name it letter by letter",
        "issuer",
    ),
    "invalid fragment feed": Meaning(
        "the policy accepts no fragment of this feed from this signer",
        "compare the feed in the fragment's header with the import's, which has no tag",
        "feed",
    ),
    "fragment svn is below": Meaning(
        "the fragment is older than the policy accepts",
        "deploy the newer fragment, or lower minimum_svn in the policy",
    ),
    "different types": Meaning(
        "one of the fragment's svn and the policy's minimum_svn is a plain number, the other has dots",
        "write both as plain numbers",
    ),
    "does not match svn in fragment": Meaning(
        "the fragment's header and its text name different security versions", "sign it again"
    ),
    "missing fragment svn": Meaning(
        "neither the fragment's header nor its text has a security version",
        "make it again with sidecar policy fragment",
    ),
    "missing receipt": Meaning("the fragment lacks a ledger's receipt that the policy requires"),
    "ttl": Meaning("the transparency trust list is not one that the policy accepts"),
    "is ahead of the current version": Meaning(
        "it is written for a newer framework than this utility VM has",
        "generate it again with an older --framework-version, or use a region with a newer utility VM",
    ),
    "framework_version is missing": Meaning("it does not say which framework it is written for", _AGAIN),
    "devices not supported": Meaning("the container asks for a device; no policy can allow one"),
    "blockdev mounts are not supported": Meaning("block devices cannot be mounted under a policy"),
    "log provider not allowed": Meaning("the host asked for the guest's logs"),
    "security policy is not valid": Meaning(
        "the utility VM could not evaluate the policy at all",
        "sidecar policy inspect names the line; an empty policy, or one cut short, does this as well",
    ),
    "did not provide a reason": Meaning(
        "the policy does not say why: it is damaged, or has no `reason` of its own", _AGAIN
    ),
}
_ACTIONS: Mapping[str, str] = {
    "create_container": "start a container",
    "mount_device": "mount an image layer",
    "mount_overlay": "put a container's layers together",
    "rw_mount_device": "mount a writable device",
    "exec_in_container": "run a process in a container",
    "exec_external": "run a process in the utility VM",
    "load_fragment": "load a fragment",
    "scratch_mount": "mount scratch space",
    "plan9_mount": "mount a shared directory",
    "signal_container_process": "signal a process",
    "shutdown_container": "stop a container",
    "get_properties": "read properties of the guest",
    "dump_stacks": "read stacks of the guest's processes",
    "runtime_logging": "turn the guest's logging on",
}


def meaning_of(error: str) -> Meaning | None:
    """What an error of the framework means; None when it is not known here."""
    lowered = error.lower()
    return next((meaning for part, meaning in _MEANINGS.items() if part in lowered), None)


def action_of(rule: str) -> str:
    """What the host asked for, in words; the enforcement point's own name when it is not known here."""
    return _ACTIONS.get(rule, rule)
