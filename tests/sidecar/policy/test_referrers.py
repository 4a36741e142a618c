"""Fragments in a registry: the documents by themselves, a real registry, and registries that lie."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from fakes.policies import fragment_text
from fakes.registries import docker_registry, get, put, put_blob, put_image, put_index

from sidecar.errors import DigestMismatch, MalformedInput, ServiceError, SidecarError, UsageError
from sidecar.http import Response
from sidecar.policy.fragment import load_signer, sign_fragment, verify_fragment
from sidecar.policy.images_names import RegistryName
from sidecar.policy.oci import digest_of
from sidecar.policy.referrers import (
    ARTIFACT_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    Blob,
    add_referrer,
    blob_of,
    build_artifact,
    fallback_tag,
    fragments_among,
    parse_artifact,
    parse_referrers,
)
from sidecar.policy.referrers_registry import (
    attach_fragment,
    attached_fragments,
    fetch_fragment,
    push_fragment,
    subject_of,
)
from sidecar.policy.registry import Registry, open_registry
from sidecar.policy.testchain import make_test_chain

SUBJECT = Blob(MANIFEST_TYPE, "sha256:" + "a" * 64, 100)


@cache
def signed(svn: str = "1", feed: str = "registry.example/app") -> bytes:
    chain = make_test_chain(now=datetime(2026, 1, 1, tzinfo=UTC), kind="p256")
    text = fragment_text(svn=svn)
    return sign_fragment(text, load_signer(chain.key_pem, chain.chain_pem), feed=feed)


# -- documents ------------------------------------------------------------------------------------


def test_the_manifest_of_an_attached_fragment() -> None:
    data = build_artifact(b"fragment", title="a.rego.cose", subject=SUBJECT)
    assert json.loads(data) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/x-ms-ccepolicy-frag",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/cose-x509+rego",
                "digest": digest_of(b"fragment"),
                "size": 8,
                "annotations": {"org.opencontainers.image.title": "a.rego.cose"},
            }
        ],
        "subject": SUBJECT.to_json(),
    }
    artifact = parse_artifact(data)
    assert artifact is not None
    assert (artifact.subject, artifact.title) == (SUBJECT, "a.rego.cose")
    alone = parse_artifact(build_artifact(b"fragment", title="", subject=None))
    assert alone is not None
    assert alone.subject is None


def manifest(**changes: Any) -> bytes:
    whole = json.loads(build_artifact(b"fragment", title="", subject=SUBJECT)) | changes
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def test_the_older_form_has_its_type_in_the_configuration() -> None:
    config = {"mediaType": ARTIFACT_TYPE, "digest": SUBJECT.digest, "size": 2}
    assert parse_artifact(manifest(artifactType=..., config=config)) is not None


@pytest.mark.parametrize(
    "data", [manifest(artifactType="application/spdx+json"), manifest(artifactType=...), b"{}"]
)
def test_manifests_of_something_else(data: bytes) -> None:
    assert parse_artifact(data) is None


LAYER = json.loads(manifest())["layers"][0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "wanted an object"),
        (manifest(layers=[]), "0 layers, wanted 1"),
        (manifest(layers=[LAYER, LAYER]), "2 layers, wanted 1"),
        (manifest(layers=[LAYER | {"mediaType": "text/plain"}]), "layer of type 'text/plain'"),
        (manifest(layers=[LAYER | {"digest": "sha256:x"}]), "digest 'sha256:x'"),
        (manifest(layers=[LAYER | {"size": 2 << 20}]), "at most 1048576 are read"),
        (manifest(layers=[LAYER | {"size": -1}]), "size -1"),
        (manifest(subject={}), "subject"),
    ],
)
def test_manifests_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_artifact(data)


def test_the_list_under_the_fallback_tag() -> None:
    assert fallback_tag(SUBJECT.digest) == "sha256-" + "a" * 64
    artifact = build_artifact(b"fragment", title="", subject=SUBJECT)
    other = {"mediaType": MANIFEST_TYPE, "digest": "sha256:" + "b" * 64, "size": 1, "artifactType": "x"}
    first = add_referrer([other], artifact)
    assert json.loads(first)["mediaType"] == INDEX_TYPE
    assert add_referrer(parse_referrers(first), artifact) == first
    entries = parse_referrers(first)
    assert entries[0] == other
    assert fragments_among(entries) == (blob_of(artifact, MANIFEST_TYPE),)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{}", "manifests: is null"),
        (json.dumps({"manifests": [{}]}).encode(), "size"),
        (json.dumps({"mediaType": "x", "manifests": []}).encode(), "media type 'x'"),
        (json.dumps({"manifests": [SUBJECT.to_json()] * 300}).encode(), "300 items"),
    ],
)
def test_lists_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_referrers(data)


# -- a real registry without the referrers API ----------------------------------------------------


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@asynccontextmanager
async def repository(host: str, path: str, tag: str = "", digest: str = "") -> AsyncIterator[Registry]:
    async with open_registry(RegistryName(host, path, tag, digest), {}) as registry:
        yield registry


@pytest.mark.registry
async def test_attached_and_found_again(host: str) -> None:
    image = put_image(host, "one", "1.0")
    async with repository(host, "one", "1.0") as registry:
        subject = await subject_of(registry)
        assert (subject.digest, subject.size) == (image["digest"], image["size"])
        assert await attached_fragments(registry, subject.digest) == ()
        for svn in ("1", "2", "1"):
            await attach_fragment(registry, signed(svn), title=f"{svn}.rego.cose", subject=subject)
        found = await attached_fragments(registry, subject.digest)
    assert [(f.title, f.data) for f in found] == [
        ("1.rego.cose", signed("1")),
        ("2.rego.cose", signed("2")),
    ]
    assert [verify_fragment(f.data).content.svn for f in found] == ["1", "2"]
    # As anybody else finds them: an index under the tag, manifests by digest.
    index = json.loads(get(f"http://{host}/v2/one/manifests/sha256-{subject.digest[7:]}"))
    assert [entry["digest"] for entry in index["manifests"]] == [f.digest for f in found]
    stored = json.loads(get(f"http://{host}/v2/one/manifests/{found[0].digest}"))
    assert stored["subject"]["digest"] == subject.digest


@pytest.mark.registry
async def test_a_list_that_others_write_is_kept(host: str) -> None:
    image = put_image(host, "shared", "1.0")
    other = {
        "mediaType": MANIFEST_TYPE,
        "digest": image["digest"],
        "size": image["size"],
        "artifactType": "x/y",
    }
    put_index(host, "shared", fallback_tag(image["digest"]), other)
    async with repository(host, "shared", "1.0") as registry:
        await attach_fragment(registry, signed(), title="t", subject=await subject_of(registry))
        (found,) = await attached_fragments(registry, image["digest"])
    index = json.loads(get(f"http://{host}/v2/shared/manifests/{fallback_tag(image['digest'])}"))
    assert [entry["digest"] for entry in index["manifests"]] == [image["digest"], found.digest]


@pytest.mark.registry
async def test_a_multi_platform_image_takes_it_at_its_platform(host: str) -> None:
    amd64, arm64 = (put_image(host, "multi", architecture=a) for a in ("amd64", "arm64"))
    put_index(host, "multi", "1.0", arm64, amd64)
    async with repository(host, "multi", "1.0") as registry:
        subject = await subject_of(registry)
        assert subject.digest == amd64["digest"]
        await attach_fragment(registry, signed(), title="t", subject=subject)
        assert len(await attached_fragments(registry, amd64["digest"])) == 1
        assert await attached_fragments(registry, arm64["digest"]) == ()


@pytest.mark.registry
async def test_a_fragment_by_itself(host: str) -> None:
    async with repository(host, "fragments/contoso", "2") as registry:
        digest = await push_fragment(registry, signed("2"), title="c.rego.cose", tags=("2", "latest"))
        found = await fetch_fragment(registry)
    assert (found.digest, found.title, found.data) == (digest, "c.rego.cose", signed("2"))
    async with repository(host, "fragments/contoso", digest=digest) as registry:
        assert (await fetch_fragment(registry)).data == signed("2")


@pytest.mark.registry
async def test_what_is_not_there(host: str) -> None:
    put_image(host, "plain", "1.0")
    async with repository(host, "plain", "1.0") as registry:
        with pytest.raises(MalformedInput, match="no fragment"):
            await fetch_fragment(registry)
    async with repository(host, "plain", "2.0") as registry:
        with pytest.raises(UsageError, match="there is no such thing"):
            await subject_of(registry)


@pytest.mark.registry
async def test_a_list_that_names_another_images_fragment(host: str) -> None:
    image, other = put_image(host, "moved", "1.0"), put_image(host, "moved", "2.0", architecture="arm64")
    data = build_artifact(signed(), title="", subject=Blob(MANIFEST_TYPE, other["digest"], other["size"]))
    for blob in (b"{}", signed()):
        put_blob(host, "moved", blob)
    put(f"http://{host}/v2/moved/manifests/{digest_of(data)}", data, MANIFEST_TYPE)
    entry = blob_of(data, MANIFEST_TYPE).to_json() | {"artifactType": ARTIFACT_TYPE}
    put_index(host, "moved", fallback_tag(image["digest"]), entry)
    async with repository(host, "moved", "1.0") as registry:
        with pytest.raises(MalformedInput, match="belongs to another image"):
            await attached_fragments(registry, image["digest"])


# -- registries that know referrers, that lie, or that fail ---------------------------------------


class FakeHttp:
    """Answers by (method, end of the path); remembers what was asked."""

    def __init__(self, answers: dict[tuple[str, str], Response | list[Response]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str]] = []

    async def send(self, method: str, url: str, **more: Any) -> Response:
        path = url.split("/v2/app/")[-1]
        self.asked.append((method, path))
        for (wanted, end), answer in self.answers.items():
            if wanted == method and path.startswith(end):
                return answer.pop(0) if isinstance(answer, list) else answer
        return Response(404, {}, b"")


class NoAuth:
    def headers(self) -> dict[str, str]:
        return {}

    async def answer(self, challenge: object, tried: object) -> bool:
        return False


def fake(answers: dict[tuple[str, str], Response | list[Response]]) -> tuple[Registry, FakeHttp]:
    http = FakeHttp(answers)
    name = RegistryName("r.example", "app", "1")
    return Registry(http, name, "https://r.example", NoAuth(), None), http  # type: ignore[arg-type]


ARTIFACT = build_artifact(signed(), title="t", subject=SUBJECT)
ENTRY = blob_of(ARTIFACT, MANIFEST_TYPE).to_json() | {"artifactType": ARTIFACT_TYPE}


def listing(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(entries)}).encode()


def serving(**changes: bytes) -> dict[tuple[str, str], Response | list[Response]]:
    bodies = {"referrers": listing(ENTRY), "manifest": ARTIFACT, "blob": signed()} | changes
    return {
        ("GET", f"referrers/{SUBJECT.digest}"): Response(200, {}, bodies["referrers"]),
        ("GET", f"manifests/{digest_of(ARTIFACT)}"): Response(200, {}, bodies["manifest"]),
        ("GET", f"blobs/{digest_of(signed())}"): Response(200, {}, bodies["blob"]),
    }


async def test_the_registrys_own_list() -> None:
    registry, http = fake(serving())
    (found,) = await attached_fragments(registry, SUBJECT.digest)
    assert found.data == signed()
    asked = f"referrers/{SUBJECT.digest}?artifactType=application%2Fx-ms-ccepolicy-frag"
    assert http.asked[0] == ("GET", asked)


async def test_the_registrys_own_list_goes_on_elsewhere() -> None:
    registry, http = fake(serving())
    target = f"/v2/app/referrers/{SUBJECT.digest}?page=2"
    first = Response(200, {"link": f'<{target}>; rel="next"'}, listing())
    http.answers[("GET", f"referrers/{SUBJECT.digest}")] = [first, Response(200, {}, listing(ENTRY))]
    assert len(await attached_fragments(registry, SUBJECT.digest)) == 1
    assert http.asked[1] == ("GET", f"referrers/{SUBJECT.digest}?page=2")


async def test_a_list_without_end() -> None:
    registry, http = fake({})
    answer = Response(200, {"link": f'</v2/app/referrers/{SUBJECT.digest}>; rel="next"'}, listing())
    http.answers[("GET", "referrers/")] = answer
    with pytest.raises(ServiceError, match="over 8 pages"):
        await attached_fragments(registry, SUBJECT.digest)


async def test_a_registry_that_knows_referrers_needs_no_list() -> None:
    registry, http = fake(
        {
            ("HEAD", "blobs/"): Response(200, {}, b""),
            ("PUT", "manifests/"): Response(201, {"oci-subject": SUBJECT.digest}, b""),
        }
    )
    await attach_fragment(registry, signed(), title="t", subject=SUBJECT)
    assert [method for method, _ in http.asked] == ["HEAD", "HEAD", "PUT"]


async def test_a_list_that_does_not_keep_the_fragment(autojump_clock: object) -> None:
    registry, _ = fake(
        {
            ("HEAD", "blobs/"): Response(200, {}, b""),
            ("PUT", "manifests/"): Response(201, {}, b""),
        }
    )
    with pytest.raises(ServiceError, match="does not keep the fragment"):
        await attach_fragment(registry, signed(), title="t", subject=SUBJECT)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"manifest": manifest()}, DigestMismatch, "fragment manifest"),
        ({"blob": signed("2")}, DigestMismatch, "fragment"),
        ({"referrers": b"{}"}, MalformedInput, "list of referrers"),
        ({"referrers": b"<html>"}, MalformedInput, "not JSON"),
    ],
)
async def test_registries_that_lie(
    changes: dict[str, bytes], error: type[SidecarError], message: str
) -> None:
    registry, _ = fake(serving(**changes))
    with pytest.raises(error, match=message):
        await attached_fragments(registry, SUBJECT.digest)


async def test_other_artifacts_are_left_out() -> None:
    """By what the list says, and by what the manifest says where the list says nothing."""
    sbom = manifest(artifactType="application/spdx+json")
    silent = blob_of(sbom, MANIFEST_TYPE).to_json()
    said = ENTRY | {"artifactType": "application/spdx+json", "digest": "sha256:" + "e" * 64}
    registry, http = fake(serving(referrers=listing(silent, said)))
    http.answers[("GET", f"manifests/{digest_of(sbom)}")] = Response(200, {}, sbom)
    assert await attached_fragments(registry, SUBJECT.digest) == ()
    assert not any(said["digest"] in path for _, path in http.asked)


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_a_registry_that_refuses(status: int) -> None:
    registry, _ = fake({("HEAD", "blobs/"): Response(status, {}, b"")})
    with pytest.raises(ServiceError):
        await attach_fragment(registry, signed(), title="t", subject=replace(SUBJECT))


async def test_an_upload_that_leads_off_tls() -> None:
    registry, _ = fake(
        {("POST", "blobs/uploads/"): Response(202, {"location": "http://elsewhere.example/up"}, b"")}
    )
    with pytest.raises(ServiceError, match="wanted https"):
        await push_fragment(registry, signed(), title="t", tags=("1",))
