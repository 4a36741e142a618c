"""The driver's pulse: a page of shared memory that the driver writes and its supervisor reads.

Why shared memory: the supervisor must see that a driver is wedged at the very moment when neither may
allocate memory, and without touching the mount (which would wedge the supervisor too).

Layout, u64 each in the machine's byte order: beats (grows while the event loop runs), requests begun and
ended; and of a volume with a cache: requests that its store answered, bytes not stored, number of the last
write accepted, number up to which all are stored, puts that failed; and of a blob: the lease (0 none, 1 held,
2 lost), when the store's token expires in Unix seconds (0 for no token); and of every volume, how often a
hash tree or a tag told that data was changed.

Kind: adapter
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from encfs.errors import EncfsError

log = logging.getLogger(__name__)

_PAGE = struct.Struct("=QQQQQQQQQQQ")
_STORE = struct.Struct("=QQQQQ")
_STORE_AT = 24
_BLOB = struct.Struct("=QQ")
_BLOB_AT = 64
_TAMPERED_AT = 10  # in words
# How often the watchdog looks: so often within a deadline, but not less than once a second.
_LOOKS = 6
_LOOK_SECONDS = 1.0
LEASES = ("none", "held", "lost")


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the page."""

    beats: int
    begun: int
    ended: int
    answered: int = 0
    dirty: int = 0
    accepted: int = 0
    stored: int = 0
    failures: int = 0
    lease: int = 0
    token_expiry: int = 0
    tampered: int = 0

    @property
    def in_flight(self) -> int:
        """Requests taken from the kernel and not answered yet."""
        return self.begun - self.ended


class Pulse:
    """The shared page. Make it with `create` in the supervisor; hand `fd` to the driver."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._page = mmap.mmap(fd, mmap.PAGESIZE)
        # Our byte order is the page's: both processes run on one machine.
        self._counts = memoryview(self._page).cast("Q")
        self._beats = 0
        self._begun = 0
        self._ended = 0
        self._tampered = 0
        self._last: Reading | None = None

    @classmethod
    def create(cls) -> Pulse:
        fd = os.memfd_create("encfs-pulse", os.MFD_CLOEXEC)
        os.ftruncate(fd, mmap.PAGESIZE)
        return cls(fd)

    def beat(self) -> None:
        """Say that the event loop is alive."""
        self._beats += 1
        self._counts[0] = self._beats

    def begin(self) -> None:
        """A request was taken from the kernel."""
        self._begun += 1
        self._counts[1] = self._begun

    def end(self) -> None:
        """A request was answered."""
        self._ended += 1
        self._counts[2] = self._ended

    def tell_store(self, answered: int, dirty: int, accepted: int, stored: int, failures: int) -> None:
        """Say how a volume's cache stands with its store; the words are those of the layout."""
        _STORE.pack_into(self._page, _STORE_AT, answered, dirty, accepted, stored, failures)

    def tell_blob(self, lease: str, token_expiry: int) -> None:
        """Say how a blob's lease, one of `LEASES`, and its token stand."""
        _BLOB.pack_into(self._page, _BLOB_AT, LEASES.index(lease), token_expiry)

    def tell_tampered(self) -> None:
        """Data was changed: a reader got an error."""
        self._tampered += 1
        self._counts[_TAMPERED_AT] = self._tampered

    def busy(self) -> bool:
        """Whether a request is being served; for the process that writes the page."""
        return self._begun != self._ended

    def read(self) -> Reading:
        """One look; after `close`, what was there at the end."""
        return self._last or Reading(*_PAGE.unpack_from(self._page, 0))

    def close(self) -> None:
        """Give the page back. Once."""
        self._last = self.read()
        self._counts.release()
        self._page.close()
        os.close(self.fd)


class Watch:
    """Decides from readings whether a driver is stuck.

    Stuck means: for `deadline` seconds the event loop did not run, or a request stayed unanswered and none
    was answered in that time, neither by the driver nor by its store: one that is slow is not stuck.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._last = Reading(0, 0, 0)
        self._beat_at: float | None = None
        self._progress_at: float | None = None

    def is_stuck(self, reading: Reading, now: float) -> bool:
        """Take a reading made at `now` (seconds, monotonic)."""
        last, self._last = self._last, reading
        if self._beat_at is None or reading.beats != last.beats:
            self._beat_at = now
        moved = (reading.ended, reading.answered) != (last.ended, last.answered)
        if self._progress_at is None or moved or not reading.in_flight:
            self._progress_at = now
        return now - min(self._beat_at, self._progress_at) > self.deadline


class Watchdog:
    """Watches a driver from a thread of its own, and cuts it off when it is stuck.

    Why a thread: whatever else the supervisor does, from opening a file to writing a line of its log, the
    kernel can make it wait for the very driver that is stuck. This thread opens and allocates nothing.

    Args:
        pulse: of the driver; must outlive the thread.
        deadline: as of `Watch`, seconds.
        cut_off: ends the driver's FUSE connection; called once, in the thread. What it raises is logged.
    """

    def __init__(self, pulse: Pulse, deadline: float, cut_off: Callable[[], None]) -> None:
        self.fired = False
        self._pause = min(_LOOK_SECONDS, deadline / _LOOKS)
        self._pulse = pulse
        self._watch = Watch(deadline)
        self._cut_off = cut_off
        # Held as long as the thread is wanted: waiting for it is a pause that `stop` can end.
        self._wanted = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._wanted.acquire()
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended, or was never started; it can be called again."""
        if self._thread.is_alive() and self._wanted.locked():
            self._wanted.release()
            self._thread.join()

    def _run(self) -> None:
        while not self._wanted.acquire(timeout=self._pause):
            if self._watch.is_stuck(self._pulse.read(), time.monotonic()):
                try:
                    self._cut_off()
                except (EncfsError, OSError) as exc:
                    log.error("cutting off the driver: %s", exc)
                self.fired = True
                return
