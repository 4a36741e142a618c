"""An ARM template evaluated: parameters, variables, functions and copy loops, as far as they ask nobody.

Strategy: lazy. Only what a policy needs is evaluated, so that `[resourceGroup().location]` on a resource does
not stand in the way of its containers; a variable is evaluated when an expression asks for it, once.

Rules: what cannot be known here (a parameter without a value, a secret of a vault, `reference`, `listKeys`)
raises KnownLater and names what it waits for; the caller decides whether that may be anything at all. What
is not understood raises MalformedInput. Nothing passes through as literal text. Work and size are bounded.

Spec: Azure Resource Manager, "Understand the structure and syntax of ARM templates", "Property iteration".

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sidecar.errors import MalformedInput
from sidecar.policy.arm_expression import Call, Literal, Node, Step, is_expression, literal_text, parse, shown
from sidecar.policy.arm_functions import FUNCTIONS, call
from sidecar.policy.arm_values import KnownLater, find, find_list, find_object, find_text, kind
from sidecar.strictjson import JsonObject, load_object

MAX_TEMPLATE = 4 << 20  # bytes; Resource Manager's own limit
_MAX_STEPS = 200_000
_MAX_DEPTH = 64
_MAX_HANDLED = 64 << 20  # characters and items that all functions together read and make
_MAX_COPIES = 800  # iterations of one loop; Resource Manager's own limit
# Resource Manager takes comments in templates. A string that does not end is left to the reader of JSON.
_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\r\n]*|/\*.*?\*/', re.DOTALL)
# Answered by the cloud, the clock or chance: nothing before the deployment knows them.
_RUNTIME = re.compile(
    r"reference|references|list[a-z0-9]*|resourceid|subscriptionresourceid|tenantresourceid|extensionresourceid|"
    r"managementgroupresourceid|resourcegroup|subscription|tenant|managementgroup|deployment|deployer|environment|"
    r"providers|pickzones|getsecret|newguid|utcnow|uniquestring|toLogicalZone.*",
    re.IGNORECASE,
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "securestring": str, "int": int, "bool": bool,
    "object": dict, "secureobject": dict, "array": list,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression sees beside the template: loop counters and a function's own parameters."""

    counters: Mapping[str, int] = field(default_factory=dict)
    arguments: Mapping[str, object] | None = None


