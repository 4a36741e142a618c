"""Follows a few small files through an image's layers: /etc/passwd and /etc/group.

A layer can write such a file, remove it (a whiteout of it or of the directory above it, or something that is
no regular file in its place), or say nothing of it.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass, field

PASSWD = (b"etc", b"passwd")
GROUP = (b"etc", b"group")
MAX_FILE = 1 << 20  # bytes; a larger one is taken for unreadable

Path = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FileChange:
    """What one layer does to one file: `hides` what lower layers have; `content` is None for no file."""

    hides: bool = False
    content: bytes | None = None

    def over(self, below: bytes | None) -> bytes | None:
        """The file after this layer lies over one in which it was `below`."""
        return self.content if self.hides or self.content is not None else below


@dataclass(frozen=True, slots=True)
class TrackedFiles:
    """What one layer does to the files that a policy is made from; public."""

    passwd: FileChange = FileChange()
    group: FileChange = FileChange()


@dataclass
class _State:
    hides: bool = False
    content: bytearray | None = None


@dataclass
class FileTracker:
    """Told of every entry of a layer, in order."""

    _states: dict[Path, _State] = field(default_factory=lambda: {PASSWD: _State(), GROUP: _State()})

    def start(self, path: Path, size: int) -> bytearray | None:
        """A regular file comes; where its bytes are to go, None when nobody wants them."""
        state = self._states.get(path)
        if state is None:
            self._replace_above(path)
            return None
        state.hides = True
        state.content = bytearray() if size <= MAX_FILE else None
        return state.content

    def replace(self, path: Path, *, directory: bool) -> None:
        """Something else than a regular file comes."""
        self.forget(path)
        if not directory:
            self._replace_above(path)

    def forget(self, path: Path) -> None:
        """What comes is not a file whose bytes are at hand, for example a hard link."""
        if path in self._states:
            self._states[path] = _State(hides=True)

    def remove(self, path: Path) -> None:
        """A whiteout of this path."""
        self.forget(path)
        self._replace_above(path)

    def hide_below(self, directory: Path) -> None:
        """An opaque whiteout: lower layers' files in the directory are gone, this layer's stay."""
        for path, state in self._states.items():
            if path[: len(directory)] == directory:
                state.hides = True

    def result(self) -> TrackedFiles:
        """What the layer does to each file."""
        passwd, group = (self._change(path) for path in (PASSWD, GROUP))
        return TrackedFiles(passwd, group)

    def _change(self, path: Path) -> FileChange:
        state = self._states[path]
        return FileChange(state.hides, None if state.content is None else bytes(state.content))

    def _replace_above(self, above: Path) -> None:
        for path in self._states:
            if path != above and path[: len(above)] == above:
                self._states[path] = _State(hides=True)
