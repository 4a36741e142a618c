"""What changed between two security policies, in the policies' own terms.

Strategy: containers are matched by name, then by image, then by layers, then by their place; members of
matched ones are compared as lists where order counts (command, layers), and as collections where the
utility VM looks for any match (environment rules, mounts, processes, capabilities). What only the text's
bytes can tell apart (white space, order of members) is said in so many words, because it changes the digest
as well.

Kind: pure
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sidecar.policy.digest import FoundPolicy
from sidecar.policy.inspect_text import Paint, command_line, shown
from sidecar.policy.members import CAPABILITY_SETS, IdName
from sidecar.policy.parse import parse_policy
from sidecar.policy.parse_model import FLAGS, Container, EnvRule, FragmentImport, Mount, Policy

JsonObject = dict[str, object]
_ONLY_TEXT = "the same rules, written differently: only the text's bytes differ"
_ONLY_ORDER = "the same rules in another order"


class Kind(StrEnum):
    """How a thing changed."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: where, what, and how it reads in the old and the new policy ("" where it is not)."""

    where: str
    what: str
    kind: Kind
    before: str = ""
    after: str = ""

    def to_json(self) -> JsonObject:
        return {
            "where": self.where,
            "what": self.what,
            "kind": str(self.kind),
            "before": self.before,
            "after": self.after,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """Two policies held against each other; `changes` is empty only when the digests are equal."""

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def same(self) -> bool:
        return self.before == self.after

    def to_json(self) -> JsonObject:
        return {
            "before": self.before,
            "after": self.after,
            "same": self.same,
            "changes": [change.to_json() for change in self.changes],
        }


def compare(before: FoundPolicy, after: FoundPolicy) -> Difference:
    """Compare two policies.

    Raises:
        MalformedInput: one of them is not of the generated form.
    """
    if before.digest == after.digest:
        return Difference(before.digest, after.digest, ())
    old, new = parse_policy(before.text, what="the first policy"), parse_policy(after.text, what="the second")
    changes = tuple(compare_policies(old, new))
    if not changes:
        words = _ONLY_TEXT if old == new else _ONLY_ORDER
        changes = (Change("policy", words, Kind.CHANGED),)
    return Difference(before.digest, after.digest, changes)


def compare_policies(old: Policy, new: Policy) -> Iterator[Change]:
    """Every change of meaning, the policy's own settings first, then container by container."""
    for name in ("package", "api_version", "framework_version"):
        yield from _scalar("policy", name, getattr(old, name), getattr(new, name))
    for name in FLAGS:
        yield from _scalar("flag", name, _word(old.flag(name)), _word(new.flag(name)))
    yield from _points(old, new)
    yield from _fragments(old.fragments, new.fragments)
    for one, other in match_containers(old.containers, new.containers):
        if one and other:
            yield from compare_containers(one, other)
        elif one:
            yield Change("containers", "container", Kind.REMOVED, before=_short(one))
        elif other:
            yield Change("containers", "container", Kind.ADDED, after=_short(other))


def match_containers(
    old: Sequence[Container], new: Sequence[Container]
) -> list[tuple[Container | None, Container | None]]:
    """Pairs of what is the same container to people; None where there is no counterpart."""
    left, right = list(old), list(new)
    pairs: dict[int, int] = {}
    keys: tuple[Callable[[Container], object], ...] = (
        lambda c: (c.name, c.id) if c.name and c.id else None,
        lambda c: c.name,
        lambda c: c.id,
        lambda c: c.layers or None,
        # An image that moved on, under another name and place, is another container.
        lambda c: (c.command, c.working_dir) if c.command else None,
    )
    for key in keys:
        waiting: dict[object, list[int]] = {}
        for number, container in enumerate(right):
            if number not in pairs.values() and (value := key(container)) is not None:
                waiting.setdefault(value, []).append(number)
        for number, container in enumerate(left):
            if number not in pairs and (found := waiting.get(key(container))):
                pairs[number] = found.pop(0)
    taken = set(pairs.values())
    matched: list[tuple[Container | None, Container | None]] = [
        (container, right[pairs[number]] if number in pairs else None)
        for number, container in enumerate(left)
    ]
    return matched + [(None, container) for number, container in enumerate(right) if number not in taken]


def compare_containers(old: Container, new: Container) -> Iterator[Change]:
    """What changed in one container."""
    where = f"container {shown(new.label)}"
    yield from _scalar(where, "name", old.name or "", new.name or "")
    yield from _scalar(where, "image", old.id or "", new.id or "")
    yield from _layers(where, old.layers, new.layers)
    yield from _scalar(where, "command", *(_command(c) for c in (old, new)))
    yield from _scalar(where, "directory", old.working_dir, new.working_dir)
    yield from _environment(where, old, new)
    yield from _collection(where, "mount", *([_mount(m) for m in c.mounts] for c in (old, new)))
    yield from _collection(
        where, "process", *([command_line(p.command) for p in c.exec_processes] for c in (old, new))
    )
    yield from _collection(where, "signal", *([str(s) for s in c.signals] for c in (old, new)))
    yield from _capabilities(where, old, new)
    yield from _scalar(where, "user", *(_id_name(c.user.user) for c in (old, new)))
    yield from _collection(where, "group", *([_id_name(g) for g in c.user.groups] for c in (old, new)))
    yield from _scalar(where, "umask", old.user.umask, new.user.umask)
    yield from _scalar(where, "seccomp profile", old.seccomp_profile_sha256, new.seccomp_profile_sha256)
    for name, words in (
        ("allow_elevated", "privileged"),
        ("allow_stdio_access", "standard streams open to the host"),
        ("no_new_privileges", "no new privileges"),
    ):
        yield from _scalar(where, words, _word(getattr(old, name)), _word(getattr(new, name)))


def describe_difference(difference: Difference, paint: Paint | None = None) -> str:
    """The difference in lines for a terminal."""
    paint = paint or Paint()
    if difference.same:
        return f"the same policy, digest {difference.before}"
    lines = [f"digest {paint.bad(difference.before)}", f"    -> {paint.good(difference.after)}"]
    where = ""
    for change in difference.changes:
        if change.where != where:
            where = change.where
            lines += ["", paint.head(where)]
        lines += _change_lines(change, paint)
    return "\n".join(lines)


def _change_lines(change: Change, paint: Paint) -> list[str]:
    if change.kind is Kind.ADDED:
        return [paint.good(f"  + {change.what}: {change.after}")]
    if change.kind is Kind.REMOVED:
        return [paint.bad(f"  - {change.what}: {change.before}")]
    if not (change.before or change.after):
        return [f"  {change.what}"]
    before, after = change.before or "none", change.after or "none"
    if len(before) + len(after) < 80:
        return [f"  {change.what}: {paint.bad(before)} -> {paint.good(after)}"]
    return [f"  {change.what}:", paint.bad(f"    - {before}"), paint.good(f"    + {after}")]


# -- members --------------------------------------------------------------------------------------


def _scalar(where: str, what: str, old: str, new: str) -> Iterator[Change]:
    if old != new:
        yield Change(where, what, Kind.CHANGED, shown(old), shown(new))


def _collection(where: str, what: str, old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    """Members of which any may match: order and repetition mean nothing, except that a count may change."""
    gone, come = Counter(old) - Counter(new), Counter(new) - Counter(old)
    yield from (Change(where, what, Kind.REMOVED, before=item) for item in gone.elements())
    yield from (Change(where, what, Kind.ADDED, after=item) for item in come.elements())


def _layers(where: str, old: tuple[str, ...], new: tuple[str, ...]) -> Iterator[Change]:
    if old == new:
        return
    for number in range(max(len(old), len(new))):
        before, after = ("".join(layers[number : number + 1]) for layers in (old, new))
        kind = Kind.ADDED if not before else Kind.REMOVED if not after else Kind.CHANGED
        if before != after:
            yield Change(where, f"layer {number}", kind, before, after)


def _environment(where: str, old: Container, new: Container) -> Iterator[Change]:
    """A variable whose rule changed is one change; a name with several rules is compared as a collection."""
    names = list(dict.fromkeys(rule.name for container in (old, new) for rule in container.env_rules))
    for name in names:
        before, after = ([_rule(r) for r in c.env_rules if r.name == name] for c in (old, new))
        if len(before) == len(after) == 1:
            yield from _scalar(where, "environment", before[0], after[0])
        else:
            yield from _collection(where, "environment", before, after)


def _rule(rule: EnvRule) -> str:
    kind = "pattern" if rule.strategy == "re2" else "exactly"
    return f"{shown(rule.pattern)} ({kind}{', required' if rule.required else ''})"


def _mount(mount: Mount) -> str:
    options = " ".join(map(shown, mount.options))
    return f"{shown(mount.destination)} from {shown(mount.source)} ({shown(mount.type)}: {options})"


def _capabilities(where: str, old: Container, new: Container) -> Iterator[Change]:
    if (old.capabilities is None) != (new.capabilities is None):
        words = ["computed" if c.capabilities is None else "listed" for c in (old, new)]
        yield Change(where, "capabilities", Kind.CHANGED, *words)
        return
    for name in CAPABILITY_SETS:
        before, after = (sorted(set(getattr(c.capabilities, name, ()))) for c in (old, new))
        yield from _collection(where, f"{name} capability", list(map(shown, before)), list(map(shown, after)))


def _short(container: Container) -> str:
    image = container.id or f"{len(container.layers)} layers"
    return f"{shown(container.label)} ({shown(image)})"


def _command(container: Container) -> str:
    return "" if container.command is None else command_line(container.command)


def _id_name(rule: IdName) -> str:
    return "any" if rule.strategy == "any" else f"{rule.strategy} {shown(rule.pattern)}"


def _points(old: Policy, new: Policy) -> Iterator[Change]:
    before, after = ({p.name: p.words for p in policy.points} for policy in (old, new))
    for name in dict.fromkeys([*before, *after]):
        yield from _scalar("enforcement points", name, before.get(name, ""), after.get(name, ""))


def _fragments(old: Sequence[FragmentImport], new: Sequence[FragmentImport]) -> Iterator[Change]:
    before, after = ({(f.issuer, f.feed): f for f in side} for side in (old, new))
    for key in dict.fromkeys([*before, *after]):
        one, other = before.get(key), after.get(key)
        where = f"fragment {shown(key[1])}"
        if one and other:
            yield from _scalar(where, "minimum svn", one.minimum_svn, other.minimum_svn)
            yield from _collection(where, "adds", one.includes, other.includes)
        elif one:
            yield Change(where, "fragment", Kind.REMOVED, before=f"issuer {shown(one.issuer)}")
        elif other:
            yield Change(where, "fragment", Kind.ADDED, after=f"issuer {shown(other.issuer)}")


def _word(on: bool) -> str:
    return "yes" if on else "no"
