"""Container entries and fragment imports of a policy, from the literals of its text to values.

Rules: a member that is unknown, missing where the framework has no default, or of another type is refused
by its path, such as `container "app": env_rules[3]: strategy`; nothing is guessed or dropped, because a
member that we skip is one the utility VM may look at.

Spec: hcsshim, pkg/securitypolicy/framework.rego: members of a container, and what older versions lack.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, NoReturn, TypeVar

from sidecar.errors import MalformedInput
from sidecar.policy.members import CAPABILITY_SETS, Capabilities, ExecProcess, IdName, UserRule
from sidecar.policy.parse_model import Container, EnvRule, FragmentImport, Mount

T = TypeVar("T")
Word = TypeVar("Word", bound=str)
Members = Mapping[str, object]

MAX_ITEMS = 10_000
_LAYER = re.compile(r"[0-9a-f]{64}")
_SVN = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9}){0,2}")
_REQUIRED = frozenset({"command", "env_rules", "layers"})
_OPTIONAL = frozenset(
    {
        "allow_elevated",
        "allow_stdio_access",
        "capabilities",
        "exec_processes",
        "id",
        "mounts",
        "name",
        "no_new_privileges",
        "seccomp_profile_sha256",
        "signals",
        "user",
        "working_dir",
    }
)
_STRATEGIES = {"string": "string", "re2": "re2"}
_ID_STRATEGIES: Mapping[str, Literal["any", "id", "name", "re2"]] = {
    "any": "any",
    "id": "id",
    "name": "name",
    "re2": "re2",
}
INCLUDES = (
    "containers",
    "fragments",
    "external_processes",
    "namespace",
    "transparency_trust_lists",
    "platform_rules",
)


def parse_container(value: object, what: str) -> Container:
    """Read one entry of `containers`; MalformedInput names the member that is wrong."""
    members = as_members(value, what)
    for word in ("name", "id"):
        if isinstance(shown := members.get(word), str):
            what = f"{what} {shown[:80]!r}"
            break
    members = checked(members, what, required=_REQUIRED, optional=_OPTIONAL)
    command, capabilities = members["command"], members.get("capabilities")
    return Container(
        name=_optional_text(members, "name", what),
        id=_optional_text(members, "id", what),
        command=None if command is None else texts(command, f"{what}: command"),
        env_rules=each(members["env_rules"], f"{what}: env_rules", _env_rule),
        layers=each(members["layers"], f"{what}: layers", _layer),
        mounts=each(members.get("mounts", []), f"{what}: mounts", _mount),
        exec_processes=each(members.get("exec_processes", []), f"{what}: exec_processes", _exec_process),
        signals=each(members.get("signals", []), f"{what}: signals", _signal),
        capabilities=None if capabilities is None else _capabilities(capabilities, f"{what}: capabilities"),
        user=_user(members["user"], f"{what}: user") if "user" in members else UserRule(),
        working_dir=text(members.get("working_dir", "/"), f"{what}: working_dir"),
        allow_elevated=flag(members.get("allow_elevated", False), f"{what}: allow_elevated"),
        allow_stdio_access=flag(members.get("allow_stdio_access", False), f"{what}: allow_stdio_access"),
        no_new_privileges=flag(members.get("no_new_privileges", False), f"{what}: no_new_privileges"),
        seccomp_profile_sha256=text(members.get("seccomp_profile_sha256", ""), f"{what}: seccomp_profile"),
    )


def parse_import(value: object, what: str) -> FragmentImport:
    """Read one entry of `fragments`; MalformedInput names the member that is wrong."""
    members = checked(
        as_members(value, what), what, required=frozenset({"feed", "includes", "issuer", "minimum_svn"})
    )
    svn = text(members["minimum_svn"], f"{what}: minimum_svn")
    if not _SVN.fullmatch(svn):
        raise MalformedInput(f"{what}: minimum_svn is {svn[:40]!r}, wanted digits in quotes")
    includes = texts(members["includes"], f"{what}: includes")
    if unknown := set(includes) - set(INCLUDES):
        raise MalformedInput(
            f"{what}: includes {min(unknown)[:40]!r}, wanted some of {', '.join(INCLUDES)}",
        )
    issuer, feed = text(members["issuer"], f"{what}: issuer"), text(members["feed"], f"{what}: feed")
    return FragmentImport(issuer, feed, svn, includes)


# -- members --------------------------------------------------------------------------------------


def _env_rule(value: object, what: str) -> EnvRule:
    members = checked(
        as_members(value, what),
        what,
        required=frozenset({"pattern", "strategy"}),
        optional=frozenset({"required"}),
    )
    return EnvRule(
        text(members["pattern"], f"{what}: pattern"),
        _one_of(members["strategy"], _STRATEGIES, f"{what}: strategy"),
        flag(members.get("required", False), f"{what}: required"),
    )


def _layer(value: object, what: str) -> str:
    layer = text(value, what)
    if not _LAYER.fullmatch(layer):
        raise MalformedInput(f"{what}: {layer[:80]!r}, wanted 64 lower-case hex digits")
    return layer


def _mount(value: object, what: str) -> Mount:
    names = frozenset({"destination", "options", "source", "type"})
    members = checked(as_members(value, what), what, required=names)
    return Mount(
        text(members["destination"], f"{what}: destination"),
        text(members["source"], f"{what}: source"),
        text(members["type"], f"{what}: type"),
        texts(members["options"], f"{what}: options"),
    )


def _exec_process(value: object, what: str) -> ExecProcess:
    # `allow_stdio_access` of old generators has no effect here.
    members = checked(
        as_members(value, what),
        what,
        required=frozenset({"command"}),
        optional=frozenset({"signals", "allow_stdio_access"}),
    )
    return ExecProcess(
        texts(members["command"], f"{what}: command"),
        each(members.get("signals", []), f"{what}: signals", _signal),
    )


def _signal(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 128:
        raise MalformedInput(f"{what}: {str(value)[:40]!r}, wanted the number of a signal")
    return value


def _capabilities(value: object, what: str) -> Capabilities:
    members = checked(as_members(value, what), what, required=frozenset(CAPABILITY_SETS))
    return Capabilities(**{name: texts(members[name], f"{what}: {name}") for name in CAPABILITY_SETS})


def _user(value: object, what: str) -> UserRule:
    names = frozenset({"group_idnames", "umask", "user_idname"})
    members = checked(as_members(value, what), what, required=names)
    return UserRule(
        _id_name(members["user_idname"], f"{what}: user_idname"),
        each(members["group_idnames"], f"{what}: group_idnames", _id_name),
        text(members["umask"], f"{what}: umask"),
    )


def _id_name(value: object, what: str) -> IdName:
    members = checked(as_members(value, what), what, required=frozenset({"pattern", "strategy"}))
    return IdName(
        text(members["pattern"], f"{what}: pattern"),
        _one_of(members["strategy"], _ID_STRATEGIES, f"{what}: strategy"),
    )


# -- checks ---------------------------------------------------------------------------------------


def as_members(value: object, what: str) -> Members:
    """The value as an object; MalformedInput otherwise."""
    return value if isinstance(value, dict) else _wrong(what, "an object")


def checked(
    members: Members, what: str, *, required: frozenset[str], optional: frozenset[str] = frozenset()
) -> Members:
    """The members, when all required ones are there and no unknown one is; MalformedInput otherwise."""
    if missing := required - members.keys():
        raise MalformedInput(f"{what}: member {min(missing)!r} is missing")
    if unknown := members.keys() - required - optional:
        raise MalformedInput(
            f"{what}: member {min(unknown)[:60]!r} is not one this reader knows",
            hint="the policy may be of a newer framework than the ones known here",
        )
    return members


def each(value: object, what: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    """Read every item of an array of bounded length; MalformedInput for another type."""
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        _wrong(what, f"an array of at most {MAX_ITEMS} items")
    return tuple(read(item, f"{what}[{number}]") for number, item in enumerate(value))


def texts(value: object, what: str) -> tuple[str, ...]:
    """An array of strings; MalformedInput otherwise."""
    return each(value, what, text)


def text(value: object, what: str) -> str:
    """A string; MalformedInput otherwise."""
    return value if isinstance(value, str) else _wrong(what, "a string")


def flag(value: object, what: str) -> bool:
    """true or false; MalformedInput otherwise."""
    return value if isinstance(value, bool) else _wrong(what, "true or false")


def _optional_text(members: Members, name: str, what: str) -> str | None:
    return text(members[name], f"{what}: {name}") if name in members else None


def _one_of(value: object, words: Mapping[str, Word], what: str) -> Word:
    if not isinstance(value, str) or value not in words:
        raise MalformedInput(f"{what}: {str(value)[:40]!r}, wanted one of {', '.join(words)}")
    return words[value]


def _wrong(what: str, wanted: str) -> NoReturn:
    raise MalformedInput(f"{what}: of another type, wanted {wanted}")
