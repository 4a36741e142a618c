"""Images in a registry, over HTTP: manifests whole, layers as streams that survive a broken connection.

The code that hashes is blocking and runs in a thread; it reaches this client, which is not, through
trio.from_thread. A layer is fetched a little ahead of its reader.

Redirects are followed here, since registries send blobs from elsewhere: at most five, never from TLS to
plain HTTP, and without the token when they lead to another host.

Spec: OCI distribution specification 1.1.

Kind: composition
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Container, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import trio

from sidecar.errors import DigestMismatch, ServiceError, SidecarError, UsageError
from sidecar.http import CA_VARIABLE, TRIES, Http, Response, StreamedResponse, tls_context
from sidecar.identity import TokenSource, choose_identity
from sidecar.policy.images_names import RegistryName
from sidecar.policy.oci import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT, Descriptor, Platform, digest_of
from sidecar.policy.oci_source import OpenedImage, open_image
from sidecar.policy.registry_auth import Authorizer, is_loopback
from sidecar.policy.registry_challenge import parse_challenge
from sidecar.policy.registry_credentials import find_credentials
from sidecar.policy.tar_input import ByteStream

log = logging.getLogger(__name__)

_ACCEPT = {"accept": ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_RESUMES = 4  # times that a blob is continued after a broken connection
_PAUSE = 0.5  # seconds before that, growing
_PIECE = 1 << 18  # bytes handed over at once
_AHEAD = 8  # pieces fetched before their reader asks


class Registry:
    """One repository. The methods without `async` are for a thread of trio's."""

    def __init__(
        self, http: Http, name: RegistryName, base: str, auth: Authorizer, tasks: trio.Nursery
    ) -> None:
        self._http = http
        self._name = name
        self._base = base
        self._auth = auth
        self._tasks = tasks

    def document(self, descriptor: Descriptor) -> bytes:
        kind = "manifests" if descriptor.media_type in (*MANIFEST_TYPES, *INDEX_TYPES) else "blobs"
        return trio.from_thread.run(self.get, f"{kind}/{descriptor.digest}").body

    @contextmanager
    def blob(self, descriptor: Descriptor) -> Iterator[ByteStream]:
        send, receive = trio.open_memory_channel[bytes | SidecarError](_AHEAD)
        trio.from_thread.run_sync(self._tasks.start_soon, self._pump, descriptor, send)
        try:
            yield _Received(receive)
        finally:
            trio.from_thread.run_sync(receive.close)

    async def resolve(self) -> Descriptor:
        """What the name stands for now.

        Raises:
            DigestMismatch: the registry names another digest than its bytes have.
            UsageError: there is no such image.
            ServiceError: the registry failed.
        """
        answer = await self.get(f"manifests/{self._name.reference}")
        digest = self._name.digest or digest_of(answer.body)
        said = answer.headers.get("docker-content-digest", "")
        if said and said.partition(":")[0] == "sha256" and digest_of(answer.body) != said:
            raise DigestMismatch(f"{self._name}: the registry says {said[:80]}, its manifest is another one")
        media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        known = media_type if media_type in (*MANIFEST_TYPES, *INDEX_TYPES) else MANIFEST_TYPES[0]
        return Descriptor(known, digest, len(answer.body))

    async def get(self, path: str) -> Response:
        """A manifest or a small blob; errors as `resolve`."""
        url = f"{self._base}/v2/{self._name.path}/{path}"
        headers = self._auth.headers()
        for _ in range(_MAX_REDIRECTS):
            answer = await self._http.send("GET", url, headers=_ACCEPT | dict(headers), max_body=MAX_DOCUMENT)
            if answer.status == 200:
                return answer
            if answer.status in _REDIRECTS:
                url, headers = self._redirected(url, answer.headers, headers)
            elif answer.status == 401 and await self._authorize(answer.headers, headers):
                url, headers = f"{self._base}/v2/{self._name.path}/{path}", self._auth.headers()
            else:
                raise self._refusal(answer.status, path)
        raise ServiceError(
            f"registry {self._name.host}: over {_MAX_REDIRECTS} redirects or refusals for {path}"
        )

    async def request(
        self,
        method: str,
        target: str,
        *,
        wanted: Container[int],
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        tries: int = TRIES,
    ) -> Response:
        """Anything else of the repository: writing, listing.

        Args:
            target: below the repository, or the complete address that the registry itself gave for an upload.
            wanted: statuses that are an answer.

        Raises:
            UsageError, ServiceError: as `resolve`, for any other status.
        """
        url, own = urljoin(f"{self._base}/v2/{self._name.path}/", target), self._auth.headers()
        if url != f"{self._base}/v2/{self._name.path}/{target}":
            url, own = self._redirected(self._base, {"location": url}, own)
        for _ in range(_MAX_REDIRECTS):
            sent = dict(headers or {}) | dict(own)
            answer = await self._http.send(
                method, url, headers=sent, body=body, max_body=MAX_DOCUMENT, tries=tries
            )
            if answer.status in wanted:
                return answer
            if answer.status != 401 or not await self._authorize(answer.headers, own):
                break
            own = self._auth.headers()
        raise self._refusal(answer.status, target.partition("?")[0][-120:])

    async def _pump(self, descriptor: Descriptor, send: trio.MemorySendChannel[bytes | SidecarError]) -> None:
        """Fetch a blob into a channel; an error is the last thing in it."""
        async with send:
            try:
                await self._send_blob(descriptor, send)
            except trio.BrokenResourceError:
                log.debug("blob %s: its reader has had enough", descriptor.digest)
            except SidecarError as exc:
                try:
                    await send.send(exc)
                except trio.BrokenResourceError:
                    log.debug("blob %s: %s, after its reader left", descriptor.digest, exc)

    async def _send_blob(
        self, descriptor: Descriptor, send: trio.MemorySendChannel[bytes | SidecarError]
    ) -> None:
        done = 0
        for attempt in range(_RESUMES + 1):
            try:
                async with self._open_blob(descriptor, done) as answer:
                    piece = bytearray()
                    async for part in answer.pieces:
                        piece += part
                        if len(piece) >= _PIECE:
                            done += len(piece)
                            await send.send(bytes(piece))
                            piece.clear()
                    done += len(piece)
                    await send.send(bytes(piece))
                if done >= descriptor.size:
                    return
                error = ServiceError(f"blob {descriptor.digest}: {done} of {descriptor.size} bytes came")
            except ServiceError as exc:
                error = exc
            if attempt == _RESUMES or not done:
                raise error
            log.info("%s; going on at byte %d", error, done)
            await trio.sleep(_PAUSE * 2**attempt)

    @asynccontextmanager
    async def _open_blob(self, descriptor: Descriptor, start: int) -> AsyncIterator[StreamedResponse]:
        """A blob from a byte on."""
        wanted = 206 if start else 200
        extra = {"range": f"bytes={start}-"} if start else {}
        url, headers = f"{self._base}/v2/{self._name.path}/blobs/{descriptor.digest}", self._auth.headers()
        for _ in range(_MAX_REDIRECTS):
            async with self._http.stream(url, headers=extra | dict(headers)) as answer:
                if answer.status == wanted:
                    yield answer
                    return
                status, answered = answer.status, answer.headers
            if status in _REDIRECTS:
                url, headers = self._redirected(url, answered, headers)
            elif status == 401 and await self._authorize(answered, headers):
                headers = self._auth.headers()
            else:
                raise self._refusal(status, f"blobs/{descriptor.digest}")
        raise ServiceError(
            f"registry {self._name.host}: over {_MAX_REDIRECTS} redirects or refusals for a blob"
        )

    async def _authorize(self, answered: Mapping[str, str], tried: Mapping[str, str]) -> bool:
        challenge = parse_challenge(answered.get("www-authenticate", ""))
        return await self._auth.answer(challenge, tried)

    def _redirected(
        self, url: str, answered: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[str, Mapping[str, str]]:
        """Where to go on, and with what; a token goes to no other host."""
        try:
            target = urljoin(url, answered.get("location", ""))
            old, new = urlsplit(url), urlsplit(target)
            port = new.port
        except ValueError:
            raise ServiceError(f"registry {self._name.host}: redirects to nowhere") from None
        plain = new.scheme == "http" and old.scheme == "http" and is_loopback(target)
        if (new.scheme != "https" and not plain) or not new.hostname:
            raise ServiceError(
                f"registry {self._name.host}: redirects to {new.scheme}://{new.hostname}, wanted https"
            )
        same = (old.scheme, old.hostname, old.port) == (new.scheme, new.hostname, port)
        return target, headers if same else {}

    def _refusal(self, status: int, path: str) -> SidecarError:
        what = f"registry {self._name.host}: {self._name.path}/{path}"
        if status == 404:
            return UsageError(f"{what}: there is no such thing", hint="check name and tag")
        if status in (401, 403):
            return ServiceError(
                f"{what}: access denied ({status})",
                hint="log in with `docker login` or `podman login`, or check the login's rights",
            )
        return ServiceError(f"{what}: status {status}")


@asynccontextmanager
async def open_registry(
    name: RegistryName,
    environ: Mapping[str, str],
    *,
    http: Http | None = None,
    identity: TokenSource | None = None,
) -> AsyncIterator[Registry]:
    """A client for one image's repository.

    Args:
        environ: where logins, the CA file and the managed identity's settings are.
        http: replaces the client; closed at the end.
        identity: replaces the identity that `environ` speaks of.

    Raises:
        UsageError, MalformedInput, IdentityError: the user's login cannot be read.
        ServiceError: the registry cannot be reached.
    """
    credentials = await trio.to_thread.run_sync(find_credentials, name, environ)
    ca_file = environ.get(CA_VARIABLE)
    async with http or Http(tls_context(Path(ca_file) if ca_file else None)) as client:
        base = await _base_url(client, name.host)
        auth = Authorizer(client, name, credentials, identity or choose_identity(environ))
        # The caller's errors go to the caller as they are, not in the nursery's group.
        error: SidecarError | None = None
        async with trio.open_nursery() as tasks:
            try:
                yield Registry(client, name, base, auth, tasks)
            except SidecarError as exc:
                error = exc
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error


def open_remote(registry: Registry, name: RegistryName, platform: Platform) -> OpenedImage:
    """The image of a registry; for a thread of trio's. Errors as `Registry.resolve` and `open_image`."""
    return open_image(registry, trio.from_thread.run(registry.resolve), platform, str(name))


async def _base_url(http: Http, host: str) -> str:
    """TLS, except that a registry on this machine may do without."""
    secure = f"https://{host}"
    if not is_loopback(secure):
        return secure
    try:
        await http.send("GET", f"{secure}/v2/", tries=1)
    except ServiceError as exc:
        log.debug("registry %s: no TLS: %s", host, exc)
        return f"http://{host}"
    return secure


class _Received:
    """A channel's pieces as a stream; for a thread of trio's."""

    def __init__(self, channel: trio.MemoryReceiveChannel[bytes | SidecarError]) -> None:
        self._channel = channel
        self._piece = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._piece:
            try:
                found = trio.from_thread.run(self._channel.receive)
            except trio.EndOfChannel:
                return 0
            if isinstance(found, SidecarError):
                raise found
            self._piece = memoryview(found)
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count
