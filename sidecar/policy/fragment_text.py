"""The text of a fragment, and the import statement by which a policy accepts it.

    package contoso

    svn := "1"
    framework_version := "0.2.3"

    fragments := [...]

    containers := [...]

Rules: the package line is the very first line, because the utility VM looks for the namespace nowhere else;
lists are pretty unless asked otherwise, members sorted; one line end after the last line.

Spec: confcom's fragment text; hcsshim, pkg/securitypolicy/framework.rego (load_fragment, svn_ok).

Kind: pure
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from sidecar.errors import MalformedInput, UsageError
from sidecar.policy.parse import RESERVED, parse_fragment_text
from sidecar.policy.parse_containers import each, parse_import
from sidecar.policy.parse_model import FragmentImport, FragmentText
from sidecar.strictjson import as_list, as_object, as_text, load_json

JsonObject = Mapping[str, object]

DEFAULT_FRAMEWORK = "0.2.3"
_NAMESPACE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
_SVN = re.compile(r"[0-9]{1,18}")
_SEMVER = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}")
_FILE_MEMBERS = ("fragments", "standaloneFragments")


def build_fragment_text(
    namespace: str,
    svn: str,
    containers: Sequence[JsonObject],
    *,
    imports: Sequence[JsonObject] = (),
    framework_version: str = DEFAULT_FRAMEWORK,
    compact: bool = False,
) -> bytes:
    """Write a fragment; what is written is read back before it is returned.

    Args:
        namespace: the fragment's package, one name of letters, digits and '_'.
        svn: security version, digits.
        containers, imports: entries as a policy has them.

    Raises:
        UsageError: a namespace or svn that the utility VM would not accept.
        MalformedInput: an entry is not of the form.
    """
    if not _NAMESPACE.fullmatch(namespace) or namespace in RESERVED:
        reserved = " (reserved)" if namespace in RESERVED else ""
        raise UsageError(
            f"namespace {namespace[:80]!r}{reserved}: wanted letters, digits and '_'",
            hint=f"not one of {', '.join(sorted(RESERVED))}",
        )
    if not _SVN.fullmatch(svn):
        raise UsageError(f"svn {svn[:40]!r}: wanted digits", hint="count it up with every fragment you sign")
    listed = _json(list(containers), compact=compact)
    text = (
        f'package {namespace}\n\nsvn := "{svn}"\nframework_version := "{framework_version}"\n\n'
        f"fragments := {_json(list(imports), compact=False)}\n\ncontainers := {listed}\n"
    ).encode("ascii")
    parse_fragment_text(text)
    return text


def import_of(fragment: FragmentText, *, issuer: str, feed: str, minimum_svn: str = "") -> FragmentImport:
    """The import that accepts this fragment, and later ones; by default from its own svn on.

    Raises:
        UsageError: a minimum_svn that is no number, or above the fragment's own.
    """
    minimum = minimum_svn or fragment.svn
    if not _SVN.fullmatch(minimum) and not _SEMVER.fullmatch(minimum):
        raise UsageError(f"minimum svn {minimum[:40]!r}: wanted digits")
    if not svn_at_least(fragment.svn, minimum):
        raise UsageError(
            f"minimum svn {minimum}: the fragment's own is {fragment.svn}, so it would be refused itself"
        )
    return FragmentImport(issuer, feed, minimum, fragment.includes)


def svn_at_least(svn: str, minimum: str) -> bool:
    """Whether a security version suffices, as the framework compares: numbers, or three-part versions."""
    if _SVN.fullmatch(svn) and _SVN.fullmatch(minimum):
        return int(svn) >= int(minimum)
    if _SEMVER.fullmatch(svn) and _SEMVER.fullmatch(minimum):
        return [int(part) for part in svn.split(".")] >= [int(part) for part in minimum.split(".")]
    return False


def parse_imports(data: bytes, *, what: str = "imports file") -> tuple[FragmentImport, ...]:
    """Read a file of imports; the member `path`, which is for local use, is dropped.

    Raises:
        MalformedInput: not JSON of that form, or no import in it.
    """
    document = as_object(load_json(data, what=what), what)
    if unknown := document.keys() - set(_FILE_MEMBERS):
        raise MalformedInput(f"{what}: member {min(unknown)[:60]!r}, wanted {' and '.join(_FILE_MEMBERS)}")
    found = [
        one
        for name in _FILE_MEMBERS
        for one in each(document.get(name, []), f"{what}: {name}", _local_import)
    ]
    if not found:
        raise MalformedInput(f"{what}: no imports", hint='wanted {"fragments": [...]}')
    return tuple(found)


def local_paths(data: bytes, *, what: str = "imports file") -> tuple[str, ...]:
    """The members `path` of a file of imports: signed fragments on this machine, relative to the file."""
    document = as_object(load_json(data, what=what), what)
    entries = [
        as_object(one, what) for name in _FILE_MEMBERS for one in as_list(document.get(name, []), what)
    ]
    return tuple(as_text(one["path"], f"{what}: path") for one in entries if one.get("path"))


def build_imports(imports: Sequence[FragmentImport]) -> bytes:
    """A file of imports, pretty, as policies have them."""
    return (_json({"fragments": [one.to_json() for one in imports]}, compact=False) + "\n").encode()


def add_import(imports: Sequence[FragmentImport], new: FragmentImport) -> tuple[FragmentImport, ...]:
    """The imports with a new one in the place of the same issuer's and feed's, or at the end."""
    kept = [new if (one.issuer, one.feed) == (new.issuer, new.feed) else one for one in imports]
    return tuple(dict.fromkeys(kept if new in kept else [*kept, new]))


def _local_import(value: object, what: str) -> FragmentImport:
    members = as_object(value, what)
    return parse_import({name: member for name, member in members.items() if name != "path"}, what)


def _json(value: object, *, compact: bool) -> str:
    if compact:
        return json.dumps(value, separators=(",", ":"), sort_keys=True)
    return json.dumps(value, indent=2, sort_keys=True)
