"""Real registries on loopback: Debian's docker-registry, as a process of its own."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidecar.policy.oci import digest_of

CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:0"}}
"""
_READY_SECONDS = 20
_LISTENING = re.compile(r"listening on \S+:(\d+)")
_ACCEPT = ", ".join(f"application/vnd.oci.image.{kind}.v1+json" for kind in ("manifest", "index"))


@contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """Serves from an empty folder on a free port; its HOST:PORT. It has no referrers API."""
    config = folder / "registry.yml"
    config.write_text(CONFIG.format(folder=folder / "data"))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    lines = process.stderr
    stop = threading.Timer(_READY_SECONDS, process.kill)
    # Read on to the end, so that its pipe never fills up.
    drain = threading.Thread(target=lines.read, daemon=True)
    stop.start()
    try:
        port = next((found[1] for line in lines if (found := _LISTENING.search(line))), "")
        stop.cancel()
        assert port, "docker-registry did not start"
        drain.start()
        yield f"127.0.0.1:{port}"
    finally:
        stop.cancel()
        process.terminate()
        process.wait(10)
        if drain.is_alive():
            drain.join(10)
        lines.close()


def put(url: str, data: bytes, media_type: str, method: str = "PUT") -> dict[str, str]:
    request = urllib.request.Request(url, data, {"content-type": media_type}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}


def get(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"accept": _ACCEPT})
    with urllib.request.urlopen(request, timeout=10) as answer:
        found: bytes = answer.read()
        return found


def put_blob(host: str, path: str, data: bytes) -> dict[str, Any]:
    """Push a blob by hand; its descriptor without a media type."""
    place = put(f"http://{host}/v2/{path}/blobs/uploads/", b"", "application/json", "POST")["location"]
    digest = digest_of(data)
    put(f"{place}{'&' if '?' in place else '?'}digest={digest}", data, "application/octet-stream")
    return {"digest": digest, "size": len(data)}


def layer_tar(name: str) -> bytes:
    """An image layer of one file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return packed.getvalue()


def put_image(
    host: str, path: str, *tags: str, architecture: str = "amd64", file: str = "file"
) -> dict[str, Any]:
    """Push an image of one layer by hand; the descriptor of its manifest."""
    platform = {"os": "linux", "architecture": architecture}
    layer = layer_tar(f"{file}-{architecture}")
    config = {
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
        "config": {"Env": ["PATH=/bin"], "Entrypoint": [f"/{architecture}"]},
    }
    whole = json.dumps(platform | config).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put_blob(host, path, whole)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **put_blob(host, path, layer)}],
    }
    data = json.dumps(manifest).encode()
    for tag in (*tags, digest_of(data)):
        put(f"http://{host}/v2/{path}/manifests/{tag}", data, str(manifest["mediaType"]))
    return {
        "mediaType": manifest["mediaType"],
        "digest": digest_of(data),
        "size": len(data),
        "platform": platform,
    }


def put_index(host: str, path: str, tag: str, *entries: dict[str, Any]) -> str:
    """Push an image index by hand; its digest."""
    media_type = "application/vnd.oci.image.index.v1+json"
    data = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)}).encode()
    put(f"http://{host}/v2/{path}/manifests/{tag}", data, media_type)
    return digest_of(data)
