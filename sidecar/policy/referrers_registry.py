"""Fragments in a registry: attached to an image, pushed by themselves, listed, and fetched again.

Strategy: the artifact's two blobs, then its manifest. A registry that knows referrers says so in its answer
to the manifest (`OCI-Subject`); for any other the list under the fallback tag is read, extended, written,
and read again, because somebody else may have written it meanwhile.

Rules: every document and blob is held against its digest; what a registry lists is a hint, and what a
fragment is worth is decided by its signature alone, by whoever calls this.

Spec: OCI distribution specification 1.1: pushing blobs and manifests, listing referrers, referrers tag
    schema.

Kind: composition
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from urllib.parse import urlencode

import trio

from sidecar.errors import MalformedInput, ServiceError, UsageError
from sidecar.policy.oci import INDEX_TYPES, Platform, check_bytes, choose, parse_manifest
from sidecar.policy.referrers import (
    ARTIFACT_TYPE,
    EMPTY_CONFIG,
    INDEX_TYPE,
    MANIFEST_TYPE,
    Artifact,
    Blob,
    add_referrer,
    blob_of,
    build_artifact,
    fallback_tag,
    fragments_among,
    parse_artifact,
    parse_referrers,
)
from sidecar.policy.registry import Registry
from sidecar.strictjson import JsonObject

log = logging.getLogger(__name__)

LINUX = Platform()
_MAX_PAGES = 8
_MAX_NESTING = 3
_UPDATES = 4  # times that a fallback list is written when others write it as well
_PAUSE = 0.2
_NEXT = re.compile(r"<(?P<target>[^<>]+)>\s*;\s*rel=\"?next\"?")
_OCTETS = {"content-type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class StoredFragment:
    """A fragment as a registry holds it; **not verified**.

    Attributes:
        digest: of its manifest.
        data: COSE_Sign1, at most 1 MiB.
    """

    digest: str
    title: str
    data: bytes


async def subject_of(registry: Registry, platform: Platform = LINUX) -> Blob:
    """The manifest that fragments of an image are attached to: of an index, the platform's.

    Raises:
        UsageError: there is no such image, or none for the platform.
        MalformedInput, DigestMismatch, ServiceError: what the registry gave is no image.
    """
    top = await registry.resolve()
    for _ in range(_MAX_NESTING):
        data = (await registry.get(f"manifests/{top.digest}")).body
        check_bytes(data, top.digest, "image manifest")
        parsed = parse_manifest(data, "image manifest")
        if not isinstance(parsed, tuple):
            return Blob(top.media_type, top.digest, len(data))
        top = choose(parsed, platform, "image")
    raise MalformedInput(f"image: indexes nested more than {_MAX_NESTING} levels deep")


async def attach_fragment(registry: Registry, fragment: bytes, *, title: str, subject: Blob) -> str:
    """Attach a fragment to an image's manifest; the digest of the fragment's own manifest.

    Raises:
        ServiceError, UsageError: the registry refused.
    """
    manifest = build_artifact(fragment, title=title, subject=subject)
    digest = blob_of(manifest, MANIFEST_TYPE).digest
    await _push_blobs(registry, fragment)
    answer = await _push_manifest(registry, manifest, digest)
    if "oci-subject" not in answer:
        await _update_list(registry, manifest, subject.digest)
    return digest


async def push_fragment(registry: Registry, fragment: bytes, *, title: str, tags: tuple[str, ...]) -> str:
    """Push a fragment by itself under tags; the digest of its manifest.

    Raises:
        ServiceError, UsageError: the registry refused.
    """
    manifest = build_artifact(fragment, title=title, subject=None)
    await _push_blobs(registry, fragment)
    for tag in tags:
        await _push_manifest(registry, manifest, tag)
    return blob_of(manifest, MANIFEST_TYPE).digest


async def attached_fragments(registry: Registry, image: str) -> tuple[StoredFragment, ...]:
    """Every fragment that is attached to a manifest of this digest; not verified.

    Raises:
        MalformedInput: a list, a manifest or a fragment is malformed, or belongs to another image.
        DigestMismatch: bytes are not what their digest says.
        ServiceError: the registry failed.
    """
    found: list[StoredFragment] = []
    for blob in fragments_among(await _referrers(registry, image)):
        data = (await registry.get(f"manifests/{blob.digest}")).body
        check_bytes(data, blob.digest, "fragment manifest")
        artifact = parse_artifact(data)
        if artifact is None:
            continue
        if artifact.subject is None or artifact.subject.digest != image:
            raise MalformedInput(
                f"fragment manifest {blob.digest}: belongs to another image than {image}",
                hint="the registry lists it wrongly; remove it from the list, or attach it again",
            )
        found.append(await _stored(registry, artifact, blob.digest))
    return tuple(found)


async def fetch_fragment(registry: Registry) -> StoredFragment:
    """The fragment that the registry's name names; not verified. Errors as `attached_fragments`."""
    top = await registry.resolve()
    data = (await registry.get(f"manifests/{top.digest}")).body
    check_bytes(data, top.digest, "fragment manifest")
    artifact = parse_artifact(data)
    if artifact is None:
        raise MalformedInput(
            f"manifest {top.digest}: no fragment", hint="fragments of an image are listed by its own name"
        )
    return await _stored(registry, artifact, top.digest)


