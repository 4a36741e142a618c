"""A real registry on loopback: open, with passwords, with tokens, over TLS; and what goes wrong with one."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fakes.layer_tars import USTAR, every_type, file, make_tar, plain, vectors
from fakes.oci_images import LAYER, MANIFEST, Blobs, digest
from fakes.registry import (
    HTPASSWD,
    PASSWORD,
    USER,
    Registry,
    run_breaking_proxy,
    run_registry,
    run_token_service,
)
from trio.testing import MockClock

from sidecar.errors import DigestMismatch, IdentityError, MalformedInput, ServiceError, UsageError
from sidecar.http import Http, tls_context
from sidecar.identity import GivenToken
from sidecar.local.ca import make_intermediate, make_leaf, make_root
from sidecar.policy.images import HashedImage, hash_image, hash_opened
from sidecar.policy.images_names import RegistryName
from sidecar.policy.layers import layer_root_hash
from sidecar.policy.oci import Descriptor, Platform
from sidecar.policy.registry import open_registry, open_remote
from sidecar.policy.registry_challenge import Challenge, parse_challenge

pytestmark = pytest.mark.registry
ROOT_HASH = {vector.name: vector.root_hash for vector in vectors()}
PLAIN, EVERY = ROOT_HASH["plain"], ROOT_HASH["every type"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": os.environ["PATH"],
    }


def image() -> tuple[Blobs, bytes]:
    blobs = Blobs()
    return blobs, blobs.image([(plain(), "gzip"), (every_type(), "zstd")], config={"User": "7"})


async def hashes(name: str, environ: dict[str, str], **options: Any) -> list[str]:
    return root_hashes(await hash_image(name, environ=environ, **options))


def root_hashes(hashed: HashedImage) -> list[str]:
    return [layer.result.root_hash for layer in hashed.layers]


async def test_by_tag_and_by_digest(registry: Registry, environ: dict[str, str]) -> None:
    name = registry.push("team/app", "v1", *image())
    by_tag = await hash_image(f"{registry.host}/team/app:v1", environ=environ)
    assert root_hashes(by_tag) == [PLAIN, EVERY]
    assert by_tag.image.digest == name
    assert await hashes(f"docker://{registry.host}/team/app@{name}", environ) == [PLAIN, EVERY]


async def test_index_by_platform(registry: Registry, environ: dict[str, str]) -> None:
    blobs = Blobs()
    other = blobs.image([(every_type(), "gzip")], architecture="arm64")
    index = blobs.index({"arm64": other, "amd64": blobs.image([(plain(), "gzip")])})
    registry.push("team/multi", "v1", blobs, index)
    assert await hashes(f"{registry.host}/team/multi:v1", environ) == [PLAIN]


async def test_what_is_not_there(registry: Registry, environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"team/nothing/manifests/latest: there is no such thing"):
        await hashes(f"{registry.host}/team/nothing", environ)


@pytest.mark.parametrize("part", ["layer", "config", "manifest"])
async def test_registry_that_serves_other_bytes(tmp_path: Path, environ: dict[str, str], part: str) -> None:
    blobs, manifest = image()
    parsed = json.loads(manifest)
    with run_registry(tmp_path) as registry:
        registry.push("team/app", "v1", blobs, manifest)
        names = {
            "layer": parsed["layers"][1]["digest"],
            "config": parsed["config"]["digest"],
            "manifest": digest(manifest),
        }
        path = registry.blob_path(names[part])
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises((DigestMismatch, ServiceError)):
            await hashes(f"{registry.host}/team/app:v1", environ)
    assert part != "layer" or len(list((tmp_path / "cache").rglob("*.json"))) == 1


async def test_broken_connections_are_continued(
    registry: Registry, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.policy.registry._PAUSE", 0.001)
    # Random bytes do not compress, so the layer is long on the wire.
    tar = make_tar(USTAR, [file("big", os.urandom(3 << 20))])
    blobs = Blobs()
    registry.push("team/big", "v1", blobs, blobs.image([(tar, "gzip")]))
    with run_breaking_proxy(registry.host, after=1 << 20, breaks=3) as proxy:
        assert await hashes(f"{proxy.host}/team/big:v1", environ) == [layer_root_hash(io.BytesIO(tar))]
        assert proxy.broken == 3
    environ["XDG_CACHE_HOME"] += "/other"
    with (
        run_breaking_proxy(registry.host, after=300 << 10, breaks=100) as proxy,
        pytest.raises(ServiceError, match=r"RemoteProtocolError|ReadError|bytes came"),
    ):
        await hashes(f"{proxy.host}/team/big:v1", environ)


# -- who we are -----------------------------------------------------------------------------------


def login_file(environ: dict[str, str], config: dict[str, Any]) -> None:
    path = Path(environ["HOME"]) / ".docker" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config))


def login(host: str) -> dict[str, Any]:
    return {"auths": {host: {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}}}


@pytest.fixture
def closed(tmp_path: Path, registry: Registry) -> Iterator[Registry]:
    """A registry with a password, that holds the image `team/app:v1`."""
    registry.push("team/app", "v1", *image())
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "storage").symlink_to(registry.root)
    auth = {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}
    with run_registry(folder, auth=auth) as running:
        yield running


async def test_password(closed: Registry, environ: dict[str, str]) -> None:
    name = f"{closed.host}/team/app:v1"
    with pytest.raises(ServiceError, match=r"access denied \(401\)") as caught:
        await hashes(name, environ)
    assert "docker login" in caught.value.hint
    login_file(environ, login(closed.host))
    assert await hashes(name, environ) == [PLAIN, EVERY]


async def test_wrong_password(closed: Registry, environ: dict[str, str]) -> None:
    login_file(environ, {"auths": {closed.host: {"username": USER, "password": "wrong secret"}}})
    with pytest.raises(ServiceError, match="access denied") as caught:
        await hashes(f"{closed.host}/team/app:v1", environ)
    assert "wrong secret" not in str(caught.value)


HELPER = """#!/bin/sh
read -r server
echo "$1 $server" >> "$HOME/asked"
echo '{"ServerURL":"'$server'","Username":"alice","Secret":"open sesame"}'
"""


def install_helper(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    folder = Path(environ["HOME"]) / "bin"
    folder.mkdir(parents=True)
    helper = folder / "docker-credential-test"
    helper.write_text(script)
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", environ["HOME"])


@pytest.mark.parametrize("by_host", [True, False])
async def test_credential_helper(
    closed: Registry, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, by_host: bool
) -> None:
    install_helper(environ, monkeypatch, HELPER)
    login_file(environ, {"credHelpers": {closed.host: "test"}} if by_host else {"credsStore": "test"})
    assert await hashes(f"{closed.host}/team/app:v1", environ) == [PLAIN, EVERY]
    assert (Path(environ["HOME"]) / "asked").read_text() == f"get {closed.host}\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\nexit 3\n", "docker-credential-test: failed with exit code 3"),
        ("#!/bin/sh\necho '{\"Username\":'\n", "answer of docker-credential-test: not JSON"),
        ("#!/nowhere\n", "docker-credential-test: not found"),
    ],
)
async def test_credential_helper_that_fails(
    closed: Registry, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    install_helper(environ, monkeypatch, script)
    login_file(environ, {"credsStore": "test"})
    with pytest.raises((IdentityError, MalformedInput), match=words):
        await hashes(f"{closed.host}/team/app:v1", environ)


async def test_helper_that_knows_no_login(
    closed: Registry, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_helper(environ, monkeypatch, "#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    login_file(environ, {"credsStore": "test"})
    with pytest.raises(ServiceError, match="access denied"):
        await hashes(f"{closed.host}/team/app:v1", environ)


@pytest.mark.parametrize("anonymous", [True, False])
async def test_bearer_token(
    tmp_path: Path, registry: Registry, environ: dict[str, str], anonymous: bool
) -> None:
    registry.push("team/app", "v1", *image())
    folder = tmp_path / "tokens"
    folder.mkdir()
    (folder / "storage").symlink_to(registry.root)
    with (
        run_token_service(anonymous=anonymous) as service,
        run_registry(folder, auth=service.auth(folder)) as running,
    ):
        name = f"{running.host}/team/app:v1"
        if not anonymous:
            with pytest.raises(ServiceError, match="access denied"):
                await hashes(name, environ)
            login_file(environ, login(running.host))
        service.asked.clear()
        assert await hashes(name, environ) == [PLAIN, EVERY]
    # One token for the manifest, the config and both layers.
    assert service.asked == [{"service": ["registry (test)"], "scope": ["repository:team/app:pull"]}]


async def test_tls_with_a_ca_of_our_own(tmp_path: Path, registry: Registry, environ: dict[str, str]) -> None:
    registry.push("team/app", "v1", *image())
    now = datetime.now(UTC)
    root = make_root(now)
    leaf = make_leaf(make_intermediate(root, now), "registry (test)", now)
    folder = tmp_path / "tls"
    folder.mkdir()
    (folder / "storage").symlink_to(registry.root)
    (folder / "chain.pem").write_bytes(leaf.chain_pem())
    (folder / "key.pem").write_bytes(leaf.key_pem())
    (folder / "root.pem").write_bytes(root.chain_pem())
    tls = {"certificate": str(folder / "chain.pem"), "key": str(folder / "key.pem")}
    with run_registry(folder, tls=tls) as running:
        name = f"{running.host}/team/app:v1"
        with pytest.raises((ServiceError, UsageError)):
            await hashes(name, environ)
        assert await hashes(name, environ | {"SIDECAR_CA_FILE": str(folder / "root.pem")}) == [PLAIN, EVERY]


# -- what only a scripted server does -------------------------------------------------------------

Answer = Callable[[httpx.Request], httpx.Response]
BLOB = b"some bytes"
DESCRIPTOR = Descriptor(LAYER, digest(BLOB), len(BLOB))


async def ask(answer: Answer, environ: dict[str, str], host: str = "reg.example") -> bytes:
    """The document BLOB of a registry that answers so."""
    http = Http(tls_context(), transport=httpx.MockTransport(answer))
    name, identity = RegistryName(host, "team/app", "v1"), GivenToken("entra")
    async with open_registry(name, environ, http=http, identity=identity) as registry:
        return (await registry.get(f"blobs/{DESCRIPTOR.digest}")).body


async def test_redirects_lose_the_token(environ: dict[str, str]) -> None:
    seen: list[tuple[str, bool]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, "authorization" in request.headers))
        if request.url.host == "store.example":
            return httpx.Response(200, content=BLOB)
        if "authorization" not in request.headers:
            return httpx.Response(401, headers={"www-authenticate": "Basic realm=x"})
        return httpx.Response(307, headers={"location": "https://store.example/blob?sig=1"})

    login_file(environ, login("reg.example"))
    assert await ask(answer, environ) == BLOB
    assert seen == [("reg.example", False), ("reg.example", True), ("store.example", False)]


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://reg.example/x", "redirects to http://reg.example, wanted https"),
        ("file:///etc/passwd", "redirects to file"),
        ("/again", "over 5 redirects"),
    ],
)
async def test_redirects_that_are_not_followed(environ: dict[str, str], location: str, words: str) -> None:
    with pytest.raises(ServiceError, match=words):
        await ask(lambda _: httpx.Response(302, headers={"location": location}), environ)


async def test_a_secret_goes_to_no_token_service_without_tls(environ: dict[str, str]) -> None:
    header = 'Bearer realm="http://tokens.example/t",service="s"'
    login_file(environ, login("reg.example"))
    with pytest.raises(ServiceError, match=r"tokens\.example/t' is not spoken to over TLS"):
        await ask(lambda _: httpx.Response(401, headers={"www-authenticate": header}), environ)


async def test_manifest_longer_than_any(environ: dict[str, str]) -> None:
    with pytest.raises(ServiceError, match="an answer of over 4194304 bytes"):
        await ask(lambda _: httpx.Response(200, content=bytes(5 << 20)), environ)


async def test_registry_that_names_another_digest(environ: dict[str, str]) -> None:
    headers = {"docker-content-digest": digest(b"another"), "content-type": MANIFEST}
    http = Http(
        tls_context(),
        transport=httpx.MockTransport(lambda _: httpx.Response(200, content=b"{}", headers=headers)),
    )
    async with open_registry(RegistryName("reg.example", "app"), environ, http=http) as registry:
        with pytest.raises(DigestMismatch, match="its manifest is another one"):
            await registry.resolve()


async def test_managed_identity_for_an_azure_registry(environ: dict[str, str]) -> None:
    host = "team.azurecr.io"
    steps: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        steps.append((request.method, request.url.path))
        form = dict(httpx.QueryParams(request.content.decode()))
        if request.url.path == "/oauth2/exchange":
            assert form == {"grant_type": "access_token", "service": host, "access_token": "entra"}
            return httpx.Response(200, json={"refresh_token": "refresh"})
        if request.url.path == "/oauth2/token" and request.method == "POST":
            assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "refresh")
            assert form["scope"] == "repository:team/app:pull"
            return httpx.Response(200, json={"access_token": "access"})
        if request.url.path == "/oauth2/token":
            return httpx.Response(401)
        if request.headers.get("authorization") == "Bearer access":
            return httpx.Response(200, content=BLOB)
        challenge = f'Bearer realm="https://{host}/oauth2/token",service="{host}"'
        return httpx.Response(401, headers={"www-authenticate": challenge})

    assert await ask(answer, environ, host) == BLOB
    assert [path for _, path in steps][1:-1] == ["/oauth2/token", "/oauth2/exchange", "/oauth2/token"]


async def test_a_token_that_expires_is_asked_for_again(
    environ: dict[str, str], autojump_clock: MockClock
) -> None:
    good = ""

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal good
        if request.url.host == "tokens.example":
            good += "x"
            return httpx.Response(200, json={"token": good})
        if good and request.headers.get("authorization") == f"Bearer {good}":
            return httpx.Response(200, content=BLOB)
        challenge = 'Bearer realm="https://tokens.example/t",service="s"'
        return httpx.Response(401, headers={"www-authenticate": challenge})

    http = Http(tls_context(), transport=httpx.MockTransport(answer))
    name = RegistryName("reg.example", "team/app", "v1")
    async with open_registry(name, environ, http=http, identity=GivenToken("entra")) as registry:
        path = f"blobs/{DESCRIPTOR.digest}"
        assert (await registry.get(path)).body == BLOB
        good += "y"  # the first token is worth nothing any more
        with pytest.raises(ServiceError, match="access denied"):
            await registry.get(path)
        autojump_clock.jump(60)
        assert (await registry.get(path)).body == BLOB


async def test_hashing_can_be_cancelled(environ: dict[str, str]) -> None:
    read = trio.Event()

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await trio.sleep(0.001)
                read.set()
                yield bytes(1 << 16)

    blobs, _ = image()
    manifest = json.loads(blobs.image([(plain(), "")]))
    manifest["layers"][0] |= {"size": 1 << 35}
    data = json.dumps(manifest).encode()

    def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "/manifests/" in path:
            return httpx.Response(200, content=data)
        name = path.rpartition("/")[2]
        if name == manifest["config"]["digest"]:
            return httpx.Response(200, content=blobs.data[name])
        return httpx.Response(200, stream=Endless())

    http = Http(tls_context(), transport=httpx.MockTransport(answer))
    name = RegistryName("reg.example", "team/app", "v1")
    with trio.fail_after(20):
        async with open_registry(name, environ, http=http, identity=GivenToken("entra")) as registry:
            opened = await trio.to_thread.run_sync(open_remote, registry, name, Platform())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, hash_opened, opened)
                await read.wait()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("header", "challenge"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="x:y:pull,push"',
            ("bearer", "https://a/t", "s", "x:y:pull,push"),
        ),
        ("bearer realm=https://a/t , service=s", ("bearer", "https://a/t", "s", "")),
        ('Bearer realm="a\\"b"', ("bearer", 'a"b', "", "")),
        ('Basic realm="x"', ("basic", "", "", "")),
        ("Negotiate", ("", "", "", "")),
        ("", ("", "", "", "")),
        ('Bearer realm="unfinished', ("bearer", "", "", "")),
    ],
)
def test_challenge(header: str, challenge: tuple[str, str, str, str]) -> None:
    assert parse_challenge(header) == Challenge(*challenge)
