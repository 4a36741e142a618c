"""Policies from descriptions: for each group its images are looked up, merged in and written as text.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.containers import ContainerGroup
from sidecar.policy.containers_defaults import (
    INFRASTRUCTURE_FEED,
    INFRASTRUCTURE_SVN,
    STOP_SIGNALS,
    infrastructure_fragment,
    is_sidecar,
    pause_container,
)
from sidecar.policy.containers_merge import MergeOptions, merge
from sidecar.policy.image import ResolvedImage
from sidecar.policy.members import JsonObject
from sidecar.policy.rego import DEFAULT_VERSIONS, Entry, Flags, Policy, Versions, digest, encode, sidecar_text


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What the command line decides for a whole policy."""

    debug: bool = False
    stdio: bool = True
    omit_id: bool = False
    users_as_ids: bool = False
    require_env: bool = False
    identity_2026: bool = False
    env_dropping: bool = True
    default_fragment: bool = True
    infrastructure_svn: str = INFRASTRUCTURE_SVN
    imports: tuple[JsonObject, ...] = ()
    further: tuple[Entry, ...] = ()
    covering: tuple[Entry, ...] = ()
    versions: Versions = DEFAULT_VERSIONS


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """The policy of one group, in every form."""

    group: ContainerGroup
    containers: tuple[Entry, ...]
    fragments: tuple[JsonObject, ...]
    text: str
    pretty: str

    @property
    def encoded(self) -> str:
        """The base64 that the group carries."""
        return encode(self.text)

    @property
    def digest(self) -> str:
        """SHA-256 of the text, hex."""
        return digest(self.text)


def generate(
    group: ContainerGroup, images: Mapping[str, ResolvedImage], options: GenerateOptions
) -> GroupPolicy:
    """The policy of one group.

    Args:
        group: the containers.
        images: every image by the reference that a container names it with.
        options: the command line's choices.

    Raises:
        MalformedInput: a container and its image do not go together.
    """
    own = container_entries(group, images, options)
    if group.containers and is_sidecar(group.containers[0].image):
        texts = [sidecar_text(own, options.versions, pretty=pretty) for pretty in (False, True)]
        return GroupPolicy(group, own, (), *texts)
    # A group of the service's own containers only brings its own pause container.
    if not own or options.further or not all(is_sidecar(spec.image) for spec in group.containers):
        own += (pause_container(stdio=options.stdio, signals=_signals(options)),)
    fragments = _fragments(group, options)
    flags = Flags(
        dump_stacks=options.debug,
        runtime_logging=options.debug,
        environment_variable_dropping=options.env_dropping,
    )
    policy = Policy(own, fragments, flags, options.versions)
    return GroupPolicy(group, own, fragments, policy.text(), policy.text(pretty=True))


def container_entries(
    group: ContainerGroup, images: Mapping[str, ResolvedImage], options: GenerateOptions
) -> tuple[Entry, ...]:
    """The entries of a group's own containers, as a policy or a fragment lists them; no pause container.

    Arguments and errors as of `generate`.
    """
    merging = MergeOptions(
        scenario=group.scenario,
        debug=options.debug,
        stdio=options.stdio,
        omit_id=options.omit_id,
        signals=_signals(options),
        users_as_ids=options.users_as_ids,
        require_env=options.require_env,
        identity_2026=options.identity_2026,
        repeat_processes=options.versions.repeats_processes,
    )
    merged = [merge(spec, images[spec.image], merging) for spec in group.containers]
    kept = (entry for entry in merged if not any(covers(one, entry) for one in options.covering))
    return (*kept, *options.further)


def _signals(options: GenerateOptions) -> tuple[int, ...]:
    return STOP_SIGNALS if options.versions.names_stop_signals else ()


def covers(fragment: Entry, entry: Entry) -> bool:
    """Whether a fragment's container admits all that an entry does, so that the policy need not repeat it.

    Names are not compared, layers are. Further environment rules of the fragment must not be required ones.
    """
    theirs, ours = fragment.to_json(), entry.to_json()
    for name in ("name", "id"):
        theirs.pop(name, None)
        ours.pop(name, None)
    wanted, offered = _rules(ours.pop("env_rules")), _rules(theirs.pop("env_rules"))
    further = [rule for rule in offered if rule not in wanted]
    return theirs == ours and all(rule in offered for rule in wanted) and not any(rule[2] for rule in further)


def _rules(value: object) -> list[tuple[object, object, object]]:
    rules = value if isinstance(value, list) else []
    return [(rule["pattern"], rule["strategy"], rule["required"]) for rule in rules]


def _fragments(group: ContainerGroup, options: GenerateOptions) -> tuple[JsonObject, ...]:
    """The imports: the infrastructure's, the group's own, the command line's; none twice."""
    wanted = options.default_fragment if group.default_fragment is None else group.default_fragment
    default = [infrastructure_fragment(options.infrastructure_svn)] if wanted else []
    found: list[JsonObject] = [] if group.default_fragment_last else list(default)
    for one in (*group.imports, *options.imports):
        same = one.get("feed") == INFRASTRUCTURE_FEED
        if same and wanted:
            raise MalformedInput(
                f"{group.name}: imports the infrastructure's feed beside the default one",
                hint="leave the import out, or pass --exclude-default-fragments",
            )
        if one not in found:
            found.append(one)
    return tuple(found + default if group.default_fragment_last else found)
