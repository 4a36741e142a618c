"""A policy put into a Kubernetes object's annotation, comments and layout kept.

Strategy: as for templates: the place is taken from the parsed tree, the text is edited there, and the result
is read again and compared; what cannot be edited for certain (an annotation behind an alias, say) is refused.

Kind: pure
"""

from __future__ import annotations

import copy

from sidecar.errors import MalformedInput
from sidecar.policy.containers_kubernetes import POLICY_ANNOTATION, Pod
from sidecar.policy.containers_yaml import MAX_DOCUMENT, Node, read_documents


def inject_yaml(text: str, pod: Pod, encoded: str) -> str:
    """The YAML with the policy as annotation of one pod.

    Args:
        text: the YAML stream.
        pod: which pod: its document and its path there.
        encoded: the policy's base64.

    Raises:
        MalformedInput: no place for it that could be edited without touching anything else.
    """
    documents = read_documents(text, "YAML")
    after = _edited(text, documents[pod.document], pod, encoded)
    expected = [document.value() for document in documents]
    expected[pod.document] = _with(expected[pod.document], pod, encoded)
    # The policy itself may be larger than the file it goes into.
    read_back = read_documents(
        after, "YAML with its policy", max_length=MAX_DOCUMENT + len(after) - len(text)
    )
    if [document.value() for document in read_back] != expected:
        raise _cannot(pod, "the text around it cannot be edited for certain")
    return after


def _cannot(pod: Pod, why: str) -> MalformedInput:
    return MalformedInput(
        f"{pod.group.name}: the policy cannot be put in: {why}",
        hint=f"add the annotation {POLICY_ANNOTATION} yourself; --print-policy prints the base64",
    )


def _edited(text: str, document: Node, pod: Pod, encoded: str) -> str:
    """Replace the annotation, or add it and what is missing above it."""
    names = [*pod.path, "metadata", "annotations", POLICY_ANNOTATION]
    parent = node = document
    for depth, name in enumerate(names):
        if node.shared:
            raise _cannot(pod, "it is behind an anchor or an alias")
        child = node.get(name)
        if child is None:
            return _add(text, node, names[depth:], encoded, pod)
        if child.kind == "scalar" and child.scalar is None and depth < len(names) - 1:
            return _fill(text, node, child, names[depth + 1 :], encoded)
        parent, node = node, child
    if node.shared:
        raise _cannot(pod, "it is behind an anchor or an alias")
    return _replace(text, parent, node, encoded, pod)


def _colon(text: str, parent: Node, value: Node) -> int:
    """Where the colon of a member without a value ends: the parser places such a value further down."""
    key = next(key for key, one in parent.pairs if one is value)
    return text.index(":", key.end) + 1


def _replace(text: str, parent: Node, node: Node, encoded: str, pod: Pod) -> str:
    if node.kind != "scalar":
        raise _cannot(pod, "the annotation is not text")
    old = text[node.start : node.end]
    if not old:
        at = _colon(text, parent, node)
        return f"{text[:at]} {encoded}{text[at:]}"
    # A block scalar's text reaches over its last line end.
    ending = "\r\n" if old.endswith("\r\n") else "\n" if old.endswith("\n") else ""
    return text[: node.start] + encoded + ending + text[node.end :]


def _add(text: str, node: Node, names: list[str], encoded: str, pod: Pod) -> str:
    """A new first member of a mapping, in the mapping's own style."""
    if node.kind != "mapping":
        raise _cannot(pod, f"wanted a mapping to hold {names[0]!r}")
    if node.flow:
        body = (
            "".join(f"{name}: {{" for name in names[:-1]) + f"{names[-1]}: {encoded}" + "}" * (len(names) - 1)
        )
        comma = ", " if node.pairs else ""
        at = node.start + 1
        return f"{text[:at]}{body}{comma}{text[at:]}"
    first = node.pairs[0][0]
    block = _block(names, encoded, first.column, _newline(text))
    return f"{text[: first.start]}{block}{_newline(text)}{' ' * first.column}{text[first.start :]}"


def _fill(text: str, parent: Node, empty: Node, names: list[str], encoded: str) -> str:
    """A mapping for a key that has none: `annotations:` with nothing after it."""
    start = _colon(text, parent, empty)
    # A written `null` goes; where nothing is written, the parser's place for it is further down.
    end = empty.end if empty.end > empty.start else start
    if parent.flow:
        body = (
            "{" + "".join(f"{name}: {{" for name in names[:-1]) + f"{names[-1]}: {encoded}" + "}" * len(names)
        )
        return f"{text[:start]} {body}{text[end:]}"
    column = next(key.column for key, value in parent.pairs if value is empty) + 2
    newline = _newline(text)
    if end == start:
        # A comment may stand after the colon: the mapping begins on the next line.
        line_end = text.find(newline, start)
        start = end = line_end if line_end >= 0 else len(text)
    return f"{text[:start]}{newline}{' ' * column}{_block(names, encoded, column, newline)}{text[end:]}"


def _block(names: list[str], encoded: str, column: int, newline: str) -> str:
    """Nested `name:` lines; the first one starts where the caller stands."""
    lines = [f"{' ' * (2 * depth)}{name}:" for depth, name in enumerate(names)]
    lines[-1] += f" {encoded}"
    return (newline + " " * column).join(lines)


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _with(document: object, pod: Pod, encoded: str) -> object:
    made = copy.deepcopy(document)
    node = made
    for name in (*pod.path, "metadata", "annotations"):
        if not isinstance(node, dict):
            return None
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
    if isinstance(node, dict):
        node[POLICY_ANNOTATION] = encoded
    return made
