"""Request values and the router."""

from __future__ import annotations

import pytest

from sidecar.errors import MalformedInput
from sidecar.web import Router, WebRequest, WebResponse, json_response, parse_query


async def nothing(request: WebRequest) -> WebResponse:
    return json_response({})


def router() -> Router:
    found = Router()
    found.add("list", "GET", "/keys", nothing)
    found.add("get", "GET", "/keys/{name}/{version}", nothing)
    found.add("release", "POST", "/keys/{name}/{version}/release", nothing)
    found.add("attest", "POST", "/attest/SevSnpVm", nothing)
    return found


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("GET", "/keys", "list", {}),
        ("GET", "/keys/a/b", "get", {"name": "a", "version": "b"}),
        ("GET", "/keys/a/", "get", {"name": "a", "version": ""}),
        ("GET", "/keys/a%2Fb/c", "get", {"name": "a/b", "version": "c"}),
        ("POST", "/keys/a//release", "release", {"name": "a", "version": ""}),
        ("POST", "/attest/sevsnpVM", "attest", {}),
    ],
)
def test_found(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    found = router().find(WebRequest(method, path))
    assert found is not None
    assert found[0].name == name
    assert found[1].parameters == parameters


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/keys"), ("GET", "/"), ("GET", "/keys/a"), ("GET", "keys")]
)
def test_not_found(method: str, path: str) -> None:
    assert router().find(WebRequest(method, path)) is None


def test_methods_of_a_path() -> None:
    assert router().methods("/keys") == ["GET"]
    assert router().methods("/nothing") == []


def test_query() -> None:
    assert parse_query("a=1&b=&c=x%20y") == {"a": "1", "b": "", "c": "x y"}
    assert parse_query("") == {}
    for text in ("a=1&a=2", "&".join(f"p{i}=1" for i in range(33)), "a=%ff"):
        with pytest.raises(MalformedInput):
            parse_query(text)


def test_bodies_stay_out_of_repr() -> None:
    assert "hunter2" not in repr(
        WebRequest("GET", "/", body=b"hunter2", headers={"authorization": "hunter2"})
    )
    assert "hunter2" not in repr(WebResponse(200, b"hunter2"))
