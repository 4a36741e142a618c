"""Template expressions: what they stand for, what only the deployment knows, what is refused by name."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.policy.arm import Template, parse_template
from sidecar.policy.arm_expression import is_expression, literal_text, parse
from sidecar.policy.arm_functions import FUNCTIONS
from sidecar.policy.arm_values import KnownLater

PARAMETERS: dict[str, Any] = {
    "name": {"type": "string", "defaultValue": "app"},
    "Count": {"type": "int", "defaultValue": 3},
    "tags": {"type": "object", "defaultValue": {"Env": "test", "list": [1, 2, {"x": "deep"}]}},
    "items": {"type": "array", "defaultValue": ["a", "b", "a"]},
    "derived": {"type": "string", "defaultValue": "[concat(parameters('name'), '-x')]"},
    "open": {"type": "string"},
    "secret": {"type": "securestring", "value": "from value", "defaultValue": "from default"},
}
VARIABLES: dict[str, Any] = {
    "image": "[format('{0}/{1}:{2}', 'registry.example', parameters('name'), variables('tag'))]",
    "tag": "v[1]",
    "nested": {"a": "[variables('tag')]", "b": ["[toUpper('x')]"]},
    "loop": "[variables('loop2')]",
    "loop2": "[variables('loop')]",
    "copy": [{"name": "numbered", "count": 3, "input": "[concat('n', copyIndex('numbered', 1))]"}],
}
FUNCTIONS_OF_THE_TEMPLATE = [
    {
        "namespace": "my",
        "members": {
            "twice": {
                "parameters": [{"name": "text", "type": "string"}],
                "output": {"type": "string", "value": "[concat(parameters('text'), parameters('text'))]"},
            }
        },
    }
]


def template() -> Template:
    return Template(
        {"parameters": PARAMETERS, "variables": VARIABLES, "functions": FUNCTIONS_OF_THE_TEMPLATE},
    )


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("parameters('name')", "app"),
        ("PARAMETERS( 'NAME' )", "app"),
        ("parameters('derived')", "app-x"),
        ("parameters('secret')", "from value"),
        ("variables('image')", "registry.example/app:v[1]"),
        ("variables('nested').a", "v[1]"),
        ("variables('nested').b[0]", "X"),
        ("variables('numbered')", ["n1", "n2", "n3"]),
        ("parameters('tags').env", "test"),
        ("parameters('tags')['ENV']", "test"),
        ("parameters('tags').list[2].x", "deep"),
        ("parameters('items')[add(0, 1)]", "b"),
        ("my.twice('ab')", "abab"),
        ("concat('a', 1, 'b')", "a1b"),
        ("concat(createArray(1), createArray('x'))", [1, "x"]),
        ("'it''s'", "it's"),
        ("format('{0}{1}{{}}', 'a', 2)", "a2{}"),
        ("toLower('AbC')", "abc"),
        ("toUpper('AbC')", "ABC"),
        ("trim('  a ')", "a"),
        ("replace('a.b.c', '.', '-')", "a-b-c"),
        ("substring('abcdef', 2, 3)", "cde"),
        ("substring('abcdef', 2)", "cdef"),
        ("split('a,b;c', createArray(',', ';'))", ["a", "b", "c"]),
        ("join(split('a-b', '-'), '+')", "a+b"),
        ("padLeft('7', 3, '0')", "007"),
        ("padLeft(7, 3, '0')", "007"),
        ("startsWith('Abc', 'aB')", True),
        ("endsWith('Abc', 'BC')", True),
        ("string(createObject('a', 1))", '{"a":1}'),
        ("string(true())", "True"),
        ("int('42')", 42),
        ("bool('True')", True),
        ("json('{\"a\":[1]}').a[0]", 1),
        ("base64('abc')", "YWJj"),
        ("base64ToString('YWJj')", "abc"),
        ("base64ToJson('eyJhIjogMX0=').a", 1),
        ("uriComponent('a b/c')", "a%20b%2Fc"),
        ("uriComponentToString('a%20b')", "a b"),
        ("uri('http://h/a/', 'b')", "http://h/a/b"),
        ("length(parameters('items'))", 3),
        ("length('abc')", 3),
        ("empty('')", True),
        ("empty(null())", True),
        ("empty(parameters('tags'))", False),
        ("first('abc')", "a"),
        ("last(parameters('items'))", "a"),
        ("take('abc', 2)", "ab"),
        ("skip(parameters('items'), 2)", ["a"]),
        ("contains('abc', 'b')", True),
        ("contains(parameters('items'), 'B')", False),
        ("contains(parameters('tags'), 'env')", True),
        ("indexOf('abcB', 'B')", 1),
        ("lastIndexOf('abcB', 'b')", 3),
        ("union(createArray('a'), parameters('items'))", ["a", "b"]),
        ("union(createObject('a', 1), createObject('b', 2))", {"a": 1, "b": 2}),
        ("intersection(parameters('items'), createArray('b'))", ["b"]),
        ("range(2, 3)", [2, 3, 4]),
        ("min(3, 1, 2)", 1),
        ("max(createArray(3, 1))", 3),
        ("div(-7, 2)", -3),
        ("mod(-7, 2)", -1),
        ("mul(sub(5, 2), 4)", 12),
        ("equals('a', 'A')", False),
        ("equals(1, true())", False),
        ("less('a', 'b')", True),
        ("greaterOrEquals(2, 2)", True),
        ("if(equals(parameters('Count'), 3), 'three', reference('x'))", "three"),
        ("and(true(), not(false()))", True),
        ("or(false(), false())", False),
        ("coalesce(null(), 'x')", "x"),
        ("items(createObject('k', 1))", [{"key": "k", "value": 1}]),
        ("array('x')", ["x"]),
    ],
)
def test_values(expression: str, value: object) -> None:
    assert template().text(f"[{expression}]") == value


def test_guid_is_by_name() -> None:
    made = str(template().text("[guid('a', 'b')]"))
    assert made == template().text("[guid('a', 'b')]") != template().text("[guid('a', 'c')]")
    assert uuid.UUID(made).version == 5


@pytest.mark.parametrize("text", ["plain", "[[literal]", "a[b]", "[half", "", "[", "v[1]"])
def test_literal_text(text: str) -> None:
    assert not is_expression(text)
    assert template().text(text) == literal_text(text)


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ("parameters('open')", "open"),
        ("concat('x', parameters('open'))", "open"),
        ("reference('r').host", "reference"),
        ("listKeys('id', '2020').keys[0].value", "listKeys"),
        ("resourceGroup().location", "resourceGroup"),
        ("subscription().id", "subscription"),
        ("uniqueString('x')", "uniqueString"),
        ("utcNow()", "utcNow"),
        ("newGuid()", "newGuid"),
        ("copyIndex()", "copyIndex"),
    ],
)
def test_known_later(expression: str, names: str) -> None:
    with pytest.raises(KnownLater, match=names):
        template().text(f"[{expression}]")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "wanted"),
        ("parameters('none')", "not declared"),
        ("variables('none')", "not defined"),
        ("variables('copy')", "not defined"),
        ("variables('loop')", "depends on itself"),
        ("madeUp('x')", "function madeUp: not known"),
        ("my.none('x')", "not defined by the template"),
        ("my.twice()", "arguments"),
        ("parameters('name'", "wanted"),
        ("parameters('name'))", "more follows"),
        ("parameters(name)", "wanted"),
        ("'unclosed", "begins nothing known"),
        ("1.5", "found where name was wanted"),
        ("concat('a', createArray(1))", "an array"),
        ("toLower(1)", "a number, wanted a string"),
        ("toLower('a', 'b')", "2 arguments"),
        ("format('{1}', 'a')", "no argument"),
        ("format('{0:N2}', 'a')", "format of its own"),
        ("format('{', 'a')", "no argument"),
        ("substring('abc', 2, 5)", "5 characters"),
        ("substring('abc', -1)", "characters"),
        ("split('a', '')", "empty delimiter"),
        ("replace('a', '', 'b')", "empty string"),
        ("div(1, 0)", "division by zero"),
        ("add(9223372036854775807, 1)", "64 bits"),
        ("99999999999999999999999", "64 bits"),
        ("parameters('items')[7]", "element 7 of 3"),
        ("parameters('items')[-1]", "element -1"),
        ("parameters('tags').none", "missing"),
        ("parameters('name').x", "a step into a string"),
        ("if('true', 1, 2)", "wanted true or false"),
        ("json('{')", "not JSON"),
        ('json(\'{"a":1,"a":2}\')', "twice"),
        ("base64ToString('!')", "base64"),
        ("range(0, 10001)", "at most 10000"),
        ("padLeft('a', 9999999)", "at most"),
        ("createObject('a')", "without a value"),
        ("min(createArray())", "no numbers"),
    ],
)
def test_refused(expression: str, message: str) -> None:
    with pytest.raises(MalformedInput, match=message) as caught:
        template().text(f"[{expression}]")
    assert not isinstance(caught.value, KnownLater)


def test_bombs() -> None:
    variables: dict[str, Any] = {"v0": "x" * 1000}
    for at in range(1, 9):
        variables[f"v{at}"] = "[concat(" + ", ".join([f"variables('v{at - 1}')"] * 4) + ")]"
    with pytest.raises(MalformedInput, match="at most 1048576"):
        Template({"variables": variables}).text("[variables('v8')]")
    wide = {f"w{at}": "[padLeft('x', 1048576)]" for at in range(100)}
    everything = "[concat(" + ", ".join(f"length(variables('w{at}'))" for at in range(100)) + ")]"
    with pytest.raises(MalformedInput, match="expressions handle over"):
        Template({"variables": wide}).text(everything)
    for text in (
        "[" + "array(" * 60 + "1" + ")" * 60 + "]",
        "[" + "(" * 9999 + "]",
        "[x()" + "[0]" * 99 + "]",
    ):
        with pytest.raises(MalformedInput):
            Template({}).text(text)
    with pytest.raises(MalformedInput, match="depends on itself"):
        Template({"functions": [], "parameters": {"p": {"defaultValue": "[parameters('p')]"}}}).text(
            "[parameters('p')]"
        )
    endless = {"namespace": "f", "members": {"f": {"parameters": [], "output": {"value": "[f.f()]"}}}}
    with pytest.raises(MalformedInput, match="levels deep"):
        Template({"functions": [endless]}).text("[f.f()]")
    many = {"copy": [{"name": "a", "count": 801, "input": 1}]}
    with pytest.raises(MalformedInput, match="801 iterations"):
        Template({}).value(many)


def test_property_loops() -> None:
    made = Template({}).value(
        {
            "x": 1,
            "copy": [
                {
                    "name": "outer",
                    "count": 2,
                    "input": {
                        "copy": [
                            {
                                "name": "inner",
                                "count": "[add(1, 1)]",
                                "input": "[format('{0}{1}', copyIndex('outer'), copyIndex('inner'))]",
                            }
                        ]
                    },
                }
            ],
        }
    )
    assert made == {"x": 1, "outer": [{"inner": ["00", "01"]}, {"inner": ["10", "11"]}]}


# -- parameters files -----------------------------------------------------------------------------


def given_parameters(*files: dict[str, Any], **declared: Any) -> Template:
    body = {"parameters": declared}
    return parse_template(
        json.dumps(body).encode(), [json.dumps({"parameters": one}).encode() for one in files]
    )


def test_a_file_s_value_counts_most_and_is_data() -> None:
    made = given_parameters({"P": {"value": "[x"}}, p={"type": "string", "value": "v", "defaultValue": "d"})
    assert made.text("[parameters('p')]") == "[x"
    later = given_parameters({"p": {"value": "1"}}, {"P": {"value": "[concat('a')]"}}, p={"type": "string"})
    assert later.text("[parameters('p')]") == "[concat('a')]"


def test_a_vault_s_secret_is_known_later() -> None:
    made = given_parameters(
        {"p": {"reference": {"keyVault": {"id": "x"}, "secretName": "y"}}}, p={"type": "string"}
    )
    with pytest.raises(KnownLater, match="key vault"):
        made.text("[parameters('p')]")


@pytest.mark.parametrize(
    ("value", "declared", "message"),
    [
        (1, {"type": "string"}, "is a number, declared as string"),
        ("1", {"type": "int"}, "is a string, declared as int"),
        (True, {"type": "int"}, "declared as int"),
        ([], {"type": "object"}, "is an array"),
        ("c", {"type": "string", "allowedValues": ["a", "b"]}, "not one of the 2 allowed"),
    ],
)
def test_a_value_of_another_kind(value: object, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        given_parameters({"p": {"value": value}}, p=declared).text("[parameters('p')]")


def test_parameters_files_must_fit() -> None:
    with pytest.raises(MalformedInput, match="'q' is not declared"):
        given_parameters({"q": {"value": 1}}, p={"type": "string"})
    with pytest.raises(MalformedInput, match="'parameters' is missing"):
        parse_template(b"{}", [b'{"p": 1}'])
    with pytest.raises(MalformedInput, match="differ only in case"):
        given_parameters(p={"defaultValue": 1}, P={"defaultValue": 2}).text("[parameters('p')]")
    with pytest.raises(MalformedInput, match="twice"):
        parse_template(b'{"parameters": {}, "parameters": {}}')


# -- anything at all ------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [*FUNCTIONS, "parameters", "variables", "if", "copyIndex", "coalesce", "my.twice", "x"]
)
ATOMS = st.integers(-3, 99).map(str) | st.text("ab'[]{}0", max_size=4).map(
    lambda s: "'" + s.replace("'", "''") + "'"
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.builds(
        lambda name, arguments, step: f"{name}({', '.join(arguments)}){step}",
        NAMES,
        st.lists(inner, max_size=3),
        st.sampled_from(["", ".a", "[0]", "['name']"]),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS)
def test_an_expression_has_a_value_or_a_typed_error(expression: str) -> None:
    try:
        value = template().text(f"[{expression}]")
    except MalformedInput:
        return
    json.dumps(value)


@given(st.text("parametsvibl('),.[]{} 0-$\n", max_size=30))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        parse(f"[{text}]")
    except MalformedInput:
        return
