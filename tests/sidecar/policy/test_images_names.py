"""Names of images: every form, Docker's short ones, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import MalformedInput, SidecarError, UsageError
from sidecar.policy.images_names import (
    HUB_HOST,
    ImageName,
    PathName,
    RegistryName,
    StorageName,
    parse_name,
)

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", RegistryName(HUB_HOST, "library/busybox")),
        ("team/app:v1", RegistryName(HUB_HOST, "team/app", "v1")),
        ("docker://reg.example/a/b/c", RegistryName("reg.example", "a/b/c")),
        ("localhost/app", RegistryName("localhost", "app")),
        ("reg:5000/app:v1", RegistryName("reg:5000", "app", "v1")),
        ("[::1]:5000/app", RegistryName("[::1]:5000", "app")),
        (f"reg.example/app:v1@{DIGEST}", RegistryName("reg.example", "app", "v1", DIGEST)),
        ("./a", PathName(Path("a"))),
        ("/a/b", PathName(Path("/a/b"))),
        ("image.tar", PathName(Path("image.tar"))),
        ("oci:/a:v1", PathName(Path("/a"), "v1")),
        ("docker-archive:a.tar:reg:5000/app:v1", PathName(Path("a.tar"), "reg:5000/app:v1")),
        ("containers-storage:app", StorageName("app")),
        ("containers-storage:[vfs@/s+/run]app:v1", StorageName("app:v1", "vfs", "/s")),
        ("containers-storage:[/s]app", StorageName("app", "", "/s")),
    ],
)
def test_name(text: str, name: ImageName) -> None:
    assert parse_name(text) == name


def test_what_a_registry_is_asked_for() -> None:
    assert RegistryName("h", "p").reference == "latest"
    assert RegistryName("h", "p", "v1", DIGEST).reference == DIGEST
    assert str(RegistryName("h", "p", "v1", DIGEST)) == f"h/p@{DIGEST}"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", UsageError),
        ("UPPER", UsageError),
        ("reg.example/", UsageError),
        ("reg.example/../x", UsageError),
        ("reg.example/a//b", UsageError),
        ("app:", UsageError),
        ("app:-x", UsageError),
        ("app@", UsageError),
        ("app@sha256:AB", MalformedInput),
        ("user@reg.example/app", SidecarError),
        ("reg.example:99999999/app", UsageError),
        ("a" * 300, UsageError),
        ("oci:", UsageError),
        ("containers-storage:[", UsageError),
        ("reg.example/app?x=y", UsageError),
        ("reg.example/app\r\nhost: x", UsageError),
    ],
)
def test_no_name(text: str, kind: type[SidecarError]) -> None:
    with pytest.raises(kind):
        parse_name(text)