class Template:
    """A template with the values of its parameters.

    Args:
        body: the template.
        parameters: the `parameters` member of a parameters file; None without one.

    Raises:
        MalformedInput: a parameter that the template does not declare, or one of another type than declared.
    """

    def __init__(self, body: JsonObject, parameters: JsonObject | None = None) -> None:
        self.body = body
        self._declared = find_object(body, "parameters", "template")
        self._given = parameters or {}
        self._variables = find_object(body, "variables", "template")
        self._functions = _functions(body)
        self._known: dict[str, object] = {}
        self._open: list[str] = []
        self._steps = 0
        self._handled = 0
        for name in self._given:
            if find(self._declared, name, "template parameters") is None:
                raise MalformedInput(
                    f"parameters file: parameter {name!r} is not declared by the template",
                    hint="names declared: " + (", ".join(self._declared) or "none"),
                )

    # -- values ---------------------------------------------------------------------------------------

    def value(self, raw: object, scope: Scope | None = None, depth: int = 0) -> object:
        """A value of the template with every expression in it evaluated."""
        scope = scope or Scope()
        self._step(depth)
        if isinstance(raw, str):
            return self.text(raw, scope, depth)
        if isinstance(raw, list):
            return [self.value(item, scope, depth + 1) for item in raw]
        if isinstance(raw, dict):
            return self._object(raw, scope, depth)
        return raw

    def text(self, raw: str, scope: Scope | None = None, depth: int = 0) -> object:
        """A string of the template: an expression evaluated, or the literal text."""
        if not is_expression(raw):
            return literal_text(raw)
        try:
            return self._node(parse(raw), scope or Scope(), depth + 1)
        except KnownLater:
            raise
        except MalformedInput as exc:
            if str(exc).startswith("expression "):
                raise
            raise MalformedInput(f"expression {shown(raw)}: {exc}", hint=exc.hint) from None

    def _object(self, raw: JsonObject, scope: Scope, depth: int) -> JsonObject:
        made: JsonObject = {}
        for name, item in raw.items():
            loops = _loops(item) if name.lower() == "copy" else None
            if loops is not None:
                for loop in loops:
                    made |= self._loop(loop, scope, depth + 1)
            else:
                made[str(self.text(name, scope, depth))] = self.value(item, scope, depth + 1)
        return made

    def _loop(self, loop: JsonObject, scope: Scope, depth: int) -> JsonObject:
        """One property iteration: {name, count, input} makes the array `name`."""
        name = find_text(loop, "name", "copy")
        count = self.value(find(loop, "count", "copy"), scope, depth)
        if name is None or not isinstance(count, int) or isinstance(count, bool):
            raise MalformedInput("copy: wanted a name and a number as count")
        if not 0 <= count <= _MAX_COPIES:
            raise MalformedInput(f"copy {name!r}: {count} iterations, at most {_MAX_COPIES} are accepted")
        made = find(loop, "input", "copy")
        scopes = [Scope({**scope.counters, name.lower(): at}, scope.arguments) for at in range(count)]
        return {name: [self.value(made, one, depth) for one in scopes]}

    def _step(self, depth: int) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise MalformedInput(f"template: over {_MAX_STEPS} steps to evaluate")
        if depth > _MAX_DEPTH:
            raise MalformedInput(f"template: nested more than {_MAX_DEPTH} levels deep")

    def _charge(self, *values: object) -> None:
        """Account for what a function reads and makes."""
        self._handled += sum(len(value) for value in values if isinstance(value, str | list | dict))
        if self._handled > _MAX_HANDLED:
            raise MalformedInput(f"template: its expressions handle over {_MAX_HANDLED} characters")

    # -- expressions ----------------------------------------------------------------------------------

    def _node(self, node: Node, scope: Scope, depth: int) -> object:
        self._step(depth)
        if isinstance(node, Literal):
            return node.value
        if isinstance(node, Step):
            return _member(self._node(node.base, scope, depth + 1), self._node(node.key, scope, depth + 1))
        return self._call(node, scope, depth)

    def _call(self, node: Call, scope: Scope, depth: int) -> object:
        name = node.name.lower()
        special = {
            "parameters": self._parameters, "variables": self._variable, "copyindex": self._copy_index,
            "if": self._if, "coalesce": self._coalesce, "and": self._and, "or": self._or,
        }.get(name)  # fmt: skip
        if special is not None:
            return special(node, scope, depth)
        if "." in name:
            return self._user_function(node, scope, depth)
        if name in FUNCTIONS:
            arguments = [self._node(one, scope, depth + 1) for one in node.arguments]
            self._charge(*arguments)
            result = call(node.name, arguments)
            self._charge(result)
            return result
        if _RUNTIME.fullmatch(name):
            raise KnownLater(
                f"function {node.name}: only the deployment can answer it",
                hint="pass the value as a parameter, or write it down",
            )
        raise MalformedInput(f"function {node.name}: not known")

    def _one_name(self, node: Call, scope: Scope, depth: int) -> str:
        names = [self._node(one, scope, depth + 1) for one in node.arguments]
        if len(names) != 1 or not isinstance(names[0], str):
            raise MalformedInput(f"function {node.name}: wanted one name")
        return names[0]

    def _parameters(self, node: Call, scope: Scope, depth: int) -> object:
        name = self._one_name(node, scope, depth)
        if scope.arguments is not None:
            found = [value for key, value in scope.arguments.items() if key.lower() == name.lower()]
            if not found:
                raise MalformedInput(f"parameter {name!r}: not one of the function's")
            return found[0]
        return self._once(f"parameter {name!r}", lambda: self._parameter(name, depth))

    def _parameter(self, name: str, depth: int) -> object:
        declared = find(self._declared, name, "template parameters")
        if not isinstance(declared, dict):
            raise MalformedInput(f"parameter {name!r}: not declared by the template")
        given = find(self._given, name, "parameters file")
        what = f"parameter {name!r}"
        if isinstance(given, dict):
            if find(given, "reference", what) is not None:
                raise KnownLater(f"{what}: its value is a secret of a key vault")
            # A parameters file is data: brackets in it are literal text.
            value = _present(given, "value", what)
        else:
            member = next((key for key in ("value", "defaultValue") if _has(declared, key)), None)
            if member is None:
                raise KnownLater(
                    f"{what}: has no value and no default", hint="give it in a parameters file: -p FILE"
                )
            value = self.value(find(declared, member, what), Scope(), depth + 1)
        return _checked(value, declared, what)

    def _variable(self, node: Call, scope: Scope, depth: int) -> object:
        name = self._one_name(node, scope, depth)
        return self._once(f"variable {name!r}", lambda: self._variable_value(name, depth))

    def _variable_value(self, name: str, depth: int) -> object:
        loops = [one for one in find_list(self._variables, "copy", "variables") if isinstance(one, dict)]
        for loop in loops:
            if (find_text(loop, "name", "copy") or "").lower() == name.lower():
                return next(iter(self._loop(loop, Scope(), depth + 1).values()))
        keys = [key for key in self._variables if key.lower() == name.lower() and key.lower() != "copy"]
        if not keys:
            raise MalformedInput(f"variable {name!r}: not defined by the template")
        return self.value(find(self._variables, name, "variables"), Scope(), depth + 1)

    def _once(self, what: str, compute: Callable[[], object]) -> object:
        key = what.lower()
        if key in self._known:
            return self._known[key]
        if key in self._open:
            raise MalformedInput(f"{what}: depends on itself: {' -> '.join([*self._open, key])}")
        self._open.append(key)
        try:
            self._known[key] = compute()
        finally:
            self._open.pop()
        return self._known[key]

    def _copy_index(self, node: Call, scope: Scope, depth: int) -> object:
        values = [self._node(one, scope, depth + 1) for one in node.arguments]
        name = None
        if values and isinstance(values[0], str):
            name, values = values[0].lower(), values[1:]
        offset = values.pop(0) if values else 0
        if not scope.counters or (name is not None and name not in scope.counters):
            raise KnownLater("function copyIndex: outside of a loop over properties")
        if values or not isinstance(offset, int):
            raise MalformedInput("function copyIndex: wanted a loop's name and an offset")
        counter = scope.counters[name] if name is not None else list(scope.counters.values())[-1]
        return counter + offset

    def _if(self, node: Call, scope: Scope, depth: int) -> object:
        if len(node.arguments) != 3:
            raise MalformedInput("function if: wanted a condition and two values")
        chosen = node.arguments[1 if self._truth(node.arguments[0], "if", scope, depth) else 2]
        return self._node(chosen, scope, depth + 1)

    def _truth(self, node: Node, name: str, scope: Scope, depth: int) -> bool:
        value = self._node(node, scope, depth + 1)
        if not isinstance(value, bool):
            raise MalformedInput(f"function {name}: {kind(value)}, wanted true or false")
        return value

    def _and(self, node: Call, scope: Scope, depth: int) -> bool:
        return all(self._truth(one, "and", scope, depth) for one in node.arguments)

    def _or(self, node: Call, scope: Scope, depth: int) -> bool:
        return any(self._truth(one, "or", scope, depth) for one in node.arguments)

    def _coalesce(self, node: Call, scope: Scope, depth: int) -> object:
        for one in node.arguments:
            value = self._node(one, scope, depth + 1)
            if value is not None:
                return value
        return None

    def _user_function(self, node: Call, scope: Scope, depth: int) -> object:
        if node.name.lower() not in self._functions:
            raise MalformedInput(f"function {node.name}: not defined by the template")
        definition = self._functions[node.name.lower()]
        names = [
            find_text(one, "name", "function parameter") or ""
            for one in find_list(definition, "parameters", node.name)
            if isinstance(one, dict)
        ]
        if len(names) != len(node.arguments):
            raise MalformedInput(
                f"function {node.name}: {len(node.arguments)} arguments, wanted {len(names)}"
            )
        values = [self._node(one, scope, depth + 1) for one in node.arguments]
        output = find_object(definition, "output", node.name)
        inner = Scope(arguments=dict(zip(names, values, strict=True)))
        return self.value(find(output, "value", node.name), inner, depth + 1)


