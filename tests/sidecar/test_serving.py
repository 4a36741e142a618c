"""The sidecar as it is served: sockets, callers, restrictions, metrics, load, readiness, the end, its log."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from fakes.localcloud import Client
from fakes.sidecarserver import sidecar_served

from sidecar.akv import parse_key_ref
from sidecar.allow import Allowed, Caller, KeyRule
from sidecar.app import MAX_AT_ONCE
from sidecar.config import SidecarSettings
from sidecar.errors import CertificateRejected, UsageError
from sidecar.identity import AzureIdentity
from sidecar.jose import b64u_decode, b64u_encode
from sidecar.jwk import Jwk, jwk_of_private, jwk_of_secret
from sidecar.redact import MARK, RedactingFormatter
from sidecar.release import AttestationToken
from sidecar.releasepolicy import build_policy
from sidecar.serving import ServeOptions
from sidecar.wrapping import WrappingKey

HOST_DATA = "x-ms-sevsnpvm-hostdata"
SECRET = bytes(range(100, 132))
RUNTIME = base64.b64encode(b'{"a": 1}').decode()
# A program that asks over a Unix socket as another user; its ids change once all is imported, because the
# interpreter may lie where only root may go.
ASK = """\
import http.client, json, os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[5]))
os.setuid(int(sys.argv[4]))
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
connection = Unix("localhost")
connection.request("POST", sys.argv[2], sys.argv[3])
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read())]))
"""


async def imported(
    cloud: Client, name: str = "data", key: Jwk | None = None, digest: str = "00" * 32
) -> None:
    policy = build_policy([cloud.cloud.url("maa")], [[(HOST_DATA, digest)]])
    made = key or jwk_of_secret(SECRET, kty="oct-HSM", key_ops=("encrypt", "decrypt"))
    await cloud.imported("mhsm", name, made, policy)


def wanted(cloud: Client, kid: str = "data", **more: str) -> dict[str, str]:
    """The body of a release."""
    names = cloud.cloud.environment
    return {"maa_endpoint": names["MAA_ENDPOINT"], "akv_endpoint": names["MHSM_ENDPOINT"], "kid": kid} | more


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter; the ones of pytest are root's only."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


# -- sockets and callers ----------------------------------------------------------------------------


async def test_both_loopback_addresses_and_no_other(here: Client) -> None:
    async with sidecar_served(here.cloud.environment) as served:
        port = int(served.addresses["http"].rpartition(":")[2])
        for address in ("127.0.0.1", "[::1]"):
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://{address}:{port}/status")
                assert (answer.status_code, answer.json()) == (200, {"message": "Status OK"})
        hosts = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        for host in hosts - {"127.0.0.1", "127.0.1.1"}:
            with pytest.raises(OSError):
                await trio.open_tcp_stream(host, port)


async def test_http_and_grpc_and_sockets_at_once(here: Client, tmp_path: Path) -> None:
    options = {"grpc_port": 0, "unix": tmp_path / "http", "grpc_unix": tmp_path / "grpc"}
    async with sidecar_served(here.cloud.environment, **options) as served:
        assert set(served.addresses) == {"http", "grpc", "http+unix", "grpc+unix"}
        assert stat.S_IMODE((tmp_path / "http").stat().st_mode) == 0o600
        for scheme in ("http", "http+unix"):
            async with served.http(scheme) as client:
                assert (await client.get("/readyz")).status_code == 200
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(served.addresses["grpc"].replace("grpc://", "http://"))
            assert (answer.status_code, answer.text) == (415, "this port speaks gRPC\n")
    assert not list(tmp_path.glob("grpc")) + list(tmp_path.glob("http"))


@pytest.mark.root
async def test_the_unix_socket_knows_its_callers(here: Client, open_folder: Path) -> None:
    await imported(here)
    path = open_folder / "socket"
    settings = SidecarSettings(allowed=Allowed(callers=(Caller(uid=1234, gid=4321),)))
    bodies = {
        "/key/release": wanted(here),
        "/attest/raw": {"runtime_data": RUNTIME},
        "/attest/combined": {"runtime_data": RUNTIME},
        "/attest/maa": {"maa_endpoint": wanted(here)["maa_endpoint"], "runtime_data": RUNTIME},
    }
    async with sidecar_served(here.cloud.environment, settings, unix=path) as served:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666, "the list decides, not the mode"

        async def ask(route: str, uid: int, gid: int) -> tuple[int, dict[str, Any]]:
            body = json.dumps(bodies[route])
            command = [sys.executable, "-I", "-c", ASK, str(path), route, body, str(uid), str(gid)]
            done = await trio.run_process(command, capture_stdout=True)
            code, answer = json.loads(done.stdout)
            return code, answer

        for route in bodies:
            assert (await ask(route, 1234, 4321))[0] == 200, route
            for uid, gid in ((1235, 4321), (1234, 4322), (0, 0)):
                code, answer = await ask(route, uid, gid)
                assert code == 403
                assert f"uid {uid} gid {gid}" in answer["error"]
        async with served.http() as client:
            for route, body in bodies.items():
                answer = await client.post(route, json=body)
                assert (answer.status_code, "TCP" in answer.json()["error"]) == (403, True)
            assert (await client.get("/status")).status_code == 200


async def test_only_listed_keys_are_released(here: Client) -> None:
    for name in ("data", "other"):
        await imported(here, name)
    hsm = wanted(here)["akv_endpoint"]
    rules = (KeyRule(parse_key_ref("data"), hsm), KeyRule(parse_key_ref("elsewhere"), "other.example"))
    async with (
        sidecar_served(here.cloud.environment, SidecarSettings(allowed=Allowed(keys=rules))) as served,
        served.http() as client,
    ):
        assert (await client.post("/key/release", json=wanted(here))).status_code == 200
        for kid in ("other", "elsewhere"):
            answer = await client.post("/key/release", json=wanted(here, kid))
            assert (answer.status_code, "not allowed by the settings" in answer.text) == (403, True)
        # Nor through a wrapping key of the caller's own.
        own = base64.b64encode(WrappingKey.generate().runtime_data()).decode()
        for route in ("/attest/raw", "/attest/combined", "/attest/maa"):
            body = {"maa_endpoint": wanted(here)["maa_endpoint"], "runtime_data": own}
            answer = await client.post(route, json=body)
            assert (answer.status_code, "wrapping key" in answer.text) == (403, True)
            assert (await client.post(route, json=body | {"runtime_data": RUNTIME})).status_code == 200


async def test_hosts_of_the_settings(here: Client) -> None:
    await imported(here)
    names = wanted(here)
    allowed = Allowed(vaults=frozenset({names["akv_endpoint"]}), authorities=frozenset({"only.example"}))
    async with (
        sidecar_served(here.cloud.environment, SidecarSettings(allowed=allowed)) as served,
        served.http() as client,
    ):
        answer = await client.post("/key/release", json=names)
        assert (answer.status_code, "allow.authorities" in answer.text) == (403, True)


@pytest.mark.parametrize(
    "options",
    [
        {"port": None},
        {"port": 70000},
        {"port": 8080, "grpc_port": 8080},
        {"port": -1},
    ],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ServeOptions(**options)


# -- what it says of itself -------------------------------------------------------------------------


async def test_metrics_count_what_happened(here: Client) -> None:
    await imported(here)
    async with sidecar_served(here.cloud.environment, grpc_port=0) as served, served.http() as client:
        for body in (wanted(here), wanted(here), wanted(here, "nothing"), {}):
            await client.post("/key/release", json=body)
        await client.get("/nowhere")
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        for line in (
            'sidecar_requests_total{route="key-release",status="200"} 2',
            'sidecar_requests_total{route="key-release",status="403"} 1',
            'sidecar_requests_total{route="key-release",status="400"} 1',
            'sidecar_requests_total{route="none",status="404"} 1',
            'sidecar_request_seconds_count{route="key-release"} 4',
            "sidecar_ready 1",
            "sidecar_requests_at_once 0",
            "sidecar_attestation_tokens_made_total 1",
            "sidecar_attestation_tokens_reused_total 2",
        ):
            assert line in answer.text.splitlines(), answer.text
        assert re.search(
            r"^sidecar_access_token_expiry_seconds\{audience=\"https://managedhsm", answer.text, re.M
        )


async def test_not_ready_until_it_can_attest(
    here: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CertificateRejected("chain: leads nowhere")

    monkeypatch.setattr("sidecar.app.NOT_READY_PAUSES", (0.01,))
    with monkeypatch.context() as patched:
        patched.setattr("sidecar.app.verify_evidence", refuse)
        async with sidecar_served(here.cloud.environment) as served, served.http() as client:
            for route in ("/status", "/readyz"):
                answer = await client.get(route)
                assert answer.status_code == 503
                assert answer.json() == {"error": "Status NOT OK: chain: leads nowhere"}
            assert (await client.get("/healthz")).json() == {"message": "alive"}
            assert "sidecar_ready 0" in (await client.get("/metrics")).text
            patched.undo()
            with trio.fail_after(10):
                while (await client.get("/status")).status_code != 200:
                    await trio.testing.wait_all_tasks_blocked(0.01)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        "not ready: chain: leads nowhere"  # once, however often it was tried
    ]
    caplog.clear()


# -- load and the end -------------------------------------------------------------------------------


async def test_32_releases_at_once(start_cloud: Any, quiet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start_cloud(throttled=False) as cloud:
        for name, value in cloud.cloud.environment.items():
            monkeypatch.setenv(name, value)
        await imported(cloud)
        for reuse, attestations in ((3600, 1), (0, 8)):
            settings = SidecarSettings(reuse_seconds=reuse)
            async with sidecar_served(cloud.cloud.environment, settings) as served, served.http() as client:
                seen: list[int] = []

                async def ask() -> None:
                    answer = await client.post("/key/release", json=wanted(cloud))
                    assert b64u_decode(json.loads(answer.json()["key"])["k"]) == SECRET
                    seen.append(answer.status_code)  # noqa: B023

                async with trio.open_nursery() as nursery:
                    for _ in range(32 if reuse else attestations):
                        nursery.start_soon(ask)
                assert seen == [200] * (32 if reuse else attestations)
                text = (await client.get("/metrics")).text
                assert f"sidecar_attestation_tokens_made_total {attestations}\n" in text


async def test_too_many_at_once_are_told_to_come_back(here: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    held, released = 0, trio.Event()
    source = "sidecar.release.Guest.evidence"
    real = __import__("sidecar.release", fromlist=["Guest"]).Guest.evidence

    async def slow(self: Any, data: bytes) -> Any:
        nonlocal held
        held += 1
        await released.wait()
        return await real(self, data)

    async with sidecar_served(here.cloud.environment) as served:
        monkeypatch.setattr(source, slow)
        address = served.addresses["http"]
        limits = httpx.Limits(max_connections=MAX_AT_ONCE + 10)
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60, trust_env=False) as client:
            codes: list[int] = []

            async def ask() -> None:
                codes.append(
                    (await client.post("/attest/combined", json={"runtime_data": RUNTIME})).status_code
                )

            async with trio.open_nursery() as nursery:
                for _ in range(MAX_AT_ONCE):
                    nursery.start_soon(ask)
                with trio.fail_after(20):
                    while held < MAX_AT_ONCE:
                        await trio.testing.wait_all_tasks_blocked(0.01)
                answer = await client.post("/attest/combined", json={"runtime_data": RUNTIME})
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert (await client.get("/healthz")).status_code == 200
                monkeypatch.setattr(source, real)
                released.set()
            assert codes == [200] * MAX_AT_ONCE


async def test_open_requests_end_before_the_server_does(
    start_cloud: Any, quiet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start_cloud(faults=("mhsm/release:delay=1",)) as slow:
        for name, value in slow.cloud.environment.items():
            monkeypatch.setenv(name, value)
        await imported(slow)
        answers: list[int] = []

        async def ask(client: httpx.AsyncClient) -> None:
            async with client:
                answers.append((await client.post("/key/release", json=wanted(slow))).status_code)

        made = "sidecar_attestation_tokens_made_total 1"
        async with trio.open_nursery() as nursery, sidecar_served(slow.cloud.environment) as served:
            nursery.start_soon(ask, served.http())
            async with served.http() as other:
                with trio.fail_after(10):
                    while made not in (await other.get("/metrics")).text:
                        await trio.testing.wait_all_tasks_blocked(0.01)
            assert not answers
        assert answers == [200]


# -- its log ----------------------------------------------------------------------------------------


class Lines(logging.Handler):
    """Every record of every logger, as the log would have it, and as it was given."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(RedactingFormatter("%(name)s %(levelname)s %(message)s"))
        self.lines: list[str] = []
        self.raw: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += self.format(record).splitlines()
        self.raw += [f"{record.name}: {line}" for line in record.getMessage().splitlines()]


