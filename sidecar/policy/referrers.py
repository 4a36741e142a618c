"""Fragments beside images in a registry: the artifact's manifest, and the lists by which it is found.

A fragment is an artifact of one layer. Attached to an image its manifest has that image's manifest as
`subject`; a registry with the referrers API lists it by itself, for any other the list is an image index
under the tag `sha256-HEX` of the subject, kept by whoever attaches.

Rules: a manifest is bounded and read strictly; what is listed but is no fragment is left out; what claims
to be one must name the subject it was listed for, so that a list cannot move a fragment to another image.

Spec: OCI image specification 1.1, manifest.md (artifact usage) and image-index.md; OCI distribution
    specification 1.1, "listing referrers" and "referrers tag schema"; confcom's media types.

Kind: pure
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sidecar.errors import MalformedInput
from sidecar.policy.oci import check_digest, digest_of
from sidecar.strictjson import JsonObject, as_int, as_list, as_object, load_json, optional_text, text_member

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
ARTIFACT_TYPE = "application/x-ms-ccepolicy-frag"
LAYER_TYPE = "application/cose-x509+rego"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY_CONFIG = b"{}"
_TITLE = "org.opencontainers.image.title"
MAX_DOCUMENT = 1 << 20
MAX_FRAGMENT = 1 << 20  # bytes of a signed fragment
MAX_REFERRERS = 256
_WHAT = "fragment manifest"


@dataclass(frozen=True, slots=True)
class Blob:
    """Names some bytes by media type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int

    def to_json(self) -> JsonObject:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A fragment's manifest: where its bytes are, and the image it belongs to, None for one by itself."""

    layer: Blob
    subject: Blob | None
    title: str = ""


def blob_of(data: bytes, media_type: str) -> Blob:
    """The name of some bytes."""
    return Blob(media_type, digest_of(data), len(data))


def build_artifact(fragment: bytes, *, title: str, subject: Blob | None) -> bytes:
    """The manifest of a fragment; the same input gives the same bytes, so pushing twice changes nothing."""
    layer = blob_of(fragment, LAYER_TYPE).to_json() | {"annotations": {_TITLE: title}}
    manifest: JsonObject = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": blob_of(EMPTY_CONFIG, _EMPTY_TYPE).to_json(),
        "layers": [layer],
    }
    if subject is not None:
        manifest["subject"] = subject.to_json()
    return json.dumps(manifest, separators=(",", ":")).encode()


def parse_artifact(data: bytes) -> Artifact | None:
    """Read a manifest; None when it is not one of a fragment.

    Raises:
        MalformedInput: no manifest, or a fragment's that is not of the form.
    """
    document = as_object(load_json(data, what=_WHAT, max_bytes=MAX_DOCUMENT), _WHAT)
    config = as_object(document.get("config", {}), f"{_WHAT}: config")
    # Before OCI 1.1 the type of an artifact was that of its configuration.
    kind = optional_text(document, "artifactType", _WHAT) or optional_text(config, "mediaType", _WHAT)
    if kind != ARTIFACT_TYPE:
        return None
    layers = as_list(document.get("layers"), f"{_WHAT}: layers")
    if len(layers) != 1:
        raise MalformedInput(f"{_WHAT}: {len(layers)} layers, wanted 1")
    entry = as_object(layers[0], f"{_WHAT}: layer")
    layer = _blob(entry, f"{_WHAT}: layer")
    if layer.media_type != LAYER_TYPE:
        raise MalformedInput(f"{_WHAT}: layer of type {layer.media_type[:80]!r}, wanted {LAYER_TYPE}")
    if layer.size > MAX_FRAGMENT:
        raise MalformedInput(f"{_WHAT}: {layer.size} bytes, at most {MAX_FRAGMENT} are read")
    notes = as_object(entry.get("annotations") or {}, f"{_WHAT}: annotations")
    subject = document.get("subject")
    return Artifact(
        layer,
        None if subject is None else _blob(as_object(subject, f"{_WHAT}: subject"), f"{_WHAT}: subject"),
        optional_text(notes, _TITLE, _WHAT) or "",
    )


def fallback_tag(digest: str) -> str:
    """The tag under which a registry without the referrers API holds the list of an image's referrers."""
    return check_digest(digest, "image").replace(":", "-")


def parse_referrers(data: bytes) -> tuple[JsonObject, ...]:
    """Read a list of referrers: its entries as they are, each with a checked digest and size.

    Raises:
        MalformedInput: no image index.
    """
    what = "list of referrers"
    document = as_object(load_json(data, what=what, max_bytes=MAX_DOCUMENT), what)
    if optional_text(document, "mediaType", what) not in (None, INDEX_TYPE):
        raise MalformedInput(f"{what}: media type {document.get('mediaType')!r}, wanted {INDEX_TYPE}")
    entries = as_list(document.get("manifests"), f"{what}: manifests", max_items=MAX_REFERRERS)
    found = []
    for number, entry in enumerate(entries):
        found.append(as_object(entry, f"{what}: {number}"))
        _blob(found[-1], f"{what}: {number}")
    return tuple(found)


def fragments_among(entries: Sequence[JsonObject]) -> tuple[Blob, ...]:
    """The entries that may be fragments: those that say so, and those that say nothing."""
    return tuple(
        _blob(entry, "list of referrers")
        for entry in entries
        if entry.get("artifactType") in (None, "", ARTIFACT_TYPE) and entry.get("mediaType") == MANIFEST_TYPE
    )


def add_referrer(entries: Sequence[JsonObject], artifact: bytes) -> bytes:
    """The list with one more artifact, or as it was when that is in it already."""
    new = blob_of(artifact, MANIFEST_TYPE).to_json() | {"artifactType": ARTIFACT_TYPE}
    kept = [entry for entry in entries if entry.get("digest") != new["digest"]]
    index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*kept, new]}
    return json.dumps(index, separators=(",", ":")).encode()


def _blob(entry: JsonObject, what: str) -> Blob:
    size = as_int(entry.get("size"), f"{what}: size")
    if size < 0:
        raise MalformedInput(f"{what}: size {size}, wanted a number of bytes")
    return Blob(
        text_member(entry, "mediaType", what, max_length=256),
        check_digest(text_member(entry, "digest", what), what),
        size,
    )