def parse_template(data: bytes, parameters: Sequence[bytes] = ()) -> Template:
    """Read a template and its parameters files; a later file's values count more.

    Raises:
        MalformedInput: not JSON, duplicate members, too large; a parameters file without `parameters`.
    """
    body = load_object(template_text(data), what="template", max_bytes=MAX_TEMPLATE)
    values: JsonObject = {}
    for one in parameters:
        given = load_object(template_text(one), what="parameters file", max_bytes=MAX_TEMPLATE)
        if find(given, "parameters", "parameters file") is None:
            raise MalformedInput("parameters file: member 'parameters' is missing")
        later = find_object(given, "parameters", "parameters file")
        names = {name.lower() for name in later}
        values = {name: value for name, value in values.items() if name.lower() not in names} | later
    return Template(body, values)


def template_text(data: bytes | str) -> str:
    """A template's text with spaces for what JSON does not have: its comments, and a byte order mark.

    Every character keeps its place, so that the text can be edited where its values are found.

    Raises:
        MalformedInput: not UTF-8.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedInput(f"template: not UTF-8 at byte {exc.start}") from None
    blank = re.sub(r"^\ufeff", " ", text)
    return _STRING_OR_COMMENT.sub(_without_comment, blank)


def _without_comment(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith('"') else re.sub(r"[^\r\n]", " ", match[0])


def without_mark(data: bytes) -> bytes:
    """The bytes without the byte order mark that editors on Windows write."""
    return data.removeprefix(b"\xef\xbb\xbf")


def _functions(body: JsonObject) -> dict[str, JsonObject]:
    """The template's own functions by `namespace.name` in lower case."""
    found: dict[str, JsonObject] = {}
    for space in find_list(body, "functions", "template"):
        if not isinstance(space, dict):
            raise MalformedInput(f"template functions: {kind(space)}, wanted an object")
        prefix = find_text(space, "namespace", "template functions") or ""
        for name, definition in find_object(space, "members", "template functions").items():
            if isinstance(definition, dict):
                found[f"{prefix}.{name}".lower()] = definition
    return found


