"""`skr` and `sidecar serve` as processes: the predecessor's flags and variables, wrap mode, a clean log."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fakes.localcloud import Client

from sidecar.cli_serve import _skr, _skr_parser, _with_go_booleans
from sidecar.errors import ExitCode, MalformedInput, UsageError
from sidecar.jose import b64u_encode
from sidecar.jwk import jwk_of_private, jwk_of_secret
from sidecar.releasepolicy import build_policy

HOST_DATA = "x-ms-sevsnpvm-hostdata"
SECRET = bytes(range(50, 82))
HEX = SECRET.hex()


def command(name: str) -> str:
    return str(Path(sys.executable).parent / name)


async def run(*words: str | Path, **environ: str) -> tuple[int, str, str]:
    """Run a command to its end: exit code and both streams."""
    with trio.fail_after(60):
        done = await trio.run_process(
            [command(str(words[0])), *map(str, words[1:])],
            env=dict(os.environ) | environ,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@asynccontextmanager
async def serving(*words: str | Path, log: Path, **environ: str) -> AsyncIterator[list[str]]:
    """A command that serves: its addresses once it is ready; SIGTERM at the end, and it must end well."""
    with log.open("wb") as errors:
        process = await trio.lowlevel.open_process(
            [command(str(words[0])), *map(str, words[1:])],
            env=dict(os.environ) | environ,
            stdout=-1,
            stderr=errors,
        )
        assert process.stdout is not None
        try:
            with trio.fail_after(30):
                line = b""
                while not line.endswith(b"\n"):
                    part = await process.stdout.receive_some()
                    assert part, log.read_text()
                    line += part
            text = line.decode()
            assert text.startswith("sidecar: ready "), text
            yield text.split()[2:]
        finally:
            process.send_signal(signal.SIGTERM)
            with trio.CancelScope(shield=True), trio.fail_after(20):
                code = await process.wait()
            await process.stdout.aclose()
    assert code == 0


@asynccontextmanager
async def asking(*words: str | Path, log: Path, **environ: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a command that serves HTTP."""
    async with (
        serving(*words, log=log, **environ) as addresses,
        httpx.AsyncClient(base_url=addresses[0], trust_env=False, timeout=30) as client,
    ):
        yield client


async def imported(cloud: Client, name: str, key: Any) -> None:
    policy = build_policy([cloud.cloud.url("maa")], [[(HOST_DATA, "00" * 32)]])
    await cloud.imported("mhsm", name, key, policy)


async def imported_secret(cloud: Client) -> dict[str, str]:
    """Import `data`; the body that releases it."""
    await imported(cloud, "data", jwk_of_secret(SECRET, kty="oct-HSM", key_ops=("encrypt", "decrypt")))
    names = cloud.cloud.environment
    return {"maa_endpoint": names["MAA_ENDPOINT"], "akv_endpoint": names["MHSM_ENDPOINT"], "kid": "data"}


def encoded(settings: object) -> str:
    return base64.b64encode(json.dumps(settings).encode()).decode()


# -- flags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-port", "1234"], "port", "1234"),
        (["--port", "1234"], "port", "1234"),
        (["-port=1234"], "port", "1234"),
        (["--port=1234"], "port", "1234"),
        (["-base64", "e30="], "base64", "e30="),
        (["-base64=e30="], "base64", "e30="),
        (["-loglevel=trace"], "loglevel", "trace"),
        (["-logfile", "f"], "logfile", "f"),
        (["-server_type", "grpc"], "server_type", "grpc"),
        (["--server_type=grpc"], "server_type", "grpc"),
        (["-infile", "i"], "infile", "i"),
        (["-keypath=k"], "keypath", "k"),
        (["--outfile", "o"], "outfile", "o"),
        (["-allowTestingMismatchedTCB"], "allowTestingMismatchedTCB", True),
        (["--allowTestingMismatchedTCB=T"], "allowTestingMismatchedTCB", True),
        (["-allowTestingMismatchedTCB=false"], "allowTestingMismatchedTCB", False),
        # A bare boolean takes nothing of what follows it.
        (["-allowTestingMismatchedTCB", "-port", "7"], "port", "7"),
        (["-allowTestingMismatchedTCB", "e30="], "settings", "e30="),
        (["e30=", "50000"], "listen", "50000"),
        ([], "loglevel", "warning"),
        ([], "server_type", "http"),
        ([], "allowTestingMismatchedTCB", False),
    ],
)
def test_flags_in_gos_spelling(
    words: list[str], name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SkrSideCarArgs", "Port", "LogLevel", "LogFile", "ServerType"):
        monkeypatch.delenv(variable, raising=False)
    assert getattr(_skr_parser().parse_args(_with_go_booleans(words)), name) == value


def test_variables_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "SkrSideCarArgs": "e30=",
        "Port": "1",
        "LogLevel": "debug",
        "LogFile": "f",
        "ServerType": "grpc",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = _skr_parser().parse_args([])
    assert [found.base64, found.port, found.loglevel, found.logfile, found.server_type] == [
        *variables.values()
    ]
    assert _skr_parser().parse_args(["-port", "2"]).port == "2"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-port", "http"], "port 'http'"),
        (["-port", "99999"], "port 99999"),
        (["-base64", "*"], "settings"),
        (["-infile", "x"], "-keypath"),
    ],
)
def test_wrong_values_are_said_in_words(words: list[str], said: str) -> None:
    with pytest.raises((UsageError, MalformedInput)) as caught:
        _skr(_skr_parser().parse_args(_with_go_booleans(words)))
    assert said in str(caught.value)