async def _stored(registry: Registry, artifact: Artifact, digest: str) -> StoredFragment:
    data = (await registry.get(f"blobs/{artifact.layer.digest}")).body
    check_bytes(data, artifact.layer.digest, "fragment")
    return StoredFragment(digest, artifact.title, data)


# -- lists ----------------------------------------------------------------------------------------


async def _referrers(registry: Registry, image: str) -> list[JsonObject]:
    """The entries of an image's list, from the registry's own or from the one under the fallback tag."""
    target = f"referrers/{image}?{urlencode({'artifactType': ARTIFACT_TYPE})}"
    found: list[JsonObject] = []
    for _ in range(_MAX_PAGES):
        answer = await registry.request(
            "GET", target, wanted={200, 400, 404, 405}, headers={"accept": INDEX_TYPE}
        )
        if answer.status != 200:
            return list(await _fallback_list(registry, image))
        found += parse_referrers(answer.body)
        following = _NEXT.search(answer.headers.get("link", ""))
        if following is None:
            return found
        target = following["target"]
    raise ServiceError(f"registry: over {_MAX_PAGES} pages of referrers of {image}")


async def _fallback_list(registry: Registry, image: str) -> tuple[JsonObject, ...]:
    answer = await registry.request(
        "GET",
        f"manifests/{fallback_tag(image)}",
        wanted={200, 404},
        headers={"accept": ", ".join(INDEX_TYPES)},
    )
    return parse_referrers(answer.body) if answer.status == 200 else ()


async def _update_list(registry: Registry, manifest: bytes, image: str) -> None:
    """Put a manifest into the list under the fallback tag, until it is seen there."""
    digest = blob_of(manifest, MANIFEST_TYPE).digest
    for attempt in range(_UPDATES):
        entries = await _fallback_list(registry, image)
        if any(entry.get("digest") == digest for entry in entries):
            return
        log.info("no referrers API: list %s, %d entries before", fallback_tag(image), len(entries))
        await _push_manifest(
            registry, add_referrer(entries, manifest), fallback_tag(image), media_type=INDEX_TYPE
        )
        if any(entry.get("digest") == digest for entry in await _fallback_list(registry, image)):
            return
        await trio.sleep(_PAUSE * 2**attempt)
    raise ServiceError(
        f"registry: the list {fallback_tag(image)} does not keep the fragment",
        hint="somebody else attaches to the same image; run it again",
    )


# -- pushing --------------------------------------------------------------------------------------


async def _push_blobs(registry: Registry, fragment: bytes) -> None:
    for data in (EMPTY_CONFIG, fragment):
        digest = blob_of(data, "").digest
        there = await registry.request("HEAD", f"blobs/{digest}", wanted={200, 404})
        if there.status == 200:
            continue
        begun = await registry.request("POST", "blobs/uploads/", wanted={202}, body=b"")
        place = begun.headers.get("location", "")
        if not place:
            raise ServiceError("registry: begins an upload and does not say where")
        target = f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': digest})}"
        # Not tried again: an upload's address is good for one end.
        await registry.request("PUT", target, wanted={201}, body=data, headers=_OCTETS, tries=1)


async def _push_manifest(
    registry: Registry, manifest: bytes, reference: str, *, media_type: str = MANIFEST_TYPE
) -> dict[str, str]:
    """Push a manifest; the header of the answer."""
    try:
        answer = await registry.request(
            "PUT", f"manifests/{reference}", wanted={201}, body=manifest, headers={"content-type": media_type}
        )
    except UsageError as exc:
        raise ServiceError(f"registry: refused the manifest: {exc}", hint=exc.hint) from exc
    return dict(answer.headers)