def _loops(item: object) -> list[JsonObject] | None:
    """The loops of a `copy` member; None where it is none: a resource's own is an object, not a list."""
    if not isinstance(item, list):
        return None
    loops = [one for one in item if isinstance(one, dict) and _has(one, "count")]
    return loops if len(loops) == len(item) else None


def _has(obj: JsonObject, name: str) -> bool:
    return any(key.lower() == name.lower() for key in obj)


def _present(obj: JsonObject, name: str, what: str) -> object:
    if not _has(obj, name):
        raise KnownLater(f"{what}: has no value in the parameters file")
    return find(obj, name, what)


def _checked(value: object, declared: JsonObject, what: str) -> object:
    """The value, held against the declared type and the allowed values."""
    declared_type = (find_text(declared, "type", what) or "").lower()
    wanted = _TYPES.get(declared_type)
    wrong = wanted is not None and value is not None and not isinstance(value, wanted)
    if wrong or (declared_type == "int" and isinstance(value, bool)):
        raise MalformedInput(f"{what}: is {kind(value)}, declared as {declared_type}")
    allowed = find_list(declared, "allowedValues", what)
    if allowed and value not in allowed:
        raise MalformedInput(f"{what}: its value is not one of the {len(allowed)} allowed ones")
    return value


def _member(base: object, key: object) -> object:
    """A step into a value: a member by name, whatever its case, or an element by number."""
    if isinstance(base, dict) and isinstance(key, str):
        if not _has(base, key):
            raise MalformedInput(f"member {key!r} is missing")
        return find(base, key, "value")
    if isinstance(base, list | str) and isinstance(key, int) and not isinstance(key, bool):
        if not 0 <= key < len(base):
            raise MalformedInput(f"element {key} of {len(base)}")
        return base[key]
    raise MalformedInput(f"a step into {kind(base)}")
