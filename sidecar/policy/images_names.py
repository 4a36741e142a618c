"""What an image is called on a command line, and where it therefore is.

    docker-archive:PATH[:NAME]      a file written by docker save
    oci-archive:PATH[:NAME]         a tar archive of an OCI layout
    oci:PATH[:NAME]                 an OCI layout
    containers-storage:[[DRIVER@]ROOT]NAME    where buildah and podman keep images
    docker://NAME                   a registry
    PATH                            a file or folder that is there, of any of the first three kinds
    NAME                            a registry: [HOST[:PORT]/]PATH[:TAG][@DIGEST]

Spec: containers-transports(5); the grammar of names is that of the distribution project's reference package.

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sidecar.errors import UsageError
from sidecar.policy.oci import check_digest

# The public registry that names without a host mean, and the host that serves it.
HUB = ".".join(("docker", "io"))
HUB_HOST = f"registry-1.{HUB}"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9a-fA-F:]{2,45}\])(?::[0-9]{1,5})?\Z")
_STORAGE = re.compile(
    r"(?:\[(?:(?P<driver>[a-z0-9]+)@)?(?P<root>/[^\]+]*)(?:\+[^\]]*)?\])?(?P<name>[^\[\]]+)\Z"
)
_MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class PathName:
    """A file or folder; `reference` chooses an image in it and may be empty."""

    path: Path
    reference: str = ""


@dataclass(frozen=True, slots=True)
class StorageName:
    """An image in a local store; driver and root are empty for the user's own."""

    name: str
    driver: str = ""
    root: str = ""


@dataclass(frozen=True, slots=True)
class RegistryName:
    """An image in a registry; the tag is not looked at when there is a digest."""

    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """What a registry is asked for."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tail = f"@{self.digest}" if self.digest else f":{self.reference}"
        return f"{self.host}/{self.path}{tail}"


ImageName = PathName | StorageName | RegistryName


def parse_name(text: str) -> ImageName:
    """Read an image's name; a bare one is a path when it looks like one (`/`, `./`, `../` at its start).

    Raises:
        UsageError: it is none.
    """
    scheme, colon, rest = text.partition(":")
    if colon and scheme in ("docker-archive", "oci-archive", "oci"):
        path, _, reference = rest.partition(":")
        if not path:
            raise UsageError(f"image {text!r}: no path after {scheme}:")
        return PathName(Path(path), reference)
    if colon and scheme == "containers-storage":
        found = _STORAGE.match(rest)
        if found is None:
            raise UsageError(f"image {text!r}, wanted containers-storage:[DRIVER@ROOT]NAME")
        return StorageName(found["name"], found["driver"] or "", found["root"] or "")
    if text.startswith(("/", "./", "../")):
        return PathName(Path(text))
    return parse_registry_name(rest[2:] if scheme == "docker" and rest.startswith("//") else text)


def parse_registry_name(text: str) -> RegistryName:
    """Read a name in a registry, with Docker's short forms.

    Raises:
        UsageError: it is none.
    """
    name, _, digest = text.partition("@")
    if digest:
        check_digest(digest, f"image {text[:300]!r}")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, path = first, rest
    else:
        host, path = HUB, name
    path, _, tag = path.partition(":")
    if host in (HUB, f"index.{HUB}"):
        host, path = HUB_HOST, path if "/" in path else f"library/{path}"
    wrong = not _HOST.match(host) or not _PATH.match(path) or len(path) > _MAX_NAME
    if wrong or (tag and not _TAG.match(tag)) or ("@" in text and not digest):
        raise UsageError(
            f"image {text[:300]!r}, wanted [HOST[:PORT]/]PATH[:TAG][@DIGEST] or a file",
            hint="a file is written with its path, like ./image.tar",
        )
    return RegistryName(host, path, tag, digest)