@pytest.mark.parametrize("words", [["-allowTestingMismatchedTCB=maybe"], ["-prt", "1"], ["-port"]])
def test_wrong_flags_end_as_gos_do(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _skr_parser().parse_args(_with_go_booleans(words))
    assert caught.value.code == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err


async def test_wrong_flags_are_said_in_words() -> None:
    for words, said in (
        (["-loglevel", "loud"], "loglevel 'loud'"),
        (["-logfile", "/nowhere/log"], "log file"),
    ):
        code, _, errors = await run("skr", *words)
        assert (code, said in errors) == (ExitCode.USAGE, True)


# -- serving ----------------------------------------------------------------------------------------


async def test_skr_serves_http_and_logs_no_secret(here: Client, tmp_path: Path) -> None:
    body = await imported_secret(here)
    chosen = here.cloud.identities[0].client_id
    settings = {"identity": {"client_id": chosen}, "maaconfig": {"user_agent": "a test"}, "unknown": 1}
    log = tmp_path / "skr.log"
    log.write_text("what was there stays\n")
    flags = ("-base64", encoded(settings), "-port=0", "-loglevel", "trace", f"--logfile={log}")
    async with asking("skr", *flags, log=tmp_path / "stderr") as client:
        assert (await client.get("/status")).json() == {"message": "Status OK"}
        # As the predecessor's clients do: no content type.
        released = await client.post("/key/release", content=json.dumps(body))
        assert json.loads(released.json()["key"])["k"] == b64u_encode(SECRET)
        token = (await client.post("/attest/maa", json=body | {"runtime_data": "e30="})).json()["token"]
        refused = await client.post("/key/release", json=body | {"access_token": token})
        assert refused.status_code == 403
    lines = log.read_text().splitlines()
    assert lines[0] == "what was there stays"
    assert any("released https://" in line for line in lines)
    for line in [*lines, *(tmp_path / "stderr").read_text().splitlines()]:
        assert not any(secret in line for secret in (b64u_encode(SECRET), HEX, token)), line


async def test_skr_serves_grpc_when_asked(here: Client, tmp_path: Path) -> None:
    async with serving("skr", log=tmp_path / "stderr", ServerType="grpc", Port="0") as addresses:
        (address,) = addresses
        assert address.startswith("grpc://127.0.0.1:")

        def hello() -> bytes:
            with grpc.insecure_channel(address.removeprefix("grpc://")) as channel:
                return bytes(
                    channel.unary_unary("/key_provider.KeyProviderService/SayHello")(b"\n\x01x", timeout=10)
                )

        assert await trio.to_thread.run_sync(hello) == b"\n\x07Hello x"


async def test_an_outdated_chain_is_fetched_anew(here: Client, tmp_path: Path) -> None:
    body = await imported_secret(here)
    async with (
        serving("skr", "-allowTestingMismatchedTCB", "-port", "0", log=tmp_path / "stderr") as addresses,
        httpx.AsyncClient(base_url=addresses[0], trust_env=False, timeout=30) as client,
    ):
        assert (await client.post("/key/release", json=body)).status_code == 200
    assert "for tests" in (tmp_path / "stderr").read_text()


async def test_fresh_attests_for_each_release(here: Client, tmp_path: Path) -> None:
    body = await imported_secret(here)
    async with asking("sidecar", "serve", "--port", "0", "--fresh", log=tmp_path / "stderr") as client:
        for _ in range(3):
            assert (await client.post("/key/release", json=body)).status_code == 200
        assert "sidecar_attestation_tokens_made_total 3\n" in (await client.get("/metrics")).text


async def test_settings_as_the_start_script_hands_them_over(here: Client, tmp_path: Path) -> None:
    body = await imported_secret(here)
    urlsafe = base64.urlsafe_b64encode(json.dumps({"allow": {"keys": ["other"]}}).encode()).decode()
    async with asking("skr", "-port", "0", log=tmp_path / "stderr", SkrSideCarArgs=urlsafe) as client:
        answer = await client.post("/key/release", json=body)
        assert (answer.status_code, "not allowed by the settings" in answer.text) == (403, True)


async def test_check_says_what_settings_mean_and_serves_nothing(tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    allow = {"keys": ["a"], "callers": [{"uid": 1000}], "vaults": []}
    settings.write_text(json.dumps({"allow": allow, "token_reuse_seconds": 0}))
    code, out, _ = await run(
        "sidecar", "serve", "--check", "--settings", settings, "--socket", tmp_path / "s"
    )
    assert code == 0
    rows = dict(line.split(":", 1) for line in out.splitlines())
    assert rows["keys"].strip() == "a"
    assert rows["callers"].strip() == "uid 1000, over the Unix socket only"
    assert rows["vaults"].strip() == "none"
    assert rows["attestation token"].strip() == "new for each release"
    assert rows["HTTP"].strip() == f"socket {tmp_path / 's'}"
    assert not (tmp_path / "s").exists()
    settings.write_text(json.dumps({"allow": {"key": ["a"]}}))
    code, _, errors = await run("sidecar", "serve", "--check", "--settings", settings)
    assert (code, "unknown member 'key'" in errors) == (ExitCode.MALFORMED, True)


async def test_without_hardware_nothing_is_served(tmp_path: Path) -> None:
    code, out, errors = await run("skr", "-port", "0")
    assert (code, out) == (ExitCode.REPORT_UNAVAILABLE, "")
    assert "software" in errors


async def test_release_on_the_command_line(here: Client, tmp_path: Path) -> None:
    body = await imported_secret(here)
    words = ("--maa", body["maa_endpoint"], "--akv", body["akv_endpoint"], "--kid", "data")
    key, token = tmp_path / "key.json", tmp_path / "token"
    token.write_text(await here.access_token("https://managedhsm.azure.net") + "\n")
    flags = (*words, "--access-token-file", token, "--out", key)
    code, out, errors = await run("sidecar", "release", *flags)
    assert (code, json.loads(out)["kty"], stat.S_IMODE(key.stat().st_mode)) == (0, "oct", 0o600)
    assert json.loads(key.read_text())["k"] == b64u_encode(SECRET)
    assert b64u_encode(SECRET) not in out + errors
    assert token.read_text().strip() not in out + errors
    code, _, errors = await run("sidecar", "release", *flags)
    assert (code, "exists already" in errors) == (ExitCode.USAGE, True)
    for text, wanted in (("two words", ExitCode.MALFORMED), ("\n", ExitCode.USAGE)):
        token.write_text(text)
        code, out, errors = await run("sidecar", "release", *words, "--access-token-file", token)
        assert (code, "words" in out + errors) == (wanted, False)


# -- wrap mode --------------------------------------------------------------------------------------


async def test_what_wrap_mode_wraps_the_key_provider_unwraps(here: Client, tmp_path: Path) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    await imported(here, "images", jwk_of_private(private, kty="RSA-HSM", key_ops=("decrypt",)))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "images.pem").write_bytes(public)
    info = {
        "public_key_path": str(tmp_path / "images.pem"),
        "kms_endpoint": here.cloud.environment["MHSM_ENDPOINT"],
        "attester_endpoint": here.cloud.environment["MAA_ENDPOINT"],
    }
    (tmp_path / "images-info.json").write_text(json.dumps(info))
    secret, wrapped = tmp_path / "secret", tmp_path / "wrapped"
    secret.write_bytes(b"a layer's options")
    flags = ("-keypath", tmp_path / "images", "-outfile", wrapped)
    code, out, errors = await run("skr", "-infile", secret, *flags)
    assert (code, out) == (0, ""), errors
    packet = json.loads(base64.b64decode(wrapped.read_bytes(), validate=True))
    assert packet.keys() == {"kid", "wrapped_data", "wrap_type", "kms_endpoint", "attester_endpoint"}
    assert (packet["kid"], packet["wrap_type"]) == ("images", "rsa_3072")
    assert stat.S_IMODE(wrapped.stat().st_mode) & 0o022 == 0
    request = {
        "op": "keyunwrap",
        "keyunwrapparams": {
            "dc": {"Parameters": {"attestation-agent": [base64.b64encode(b"skr").decode()]}},
            "annotation": wrapped.read_text(),
        },
    }
    data = json.dumps(request).encode()
    # Field 1, bytes, by hand: two bytes of length.
    message = b"\n" + bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) + data
    async with serving("skr", "-server_type", "grpc", "-port", "0", log=tmp_path / "stderr") as addresses:

        def unwrap() -> bytes:
            with grpc.insecure_channel(addresses[0].removeprefix("grpc://")) as channel:
                call = channel.unary_unary("/key_provider.KeyProviderService/UnWrapKey")
                return bytes(call(message, timeout=30))

        answer = await trio.to_thread.run_sync(unwrap)
    results = json.loads(answer[answer.index(b"{") :])["keyunwrapresults"]
    assert base64.b64decode(results["optsdata"]) == b"a layer's options"

    secret.write_bytes(b"x" * (256 - 65))
    code, _, errors = await run("skr", "-infile", secret, *flags)
    assert (code, "at most 190" in errors) == (ExitCode.USAGE, True)
    code, _, errors = await run("skr", "-infile", secret, "-keypath", tmp_path / "none", "-outfile", wrapped)
    assert (code, "none-info.json" in errors) == (ExitCode.USAGE, True)
