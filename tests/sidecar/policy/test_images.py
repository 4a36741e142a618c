"""Images in archives, layouts and stores: found, checked byte for byte, hashed, cached."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes.layer_tars import USTAR, directory, every_type, file, make_tar, plain, vectors
from fakes.oci_images import (
    LAYER,
    Blobs,
    compress,
    digest,
    docker_files,
    layout_files,
    write_archive,
    write_folder,
)
from fakes.registry import run_registry

from sidecar.errors import DigestMismatch, LayerRejected, MalformedInput, SidecarError, UsageError
from sidecar.policy.image import ImageConfig
from sidecar.policy.images import HashedImage, hash_image, resolve_image
from sidecar.policy.oci import Platform, parse_platform

ROOT_HASH = {vector.name: vector.root_hash for vector in vectors()}
ZEROS = "sha256:" + "0" * 64
PLAIN, EVERY = ROOT_HASH["plain"], ROOT_HASH["every type"]
CONFIG = {
    "Env": ["A=b"],
    "Entrypoint": ["/bin/app"],
    "Cmd": ["x"],
    "User": "65532",
    "WorkingDir": "/srv",
    "StopSignal": "SIGQUIT",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}


async def hashes(name: str | Path, environ: Mapping[str, str], **options: Any) -> list[str]:
    hashed = await hash_image(str(name), environ=environ, **options)
    return [layer.result.root_hash for layer in hashed.layers]


def two_layers(kinds: tuple[str, str] = ("gzip", "")) -> dict[str, bytes]:
    blobs = Blobs()
    manifest = blobs.image([(plain(), kinds[0]), (every_type(), kinds[1])], config=CONFIG)
    return layout_files(blobs, {"v1": manifest})


@pytest.mark.parametrize("kinds", [("gzip", ""), ("zstd", "gzip"), ("", "zstd")])
async def test_layout_of_two_layers(tmp_path: Path, environ: dict[str, str], kinds: tuple[str, str]) -> None:
    folder = write_folder(tmp_path / "layout", two_layers(kinds))
    resolved = await resolve_image(f"oci:{folder}", environ=environ)
    assert resolved.layers == (PLAIN, EVERY)
    assert resolved.config == ImageConfig(("A=b",), ("/bin/app",), ("x",), "65532", "/srv", "SIGQUIT")
    index = json.loads((folder / "index.json").read_text())
    assert resolved.digest == index["manifests"][0]["digest"]


@pytest.mark.parametrize("name", ["oci-archive:{}", "{}", "oci-archive:{}:v1"])
async def test_oci_archive(tmp_path: Path, environ: dict[str, str], name: str) -> None:
    path = write_archive(tmp_path / "image.tar", two_layers())
    assert await hashes(name.format(path), environ) == [PLAIN, EVERY]


@pytest.mark.parametrize(
    "name", ["docker-archive:{}", "{}", "docker-archive:{}:demo:1", "docker-archive:{}:reg.example/demo:1"]
)
async def test_docker_archive(tmp_path: Path, environ: dict[str, str], name: str) -> None:
    files = docker_files([plain(), every_type()], CONFIG, ["reg.example/demo:1"])
    path = write_archive(tmp_path / "image.tar", files)
    assert await hashes(name.format(path), environ) == [PLAIN, EVERY]


async def test_docker_archive_that_links_to_a_layer(tmp_path: Path, environ: dict[str, str]) -> None:
    files = docker_files([plain()], {}, [])
    layer = next(name for name in files if name.endswith("layer.tar"))
    files["real.tar"] = files.pop(layer)
    path = write_archive(tmp_path / "image.tar", files, {layer: "../real.tar"})
    assert await hashes(path, environ) == [PLAIN]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
async def test_docker_archive_of_compressed_layers(
    tmp_path: Path, environ: dict[str, str], kind: str
) -> None:
    files = docker_files([plain(), every_type()], {}, [])
    packed = {name: compress(data, kind) if name.endswith("tar") else data for name, data in files.items()}
    assert await hashes(write_archive(tmp_path / "image.tar", packed), environ) == [PLAIN, EVERY]
    layer = next(name for name in files if name.endswith("tar"))
    packed[layer] = compress(every_type(), kind)
    environ["XDG_CACHE_HOME"] = str(tmp_path / "another")
    with pytest.raises(DigestMismatch, match="layer 0, uncompressed: digest"):
        await hashes(write_archive(tmp_path / "other.tar", packed), environ)


async def test_platform_is_chosen(tmp_path: Path, environ: dict[str, str]) -> None:
    blobs = Blobs()
    other = blobs.image([(every_type(), "")], architecture="arm64")
    index = blobs.index({"amd64": blobs.image([(plain(), "")]), "arm64": other})
    folder = write_folder(tmp_path / "layout", layout_files(blobs, {"": index}))
    assert await hashes(f"oci:{folder}", environ) == [PLAIN]
    assert await hashes(f"oci:{folder}", environ, platform=parse_platform("linux/arm64")) == [EVERY]
    with pytest.raises(UsageError, match="no image for linux/s390x; it offers linux/amd64, linux/arm64"):
        await hashes(f"oci:{folder}", environ, platform=Platform("linux", "s390x"))


async def test_a_layer_is_hashed_once(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = write_folder(tmp_path / "layout", two_layers())
    first = await hash_image(f"oci:{folder}", environ=environ)
    for path in folder.glob("blobs/sha256/*"):
        if path.stat().st_size > 2000 or path.read_bytes()[:2] == b"\x1f\x8b":
            path.write_bytes(b"not read again")
    second = await hash_image(f"oci:{folder}", environ=environ)
    assert [layer.cached for layer in first.layers] == [False, False]
    assert [layer.cached for layer in second.layers] == [True, True]
    assert [layer.result for layer in first.layers] == [layer.result for layer in second.layers]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(PLAIN.encode(), EVERY.encode()),
        lambda data: data[:-5],
        lambda data: b"",
        lambda data: data.replace(b'"version":1', b'"version":2'),
        lambda data: b'{"record":{},"sha256":""}',
        lambda data: b"[" * 100000,
    ],
)
async def test_a_damaged_cache_is_not_believed(tmp_path: Path, environ: dict[str, str], damage: Any) -> None:
    folder = write_folder(tmp_path / "layout", two_layers())
    await hashes(f"oci:{folder}", environ)
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_bytes(damage(path.read_bytes()))
    found = await hash_image(f"oci:{folder}", environ=environ)
    assert [layer.result.root_hash for layer in found.layers] == [PLAIN, EVERY]


async def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = write_folder(tmp_path / "layout", two_layers())
    await hashes(f"oci:{folder}", environ)
    (tmp_path / "cache" / "attested-volumes" / "layers").chmod(0o777)
    found = await hash_image(f"oci:{folder}", environ=environ)
    assert not any(layer.cached for layer in found.layers)


async def test_a_cache_that_cannot_be_written_costs_only_time(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["XDG_CACHE_HOME"] = "/proc/nowhere"
    folder = write_folder(tmp_path / "layout", two_layers())
    assert await hashes(f"oci:{folder}", environ) == [PLAIN, EVERY]


async def test_users_and_groups_after_all_layers(tmp_path: Path, environ: dict[str, str]) -> None:
    base = make_tar(USTAR, [directory("etc/"), file("etc/passwd", b"old"), file("etc/group", b"g")])
    top = make_tar(USTAR, [file("etc/passwd", b"new"), file("etc/.wh.group")])
    blobs = Blobs()
    folder = write_folder(
        tmp_path / "layout", layout_files(blobs, {"": blobs.image([(base, "gzip"), (top, "gzip")])})
    )
    for _ in range(2):
        resolved = await resolve_image(f"oci:{folder}", environ=environ)
        assert (resolved.passwd, resolved.group) == (b"new", None)


@pytest.mark.parametrize(
    ("entries", "passwd"),
    [
        ([], b"old"),
        ([file(".wh.etc")], None),
        ([file("etc/.wh..wh..opq")], None),
        ([file("etc/passwd", b"new"), file("etc/.wh..wh..opq")], b"new"),
        ([("etc/passwd", {"type": b"2", "linkname": "x"}, b"")], None),
        ([file("x", b"1"), ("etc/passwd", {"type": b"1", "linkname": "x"}, b"")], None),
        ([file("etc/passwd", b"n" * (2 << 20))], None),
        ([directory("etc/", 0o700)], b"old"),
    ],
)
async def test_what_a_layer_does_to_a_file_below(
    tmp_path: Path, environ: dict[str, str], entries: list[Any], passwd: bytes | None
) -> None:
    blobs = Blobs()
    base = make_tar(USTAR, [directory("etc/"), file("etc/passwd", b"old")])
    manifest = blobs.image([(base, ""), (make_tar(USTAR, entries), "")])
    folder = write_folder(tmp_path / "layout", layout_files(blobs, {"": manifest}))
    assert (await resolve_image(f"oci:{folder}", environ=environ)).passwd == passwd


# -- hostile images -------------------------------------------------------------------------------


async def refused(files: Mapping[str, bytes], tmp_path: Path, words: str, kind: type[SidecarError]) -> None:
    folder = write_folder(tmp_path / "hostile", files)
    environ = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with pytest.raises(kind, match=words):
        await hashes(folder, environ)
    assert not list((tmp_path / "cache").rglob("*.json")), "a refused layer was cached"


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
async def test_every_blob_is_checked(tmp_path: Path, part: str) -> None:
    blobs = Blobs()
    manifest = blobs.image([(plain(), "")])
    files = layout_files(blobs, {"": manifest})
    layer, config = (json.loads(manifest)[key] for key in ("layers", "config"))
    name = {"manifest": digest(manifest), "config": config["digest"], "layer": layer[0]["digest"]}[part]
    path = f"blobs/{name.replace(':', '/')}"
    files[path] = (
        files[path].replace(b"amd64", b"amd46").replace(b"hello", b"jello").replace(b":2", b": 2"[:2])
    )
    if part == "manifest":
        files[path] += b" "
    await refused(files, tmp_path, "digest sha256:.*, wanted sha256:", DigestMismatch)


async def test_diff_id_that_lies(tmp_path: Path) -> None:
    blobs = Blobs()
    manifest = json.loads(blobs.image([(plain(), "gzip")]))
    other = Blobs()
    wrong = json.loads(other.image([(every_type(), "gzip")]))
    manifest["config"] = wrong["config"]
    blobs.data |= {wrong["config"]["digest"]: other.data[wrong["config"]["digest"]]}
    files = layout_files(blobs, {"": json.dumps(manifest).encode()})
    await refused(files, tmp_path, "layer 0, uncompressed: digest", DigestMismatch)


@pytest.mark.parametrize("delta", [-1, 1])
async def test_size_that_lies(tmp_path: Path, delta: int) -> None:
    blobs = Blobs()
    manifest = json.loads(blobs.image([(plain(), "")]))
    manifest["layers"][0]["size"] += delta
    files = layout_files(blobs, {"": json.dumps(manifest).encode()})
    await refused(files, tmp_path, "layer 0: (over )?[0-9]+ bytes", DigestMismatch)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
async def test_damaged_compression(tmp_path: Path, kind: str) -> None:
    packed = compress(every_type(), kind)
    for damaged in (packed[: len(packed) // 2], packed[:40] + b"\xff" * 40 + packed[80:]):
        blobs = Blobs()
        manifest = json.loads(blobs.image([(every_type(), kind)]))
        manifest["layers"] = [blobs.describe(f"{LAYER}+{kind}", damaged)]
        files = layout_files(blobs, {"": json.dumps(manifest).encode()})
        await refused(files, tmp_path / str(len(damaged)), "layer 0", SidecarError)


async def test_layer_that_the_reference_refuses(tmp_path: Path) -> None:
    blobs = Blobs()
    twice = make_tar(USTAR, [file("f", b"1"), file("f", b"2")])
    files = layout_files(blobs, {"": blobs.image([(plain(), ""), (twice, "gzip")])})
    folder = write_folder(tmp_path / "x", files)
    with pytest.raises(LayerRejected, match="layer 1: /f: cannot overwrite") as caught:
        await hashes(folder, {"HOME": str(tmp_path)})
    assert "holds this file twice" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schemaVersion": 1}, "schemaVersion 1, wanted 2"),
        ({"layers": "x"}, "layers: is a string"),
        ({"layers": []}, "0 layers, but 1 diff_ids"),
        ({"manifests": []}, "an index and a manifest in one"),
        ({"config": None}, "config: is null"),
        ({"mediaType": "text/plain"}, "is no image"),
        ({"layers": [{"mediaType": LAYER, "digest": "sha256:AB", "size": 1}]}, "digest 'sha256:AB'"),
        ({"layers": [{"mediaType": LAYER, "digest": ZEROS, "size": -1}]}, "size -1"),
        ({"layers": [{"mediaType": LAYER, "digest": ZEROS, "size": 1 << 60}]}, "at most"),
        (
            {"layers": [{"mediaType": f"{LAYER}+encrypted", "digest": ZEROS, "size": 1}]},
            "no file",
        ),
    ],
)
async def test_malformed_manifest(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    blobs = Blobs()
    manifest = json.loads(blobs.image([(plain(), "")])) | change
    entry = blobs.describe("application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode())
    files = layout_files(blobs, {}) | {
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    }
    await refused(files, tmp_path, words, MalformedInput)


async def test_image_without_layers(tmp_path: Path) -> None:
    blobs = Blobs()
    await refused(layout_files(blobs, {"": blobs.image([])}), tmp_path, "has no layers", MalformedInput)


async def test_indexes_in_a_circle_of_indexes(tmp_path: Path) -> None:
    blobs = Blobs()
    document = blobs.image([(plain(), "")])
    for _ in range(4):
        entry = blobs.describe(json.loads(document)["mediaType"], document)
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
        document = json.dumps(index | {"manifests": [entry]}).encode()
    await refused(layout_files(blobs, {"": document}), tmp_path, "nested more than 3", MalformedInput)


async def test_no_name_leads_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"{}")
    files = docker_files([plain()], {}, [])
    files["manifest.json"] = files["manifest.json"].replace(b"config.json", b"../secret")
    path = write_archive(tmp_path / "image.tar", files, {"link": "../../../../etc/passwd"})
    with pytest.raises(UsageError, match=r"holds no \.\./secret"):
        await hashes(path, {"HOME": str(tmp_path)})
    with pytest.raises(UsageError, match=r"\.\./secret: leads out of the folder"):
        await hashes(write_folder(tmp_path / "folder", files), {"HOME": str(tmp_path)})


async def test_layout_with_a_link_for_a_blob(tmp_path: Path) -> None:
    blobs = Blobs()
    manifest = blobs.image([(plain(), "")])
    folder = write_folder(tmp_path / "layout", layout_files(blobs, {"": manifest}))
    blob = folder / "blobs" / "sha256" / digest(manifest)[7:]
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link"):
        await hashes(folder, {"HOME": str(tmp_path)})


async def test_names_that_fit_nothing(tmp_path: Path, environ: dict[str, str]) -> None:
    folder = write_folder(tmp_path / "layout", two_layers())
    with pytest.raises(UsageError, match="0 images fit, wanted image v2; it names v1"):
        await hashes(f"oci:{folder}:v2", environ)
    with pytest.raises(UsageError, match="No such file"):
        await hashes(tmp_path / "nothing.tar", environ)
    packed = tmp_path / "packed.tar"
    packed.write_bytes(compress(plain(), "gzip"))
    with pytest.raises(UsageError, match="is compressed"):
        await hashes(packed, environ)
    other = write_archive(tmp_path / "other.tar", {"x": b""})
    with pytest.raises(UsageError, match="holds neither"):
        await hashes(other, environ)


# -- the store of buildah -------------------------------------------------------------------------


class Buildah:
    """Makes images in a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "store"
        self._options = [
            "--root",
            str(self.root),
            "--runroot",
            str(folder / "run"),
            "--storage-driver",
            "vfs",
        ]
        self._policy = folder / "policy.json"
        self._policy.write_text('{"default":[{"type":"insecureAcceptAnything"}]}')

    def run(self, *words: str) -> str:
        command = ["buildah", *self._options, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    def build(self, name: str, base: str, folder: Path) -> None:
        """A layer of a folder's content on a base."""
        container = self.run("from", "--signature-policy", str(self._policy), "--pull-never", base)
        self.run("copy", "-q", container, str(folder), "/")
        self.run("config", "--entrypoint", '["/bin/app"]', "--env", "A=b", container)
        self.run("commit", "-q", "--signature-policy", str(self._policy), container, name)

    def push(self, name: str, target: str) -> None:
        self.run("push", "-q", "--tls-verify=false", "--signature-policy", str(self._policy), name, target)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    folder = tmp_path / "content"
    (folder / "usr" / "lib").mkdir(parents=True)
    (folder / "lib").symlink_to("usr/lib")
    (folder / "usr" / "lib" / "empty").touch()
    (folder / "usr" / "lib" / "data").write_bytes(bytes(range(256)) * 100)
    (folder / "usr" / "lib" / "hard").hardlink_to(folder / "usr" / "lib" / "data")
    (folder / ("n" * 150)).write_text("long")
    return folder


@pytest.mark.registry
@pytest.mark.root
async def test_store_of_buildah(tmp_path: Path, content: Path, environ: dict[str, str]) -> None:
    buildah = Buildah(tmp_path)
    buildah.build("localhost/base:1", "scratch", content)
    top = tmp_path / "top"
    (top / "usr" / "lib").mkdir(parents=True)
    (top / "usr" / "lib" / "more").write_text("more")
    buildah.build("localhost/team/app:1", "localhost/base:1", top)
    stored = await hash_image(f"containers-storage:[vfs@{buildah.root}]localhost/team/app:1", environ=environ)
    buildah.push("localhost/team/app:1", f"docker-archive:{tmp_path}/docker.tar:app:1")
    buildah.push("localhost/team/app:1", f"oci-archive:{tmp_path}/oci.tar")
    assert len(stored.layers) == 2
    assert stored.image.config.config.env[-1] == "A=b"
    for other in ("docker.tar", "oci.tar"):
        environ["XDG_CACHE_HOME"] = str(tmp_path / other / "cache")
        assert await hashes(tmp_path / other, environ) == root_hashes(stored)
    with pytest.raises(UsageError, match="no image nothing; it names localhost/base:1, localhost/team/app:1"):
        await hashes(f"containers-storage:[vfs@{buildah.root}]nothing", environ)
    with run_registry(tmp_path / "registry") as registry:
        buildah.push("localhost/team/app:1", f"docker://{registry.host}/team/app:1")
        environ["XDG_CACHE_HOME"] = str(tmp_path / "pushed")
        assert await hashes(f"{registry.host}/team/app:1", environ) == root_hashes(stored)
    with_overlay = as_overlay(buildah.root, tmp_path / "overlay")
    environ["XDG_CACHE_HOME"] = str(tmp_path / "overlaid")
    assert await hashes(f"containers-storage:[{with_overlay}]team/app:1", environ) == root_hashes(stored)
    for copy in buildah.root.glob("vfs/dir/*/usr/lib/more"):
        copy.write_text("MORE")
    environ["XDG_CACHE_HOME"] = str(tmp_path / "another")
    with pytest.raises(DigestMismatch, match="layer 1"):
        await hashes(f"containers-storage:[vfs@{buildah.root}]team/app:1", environ)


def as_overlay(store: Path, target: Path) -> Path:
    """A store as the overlay driver lays it out, whether or not this kernel can mount one."""
    for part in ("images", "layers"):
        shutil.copytree(store / f"vfs-{part}", target / f"overlay-{part}")
    for layer in (store / "vfs" / "dir").iterdir():
        shutil.copytree(layer, target / "overlay" / layer.name / "diff", symlinks=True)
    return target


def root_hashes(image: HashedImage) -> list[str]:
    return [layer.result.root_hash for layer in image.layers]
