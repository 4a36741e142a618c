"""A real registry (Debian's docker-registry) on loopback, and around it what tests need: a token service that
signs, and a proxy that breaks connections.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.oci_images import Blobs, digest
from sidecar.local.ca import Issued, make_self_signed

USER, PASSWORD = "alice", "open sesame"
# bcrypt of PASSWORD, as docker-registry wants it.
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"


def missing() -> str:
    """Which programs the machine lacks, empty for none."""
    return " ".join(name for name in ("docker-registry", "buildah") if shutil.which(name) is None)


@dataclass
class Registry:
    """A running registry; `host` is its host and port."""

    host: str
    root: Path

    def blob_path(self, name: str) -> Path:
        kind, _, value = name.partition(":")
        return self.root / "docker/registry/v2/blobs" / kind / value[:2] / value / "data"

    def push(self, repository: str, tag: str, blobs: Blobs, manifest: bytes) -> str:
        """Put an image, or an index whose manifests are among the blobs; its digest."""
        with httpx.Client(base_url=f"http://{self.host}/v2/{repository}/", trust_env=False) as client:
            for name, data in blobs.data.items():
                if b'"schemaVersion"' in data[:40]:
                    self._put_manifest(client, name, data)
                    continue
                started = client.post("blobs/uploads/")
                where = httpx.URL(started.headers["location"]).copy_merge_params({"digest": name})
                client.put(where, content=data).raise_for_status()
            self._put_manifest(client, tag, manifest)
        return digest(manifest)

    @staticmethod
    def _put_manifest(client: httpx.Client, reference: str, data: bytes) -> None:
        headers = {"content-type": json.loads(data)["mediaType"]}
        client.put(f"manifests/{reference}", content=data, headers=headers).raise_for_status()


@contextmanager
def run_registry(
    folder: Path, *, auth: Mapping[str, Any] | None = None, tls: Mapping[str, str] | None = None
) -> Iterator[Registry]:
    """Start one on a free port; ends it."""
    folder.mkdir(exist_ok=True)
    root = folder / "storage"
    http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "for tests"}
    settings = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": str(root)}},
        "http": http | ({"tls": tls} if tls else {}),
    }
    if auth:
        settings["auth"] = auth
    path = folder / "registry.json"
    path.write_text(json.dumps(settings))  # JSON is YAML too
    process = subprocess.Popen(
        ["docker-registry", "serve", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    # It goes on logging, and must not block on a full pipe.
    drain = threading.Thread(target=process.stderr.read)
    try:
        host = _wait_for_port(process.stderr)
        drain.start()
        yield Registry(host, root)
    finally:
        process.terminate()
        process.wait(10)
        if drain.ident is not None:
            drain.join()
        process.stderr.close()


def _wait_for_port(log: IO[str]) -> str:
    for line in log:
        if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
            return found[1]
    raise AssertionError("docker-registry ended before it listened")


@dataclass
class TokenService:
    """Signs tokens for those who log in as USER, and for nobody when `anonymous`."""

    realm: str = ""
    anonymous: bool = False
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def auth(self, folder: Path) -> dict[str, Any]:
        """The registry's settings that send clients here."""
        bundle = folder / "token-signer.pem"
        bundle.write_bytes(_signer().certificate.public_bytes(Encoding.PEM))
        return {
            "token": {
                "realm": self.realm,
                "service": "registry (test)",
                "issuer": "issuer (test)",
                "rootcertbundle": str(bundle),
            }
        }

    def answer(self, query: dict[str, list[str]], authorization: str) -> bytes | None:
        self.asked.append(query)
        login = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if authorization != login and not self.anonymous:
            return None
        kind, name, actions = query["scope"][0].split(":")
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        return json.dumps({"token": _sign(query["service"][0], access)}).encode()


@cache
def _signer() -> Issued:
    return make_self_signed("token signer (test)", datetime.now(UTC))


def _sign(audience: str, access: list[dict[str, Any]]) -> str:
    signer = _signer()
    now = int(time.time())
    chain = [base64.b64encode(signer.certificate.public_bytes(Encoding.DER)).decode()]
    header = {"typ": "JWT", "alg": "RS256", "x5c": chain}
    claims = {
        "iss": "issuer (test)",
        "sub": USER,
        "aud": audience,
        "exp": now + 300,
        "nbf": now - 30,
        "iat": now,
        "jti": "1",
        "access": access,
    }
    text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    assert isinstance(signer.key, rsa.RSAPrivateKey)
    return f"{text}.{_base64url(signer.key.sign(text.encode(), PKCS1v15(), SHA256()))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def run_token_service(*, anonymous: bool = False) -> Iterator[TokenService]:
    service = TokenService(anonymous=anonymous)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            body = service.answer(query, self.headers.get("authorization", ""))
            self.send_response(200 if body else 401)
            self.end_headers()
            self.wfile.write(body or b"{}")

        def log_message(self, *_: object) -> None:
            """Tests need no log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service.realm = f"http://127.0.0.1:{server.server_address[1]}/token"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class BreakingProxy:
    """Passes connections on and breaks some: each of the first `breaks` with an answer over `after` bytes."""

    target: str
    after: int
    breaks: int
    host: str = ""
    broken: int = 0

    def serve(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        name, _, port = self.target.partition(":")
        with client, socket.create_connection((name, int(port))) as server:
            back = threading.Thread(target=self._copy_up, args=(client, server), daemon=True)
            back.start()
            done = 0
            with suppress(OSError):
                while data := server.recv(4096):
                    done += len(data)
                    if done > self.after and self.broken < self.breaks:
                        self.broken += 1
                        break
                    client.sendall(data)
            for end in (client, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def _copy_up(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(4096):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


@contextmanager
def run_breaking_proxy(target: str, *, after: int, breaks: int) -> Iterator[BreakingProxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = BreakingProxy(target, after, breaks, f"127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy.serve, args=(listener,))
        thread.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
