"""From the Rego text of a security policy or a fragment to values.

Strategy: `parse_rego` reads the text, `parse_containers` the entries; here every top-level name gets its
place.

Rules: a name that no generator writes is refused by name, and so is an enforcement point that is bound to
another rule of the framework than its own: whoever reads what a policy admits must not be fooled by
`create_container := data.framework.mount_device`.

Spec: hcsshim, pkg/securitypolicy: api.rego (enforcement points), framework.rego (load_fragment),
    open_door.rego; confcom's policy text for the order and the flags.

Kind: pure
"""

from __future__ import annotations

import re

from sidecar.errors import MalformedInput
from sidecar.policy.parse_containers import each, flag, parse_container, parse_import, text
from sidecar.policy.parse_model import FLAGS, FragmentText, Point, Policy
from sidecar.policy.parse_rego import Module, Reference, RegoValue, parse_module

POINTS = frozenset(
    re.findall(
        r"\w+",
        """mount_device unmount_device mount_overlay unmount_overlay create_container exec_in_container
        exec_external shutdown_container signal_container_process plan9_mount plan9_unmount get_properties
        dump_stacks runtime_logging load_fragment scratch_mount scratch_unmount rw_mount_device
        rw_unmount_device log_provider mount_blockdev unmount_blockdev host_network
        load_transparency_trust_list""",
    )
)
# What a fixed answer may hold beside `allowed`, as the allow-all policies of the tools write it.
_ANSWER = frozenset({"allowed", "allow_stdio_access", "env_list", "add_module", "metadata", "caps_list"})
_VERSIONS = {"api_version": "api_svn", "framework_version": "framework_svn"}
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,2}")
_IMPORTS = frozenset({"future.keywords.every", "future.keywords.in", "rego.v1"})
_SVN = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9}){0,2}")
# Package names that the utility VM or the generators keep for themselves, and the language's own words.
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """framework api policy metadata microsoftcontainerinstance data input as contains default else every
        false if import in not null package set some true with""",
    )
)
_POLICY_PACKAGES = ("policy", "microsoftcontainerinstance")


def parse_policy(data: bytes, *, what: str = "security policy") -> Policy:
    """Read the text of a policy.

    Args:
        data: Rego, at most 16 MiB, from an untrusted party.
        what: names the policy in errors.

    Raises:
        MalformedInput: not a policy of the generated form; the message names the line or the member.
    """
    module = parse_module(data, what=what)
    if module.package not in _POLICY_PACKAGES:
        raise MalformedInput(
            f"{what}: package {module.package[:60]!r}, wanted 'policy'",
            hint="a fragment is read by: sidecar policy fragment inspect",
        )
    _check_imports(module, what)
    rest = dict(module.bindings)
    api, framework = (_version(rest, name, what) for name in _VERSIONS)
    fragments = each(rest.pop("fragments", []), f"{what}: fragment", parse_import)
    containers = each(rest.pop("containers", []), f"{what}: container", parse_container)
    flags = tuple(
        (name, flag(rest.pop(name), f"{what}: {name}")) for name in module.bindings if name in FLAGS
    )
    _check_reason(rest.pop("reason", None), what)
    points = tuple(_point(name, value, what) for name, value in rest.items())
    return Policy(module.package, api, framework, fragments, containers, flags, points)


def parse_fragment_text(data: bytes, *, what: str = "fragment") -> FragmentText:
    """Read the text of a fragment.

    Raises:
        MalformedInput: not a fragment of the generated form, or one that the utility VM would not load.
    """
    module = parse_module(data, what=what)
    # The utility VM finds the namespace in the first line only.
    if not module.first_line_is_package:
        raise MalformedInput(f"{what}: the first line is not the package line: the utility VM refuses it")
    if module.package in RESERVED:
        raise MalformedInput(f"{what}: namespace {module.package!r} is reserved")
    _check_imports(module, what)
    rest = dict(module.bindings)
    svn = text(rest.pop("svn", None), f"{what}: svn")
    if not _SVN.fullmatch(svn):
        raise MalformedInput(f"{what}: svn is {svn[:40]!r}, wanted digits in quotes")
    framework = _version(rest, "framework_version", what)
    if not framework:
        raise MalformedInput(f"{what}: framework_version is missing: the utility VM refuses it")
    includes = tuple(name for name in ("containers", "fragments") if name in rest)
    fragments = each(rest.pop("fragments", []), f"{what}: fragment", parse_import)
    containers = each(rest.pop("containers", []), f"{what}: container", parse_container)
    if rest:
        raise MalformedInput(f"{what}: {min(rest)[:60]!r} is not a name this reader knows")
    return FragmentText(module.package, svn, framework, fragments, containers, includes)


def _check_imports(module: Module, what: str) -> None:
    if unknown := set(module.imports) - _IMPORTS:
        raise MalformedInput(f"{what}: import of {min(unknown)[:60]!r} is not one this reader knows")


def _version(bindings: dict[str, RegoValue], name: str, what: str) -> str:
    """A version by its name or its old name; "" when there is none."""
    found = [bindings.pop(word) for word in (name, _VERSIONS[name]) if word in bindings]
    if not found:
        return ""
    version = text(found[0], f"{what}: {name}")
    if len(found) > 1 or not _VERSION.fullmatch(version):
        raise MalformedInput(f"{what}: {name} is {version[:40]!r}, wanted one of the form 1.2.3")
    return version


def _check_reason(value: RegoValue, what: str) -> None:
    """What the service shows after a denial: nothing, or the framework's own errors."""
    if value not in (None, {"errors": Reference("data.framework.errors")}):
        raise MalformedInput(f"{what}: reason is bound to something else than the framework's errors")


def _point(name: str, value: RegoValue, what: str) -> Point:
    if name not in POINTS:
        raise MalformedInput(f"{what}: {name[:60]!r} is not a name this reader knows")
    if value == Reference(f"data.framework.{name}"):
        return Point(name)
    if isinstance(value, dict) and isinstance(value.get("allowed"), bool) and value.keys() <= _ANSWER:
        return Point(name, value["allowed"] is True)
    raise MalformedInput(f"{what}: {name} is bound to neither the framework's rule nor a fixed answer")
