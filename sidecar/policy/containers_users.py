"""Users and groups of an image, from its own /etc/passwd and /etc/group.

Strategy: the policy names a user the way the image does, as the UVM looks the name up in the same measured
layers. The files say whether the name is there at all; and, when asked, which numbers it stands for.

Rules: a name the image does not have is an error: the container could never start under the policy. Lines
that are not of the form are skipped, as the C library does; both files are bounded.

Spec: passwd(5), group(5); OCI image specification 1.1, config.md, `User`: user, uid, user:group, uid:gid, ...

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.containers import SecurityContext
from sidecar.policy.image import ResolvedImage
from sidecar.policy.members import IdName, UserRule

_MAX_FILE = 1 << 20
_MAX_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def user_rule(
    security: SecurityContext, image: ResolvedImage, what: str, *, as_ids: bool = False
) -> UserRule:
    """Whom the container runs as: the description's user, else the image's, else anyone.

    Args:
        security: the description's wishes.
        image: the image, with its account files.
        what: the words that name the container in errors.
        as_ids: name the user and the groups by number, from the image's account files.

    Raises:
        MalformedInput: the image has no such user or group; or its `User` is not of the form.
    """
    user, _, group = image.config.user.partition(":")
    if security.run_as_user is not None:
        user, group = str(security.run_as_user), ""
    if security.run_as_group is not None:
        group = str(security.run_as_group)
    _check_there(image, user, group, what)
    if as_ids and user:
        return _by_number(image, user, group, security.further_groups, what)
    groups = [_idname(group)]
    if group:
        groups += [IdName(str(gid), "id") for gid in security.further_groups]
    return UserRule(_idname(user), tuple(groups))


def _idname(text: str) -> IdName:
    if not text:
        return IdName()
    return IdName(text, "id" if _is_number(text) else "name")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _check_there(image: ResolvedImage, user: str, group: str, what: str) -> None:
    for text in (user, group):
        if _is_number(text) and int(text) > _MAX_ID:
            raise MalformedInput(f"{what}: user or group {text}, at most {_MAX_ID} is accepted")
    if user and not _is_number(user) and image.passwd is not None and _user(image, user) is None:
        raise MalformedInput(
            f"{what}: user {user!r} is not in the image's /etc/passwd", hint="the container could never start"
        )
    if group and not _is_number(group) and image.group is not None and _group(image, group) is None:
        raise MalformedInput(
            f"{what}: group {group!r} is not in the image's /etc/group",
            hint="the container could never start",
        )


def _by_number(image: ResolvedImage, user: str, group: str, further: tuple[int, ...], what: str) -> UserRule:
    account = _user(image, user)
    if account is None and not _is_number(user):
        raise MalformedInput(f"{what}: user {user!r}: the image has no /etc/passwd to look it up in")
    uid = account.uid if account is not None else int(user)
    # The kernel's default for a user without an account.
    gid = account.gid if account is not None else 0
    if group:
        found = _group(image, group)
        if found is None and not _is_number(group):
            raise MalformedInput(f"{what}: group {group!r}: the image has no /etc/group to look it up in")
        gid = found.gid if found is not None else int(group)
    name = account.name if account is not None else ""
    gids = [gid, *(one.gid for one in _groups(image) if name and name in one.members), *further]
    return UserRule(IdName(str(uid), "id"), tuple(IdName(str(one), "id") for one in dict.fromkeys(gids)))


def _user(image: ResolvedImage, text: str) -> _User | None:
    """The account of a name or a number; the first one counts, as for the C library."""
    accounts = _users(image)
    return next(
        (one for one in accounts if text in (one.name, str(one.uid) if _is_number(text) else "")), None
    )


def _group(image: ResolvedImage, text: str) -> _Group | None:
    return next(
        (one for one in _groups(image) if text in (one.name, str(one.gid) if _is_number(text) else "")), None
    )


def _users(image: ResolvedImage) -> list[_User]:
    rows = _rows(image.passwd, "/etc/passwd", 7)
    return [_User(row[0], int(row[2]), int(row[3])) for row in rows if _ids(row[2], row[3])]


def _groups(image: ResolvedImage) -> list[_Group]:
    rows = _rows(image.group, "/etc/group", 4)
    return [
        _Group(row[0], int(row[2]), tuple(filter(None, row[3].split(",")))) for row in rows if _ids(row[2])
    ]


def _ids(*texts: str) -> bool:
    return all(_is_number(text) and len(text) <= 10 and int(text) <= _MAX_ID for text in texts)


def _rows(data: bytes | None, name: str, fields: int) -> list[list[str]]:
    if data is None:
        return []
    if len(data) > _MAX_FILE:
        raise MalformedInput(f"image's {name}: {len(data)} bytes, at most {_MAX_FILE} are accepted")
    rows = [line.strip().split(":") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    return [row for row in rows if len(row) == fields and row[0] and not row[0].startswith("#")]
