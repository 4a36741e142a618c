"""The HTTP client: bounds, retries, deadlines, and what it refuses to do."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from sidecar.errors import ServiceError, UsageError
from sidecar.http import MAX_BODY, Http, tls_context, trusted_roots

URL = "https://service.example/path?sig=secret"
Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> Http:
    return Http(ssl.create_default_context(), transport=httpx.MockTransport(answer))


class Script:
    """Answers in order, and counts; an exception in the list is raised."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.times: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.times.append(trio.current_time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_any_status_is_returned() -> None:
    for status in (200, 302, 400, 401, 403, 404, 409):
        script = Script(httpx.Response(status, content=b"x", headers={"X-Thing": "1"}))
        answer = await client(script).send("GET", URL)
        assert (answer.status, answer.body, answer.headers["x-thing"]) == (status, b"x", "1")
        assert len(script.times) == 1, "no redirect is followed and nothing is retried"


@pytest.mark.parametrize("failure", [429, 500, 503, httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
async def test_what_may_pass_is_tried_again(autojump_clock: object, failure: int | Exception) -> None:
    first = httpx.Response(failure) if isinstance(failure, int) else failure
    script = Script(first, first, httpx.Response(200, content=b"ok"))
    assert (await client(script).send("GET", URL)).body == b"ok"
    assert len(script.times) == 3


async def test_retry_after_is_honoured(autojump_clock: object) -> None:
    script = Script(httpx.Response(429, headers={"retry-after": "7"}), httpx.Response(200))
    await client(script).send("GET", URL)
    assert script.times[1] - script.times[0] == pytest.approx(7, abs=0.1)


async def test_an_absurd_retry_after_is_bounded(autojump_clock: object) -> None:
    script = Script(httpx.Response(503, headers={"retry-after": "86400"}), httpx.Response(200))
    await client(script).send("GET", URL)
    assert script.times[1] - script.times[0] <= 20.1


async def test_gives_up_with_the_last_answer_or_the_reason(autojump_clock: object) -> None:
    assert (await client(Script(httpx.Response(503))).send("GET", URL)).status == 503
    with pytest.raises(ServiceError, match="no answer after 4 tries: ConnectError: refused") as caught:
        await client(Script(httpx.ConnectError("refused"))).send("GET", URL)
    assert "secret" not in str(caught.value)


async def test_deadline_covers_all_tries(autojump_clock: object) -> None:
    script = Script(httpx.Response(503, headers={"retry-after": "15"}))
    start = trio.current_time()
    with pytest.raises(ServiceError, match="within 20 s"):
        await client(script).send("GET", URL, deadline=20)
    assert trio.current_time() - start <= 20.1


async def test_a_body_over_the_bound_is_an_error() -> None:
    with pytest.raises(ServiceError, match="over"):
        await client(Script(httpx.Response(200, content=b"x" * (MAX_BODY + 1)))).send("GET", URL)


async def test_token_is_not_in_the_error(autojump_clock: object) -> None:
    with pytest.raises(ServiceError) as caught:
        await client(Script(httpx.ConnectError("x"))).send(
            "GET", URL, headers={"authorization": "Bearer TOPSECRET"}
        )
    assert "TOPSECRET" not in str(caught.value)


def test_a_missing_ca_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CA file"):
        tls_context(tmp_path / "none.pem")


def test_roots_are_found_on_this_system() -> None:
    assert len(trusted_roots()) > 20
