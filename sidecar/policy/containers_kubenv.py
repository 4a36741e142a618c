"""Environment of a Kubernetes container: values, and references to the same file or to the cluster.

Spec: Kubernetes API, EnvVar and EnvVarSource v1; ConfigMap and Secret v1.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.arm_values import find, find_bool, find_list, find_object, find_text, kind
from sidecar.policy.containers import EnvRule, literal_env, wildcard_env
from sidecar.policy.containers_common import Approve, approved, is_thim_placeholder
from sidecar.policy.members import JsonObject

_REFERENCE = re.compile(r"\$\$|\$\((?P<name>[^()$]+)\)")
_MAX_VALUE = 1 << 20


@dataclass(frozen=True, slots=True)
class Sources:
    """What ConfigMaps and Secrets of the same file hold: (name, key) -> value, which may be secret."""

    config_maps: Mapping[tuple[str, str], str]
    secrets: Mapping[tuple[str, str], str]


def parse_sources(objects: Sequence[JsonObject]) -> Sources:
    """The ConfigMaps and Secrets among the documents."""
    config_maps: dict[tuple[str, str], str] = {}
    secrets: dict[tuple[str, str], str] = {}
    for number, one in enumerate(objects):
        named = find_text(one, "kind", f"document {number}")
        if named not in ("ConfigMap", "Secret"):
            continue
        name = find_text(find_object(one, "metadata", named), "name", named) or ""
        what = f"{named} {name!r}"
        target = config_maps if named == "ConfigMap" else secrets
        encoded = "binaryData" if named == "ConfigMap" else "data"
        plain = "data" if named == "ConfigMap" else "stringData"
        for key in find_object(one, encoded, what):
            target[name, key] = _decoded(find_text(find_object(one, encoded, what), key, what) or "", what)
        for key in find_object(one, plain, what):
            target[name, key] = find_text(find_object(one, plain, what), key, what) or ""
    return Sources(config_maps, secrets)


def _decoded(text: str, what: str) -> str:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise MalformedInput(f"{what}: a value is not the base64 of text") from None


def parse_env(container: JsonObject, sources: Sources, approve: Approve, what: str) -> tuple[EnvRule, ...]:
    """The rules of a container's own variables, in order.

    Raises:
        MalformedInput: `envFrom`; a variable without name or value; a reference that is not understood.
    """
    if find(container, "envFrom", what) is not None:
        raise MalformedInput(
            f"{what}: envFrom is not supported", hint="name the variables one by one under env"
        )
    rules: list[EnvRule] = []
    for value in find_list(container, "env", what):
        if not isinstance(value, dict):
            raise MalformedInput(f"{what}: an environment variable is {kind(value)}, wanted an object")
        name = find_text(value, "name", f"{what}: env")
        if not name:
            raise MalformedInput(f"{what}: an environment variable without a name")
        where = f"{what}: environment variable {name!r}"
        rules.append(_rule(value, name, container, sources, rules, approve, where))
    return tuple(rules)


def _rule(
    entry: JsonObject,
    name: str,
    container: JsonObject,
    sources: Sources,
    before: Sequence[EnvRule],
    approve: Approve,
    where: str,
) -> EnvRule:
    source = find_object(entry, "valueFrom", where)
    if source:
        return _from_source(source, name, container, sources, approve, where)
    # An entry without a value is an empty one for Kubernetes.
    text = find_text(entry, "value", where) or ""
    if is_thim_placeholder(name, text):
        return wildcard_env(name, where)
    return literal_env(name, expanded(text, before, where), where)


def expanded(text: str, rules: Sequence[EnvRule], where: str) -> str:
    """`$(NAME)` replaced by the value of one of the rules' variables; `$$` stands for one sign.

    Raises:
        MalformedInput: a name whose value is not known here: the cluster may still expand it.
    """
    size = 0
    known = {rule.name: rule.pattern.partition("=")[2] for rule in rules if rule.strategy == "string"}

    def replace(match: re.Match[str]) -> str:
        nonlocal size
        if match["name"] is None:
            return "$"
        if match["name"] not in known:
            raise MalformedInput(
                f"{where}: refers to {match['name'][:64]!r}, whose value is not known here",
                hint="write the value down, or $$(NAME) for the literal text",
            )
        size += len(known[match["name"]])
        if size > _MAX_VALUE:
            raise MalformedInput(f"{where}: a value of over {_MAX_VALUE} characters")
        return known[match["name"]]

    return _REFERENCE.sub(replace, text)


def _from_source(
    source: JsonObject, name: str, container: JsonObject, sources: Sources, approve: Approve, where: str
) -> EnvRule:
    kinds = [key for key in source if source[key] is not None]
    if len(kinds) != 1:
        raise MalformedInput(f"{where}: valueFrom has {len(kinds)} members, wanted one")
    chosen = kinds[0]
    reference = find_object(source, chosen, where)
    if chosen == "fieldRef":
        return wildcard_env(name, where)
    if chosen == "resourceFieldRef":
        return literal_env(name, _resource(reference, container, where), where)
    tables = {"configMapKeyRef": sources.config_maps, "secretKeyRef": sources.secrets}
    if chosen not in tables:
        raise MalformedInput(f"{where}: valueFrom {chosen!r} is not supported")
    key = (find_text(reference, "name", where) or "", find_text(reference, "key", where) or "")
    if key in tables[chosen]:
        return literal_env(name, tables[chosen][key], where)
    optional = " (optional)" if find_bool(reference, "optional", where) else ""
    question = f"{where}: its value is in {chosen} {key[0]!r}, key {key[1]!r}{optional}, not in this file"
    approved(approve, f"{question}; may it be anything?", question)
    return wildcard_env(name, where)


def _resource(reference: JsonObject, container: JsonObject, where: str) -> str:
    """A limit or a request of the same container, as written."""
    own, other = find_text(container, "name", where), find_text(reference, "containerName", where)
    if other is not None and other != own:
        raise MalformedInput(f"{where}: resourceFieldRef of another container")
    resource = find_text(reference, "resource", where) or ""
    table, _, member = resource.partition(".")
    if table not in ("limits", "requests") or not member:
        raise MalformedInput(f"{where}: resource {resource[:64]!r}, wanted limits.NAME or requests.NAME")
    divisor = find(reference, "divisor", where)
    if divisor is not None and divisor not in ("0", 0):
        raise MalformedInput(f"{where}: resourceFieldRef with a divisor is not supported")
    amount = find(find_object(find_object(container, "resources", where), table, where), member, where)
    if not isinstance(amount, str | int) or isinstance(amount, bool):
        raise MalformedInput(f"{where}: the container sets no {resource}")
    return str(amount)