@pytest.fixture
def log() -> Iterator[Lines]:
    """Everything down to DEBUG, also of libraries that the commands keep quiet."""
    handler, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(before)
    root.removeHandler(handler)


def spellings(secret: bytes) -> set[str]:
    """Ways in which bytes get into a log."""
    standard = base64.b64encode(secret).decode()
    found = {secret.hex(), secret.hex().upper(), standard, b64u_encode(secret), standard.rstrip("=")}
    return found | {repr(secret)[2:-1]} - {""}


async def test_no_line_of_the_log_holds_a_secret(
    here: Client, log: Lines, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Releases of all kinds, refusals, a crash; then every line is searched for every secret there was."""
    tokens: set[str] = set()
    wrapping: list[WrappingKey] = []
    real_fetch, real_generate = AzureIdentity._fetch_blocking, WrappingKey.generate.__func__  # type: ignore[attr-defined]

    def fetch(self: AzureIdentity, audience: str) -> Any:
        found = real_fetch(self, audience)
        tokens.add(found.text)
        return found

    def generate(cls: type[WrappingKey], bits: int = 2048) -> WrappingKey:
        wrapping.append(real_generate(cls, bits))
        return wrapping[-1]

    class SpiedToken(AttestationToken):
        def __init__(self, text: str, claims: Any) -> None:
            tokens.add(text)
            super().__init__(text, claims)

    monkeypatch.setattr(AzureIdentity, "_fetch_blocking", fetch)
    monkeypatch.setattr(WrappingKey, "generate", classmethod(generate))
    monkeypatch.setattr("sidecar.release.AttestationToken", SpiedToken)
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await imported(here)
    await imported(here, "pair", jwk_of_private(private, kty="RSA-HSM", key_ops=("decrypt",)))
    await imported(here, "refused", digest="ab" * 32)
    given = await here.access_token("https://managedhsm.azure.net")
    strange = "opaque-token-0123456789"
    tokens |= {given, strange}
    bodies: list[tuple[str, object]] = [
        ("/key/release", wanted(here)),
        ("/key/release", wanted(here, "pair", access_token=given)),
        ("/key/release", wanted(here, "refused")),
        ("/key/release", wanted(here, "nothing")),
        ("/key/release", wanted(here, access_token=strange)),
        ("/key/release", wanted(here) | {"akv_endpoint": "evil.example", "access_token": given}),
        ("/key/release", {"access_token": given}),
        ("/key/release", json.dumps({"access_token": given})[:-1]),
        ("/attest/maa", {"maa_endpoint": wanted(here)["maa_endpoint"], "runtime_data": RUNTIME}),
        ("/attest/raw", {"runtime_data": RUNTIME}),
    ]
    answers = []
    async with sidecar_served(here.cloud.environment, grpc_port=0) as served, served.http() as client:
        for route, body in bodies:
            content = body if isinstance(body, str) else json.dumps(body)
            answers.append(await client.post(route, content=content))

        async def crash(*_: object) -> None:
            raise RuntimeError(f"a bug with Bearer {given} and {json.dumps({'k': b64u_encode(SECRET)})}")

        monkeypatch.setattr("sidecar.attesting.Attester.release", crash)
        answers.append(await client.post("/key/release", json=wanted(here)))
    caplog.clear()
    assert [a.status_code for a in answers] == [200, 200, 403, 403, 403, 403, 400, 400, 200, 200, 500]
    numbers = private.private_numbers()
    key_bytes = [SECRET, *(n.to_bytes(256, "big").lstrip(b"\0") for n in (numbers.d, numbers.p, numbers.q))]
    key_bytes += [k._private.private_numbers().d.to_bytes(256, "big") for k in wrapping]
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().splitlines()[3]
    secrets = {*tokens, pem, *(text for secret in key_bytes for text in spellings(secret))}
    assert len(tokens) >= 4, "of the identity, the caller's two, the authority's"
    assert len(wrapping) >= 1
    for line in log.lines:
        for secret in secrets:
            assert secret not in line, f"{line.split()[0]} logs a secret"
    # The second line of defence was needed for the crash alone: our own loggers were given no secret.
    ours = [line for line in log.raw if line.startswith("sidecar.") and not line.startswith("sidecar.local")]
    assert len(ours) > 10
    assert not [line for line in ours if any(secret in line for secret in secrets)]
    assert any(MARK in line for line in log.lines), "the crash's traceback held two secrets"
    assert any("RuntimeError: a bug" in line for line in log.lines)
    # Error answers hold none either.
    for answer in answers:
        if answer.status_code != 200:
            assert not any(secret in answer.text for secret in secrets)
