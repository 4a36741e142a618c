"""The images of a description: where each one is, and what it is made of.

Rules: a description names images as registries do. A file on this machine is read only where the command line
or a configuration of the user's own names it: never because a template says so.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.errors import DigestMismatch, UsageError
from sidecar.policy.arm import without_mark
from sidecar.policy.containers import ContainerGroup, ContainerSpec
from sidecar.policy.images import HashedImage, Progress, hash_image
from sidecar.policy.images_names import ImageName, PathName, parse_name, parse_registry_name
from sidecar.policy.layers_cache import LayerCache
from sidecar.strictjson import as_text, load_object

Found = Callable[[str, HashedImage], None]


@dataclass(frozen=True, slots=True)
class Archives:
    """Where images are that are on this machine: one for whatever image there is, or by name."""

    only: Path | None = None
    by_name: Mapping[str, Path] = field(default_factory=dict)


def read_archives(path: Path, read: Callable[[Path], bytes]) -> Archives:
    """What `--tar` names: an archive, a layout, or JSON from image names to such paths.

    Args:
        path: the option's value.
        read: reads a small file.

    Raises:
        MalformedInput: JSON that is not of the form.
        UsageError: it cannot be read.
    """
    if not _is_json(path):
        return Archives(only=path)
    what = f"file {path}"
    # Paths are relative to the file that holds them, so that it can be moved with its archives.
    mapping = load_object(without_mark(read(path)), what=what)
    return Archives(
        by_name={
            _full(name): path.parent / as_text(one, f"{what}: {name!r}") for name, one in mapping.items()
        }
    )


def _is_json(path: Path) -> bool:
    """Whether a file is a mapping: no archive begins with a brace."""
    try:
        if path.is_dir():
            return False
        with path.open("rb") as file:
            return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    except OSError as exc:
        raise UsageError(f"file {path}: {exc.strerror}") from exc


def image_places(groups: Iterable[ContainerGroup], archives: Archives, folder: Path) -> dict[str, ImageName]:
    """Where every image of the groups is, by the name that containers use.

    Args:
        groups: the description.
        archives: what the command line says of local files.
        folder: what a configuration's own paths are relative to.

    Raises:
        UsageError: a name that no registry could have; one archive for several images.
    """
    specs = {spec.image: spec for group in groups for spec in group.containers}
    if archives.only is not None and len(specs) > 1:
        raise UsageError(
            f"--tar {archives.only}: one archive for {len(specs)} images",
            hint="give JSON from image names to paths",
        )
    return {name: _place(spec, archives, folder) for name, spec in specs.items()}


async def resolve_images(
    places: Mapping[str, ImageName],
    environ: Mapping[str, str],
    *,
    found: Found,
    cache: LayerCache | None = None,
    progress: Progress | None = None,
) -> dict[str, HashedImage]:
    """Every image with its layers hashed; errors as of `sidecar.policy.images.hash_image`.

    Args:
        places: from `image_places`.
        environ: where credentials and the cache are looked for.
        found: told of each image.
    """
    images: dict[str, HashedImage] = {}
    for name, place in places.items():
        image = await _hash(name, place, environ, cache, progress)
        pinned = name.partition("@")[2]
        if pinned and image.image.digest != pinned:
            raise DigestMismatch(
                f"image {name}: the file on this machine is {image.image.digest or 'of no digest'}",
                hint="archives of `docker save` keep no manifest; use an OCI layout",
            )
        found(name, image)
        images[name] = image
    return images


async def _hash(
    name: str,
    place: ImageName,
    environ: Mapping[str, str],
    cache: LayerCache | None,
    progress: Progress | None,
) -> HashedImage:
    if isinstance(place, PathName) and not place.reference:
        try:
            named = PathName(place.path, name.partition("@")[0])
            return await hash_image(named, environ=environ, cache=cache, progress=progress)
        except UsageError:
            # The archive does not know the image by this name; if it holds only one, that is meant.
            pass
    return await hash_image(place, environ=environ, cache=cache, progress=progress)


def _place(spec: ContainerSpec, archives: Archives, folder: Path) -> ImageName:
    if archives.only is not None:
        return PathName(archives.only)
    if _full(spec.image) in archives.by_name:
        return PathName(archives.by_name[_full(spec.image)])
    if spec.archive is not None:
        place = parse_name(spec.archive) if ":" in spec.archive else PathName(Path(spec.archive))
        return PathName(folder / place.path, place.reference) if isinstance(place, PathName) else place
    return parse_registry_name(spec.image)


def _full(name: str) -> str:
    """A name with the tag that it has without saying so."""
    return name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
