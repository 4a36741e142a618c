"""The lease of one blob: its states, and what every operation does in each of them.

Strategy: what is stored is an identifier, a duration and the times that matter; the state follows from them
and the clock, so nothing has to happen when a lease runs out.

Rules: lease operations never change the ETag. A write needs the identifier while the blob is leased or being
broken; an identifier where there is no lease is refused too, so a writer learns that it lost it.

Spec: Azure Storage REST, Lease Blob: outcomes of lease operations on blobs by lease state, and outcomes of
use attempts.

Kind: pure
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from sidecar.local.refusal import Refusal

INFINITE = -1
SHORTEST, LONGEST = 15, 60
MAX_BREAK = 60


class LeaseState(StrEnum):
    """As `x-ms-lease-state` says it."""

    AVAILABLE = "available"
    LEASED = "leased"
    EXPIRED = "expired"
    BREAKING = "breaking"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Lease:
    """A blob's lease, if it ever had one.

    Attributes:
        lease_id: lower case; empty for none.
        seconds: duration asked for, or INFINITE.
        until: Unix seconds when it runs out, infinity for never.
        break_at: Unix seconds when a break is complete; None when not broken.
        touched: the blob was written without a lease since this one ran out.
    """

    lease_id: str = ""
    seconds: int = 0
    until: float = 0.0
    break_at: float | None = None
    touched: bool = False

    def state(self, now: float) -> LeaseState:
        """Where it stands at `now`, in Unix seconds."""
        if not self.lease_id:
            return LeaseState.AVAILABLE
        if self.break_at is not None:
            return LeaseState.BREAKING if now < self.break_at else LeaseState.BROKEN
        return LeaseState.LEASED if now < self.until else LeaseState.EXPIRED

    def is_locked(self, now: float) -> bool:
        """Whether writes need the identifier."""
        return self.state(now) in (LeaseState.LEASED, LeaseState.BREAKING)

    # -- operations -----------------------------------------------------------------------------

    def acquire(self, proposed: str, seconds: int, now: float) -> Lease:
        """A new lease, or the same identifier's with a new duration."""
        if seconds != INFINITE and not SHORTEST <= seconds <= LONGEST:
            raise Refusal(
                400, "InvalidHeaderValue", f"x-ms-lease-duration: wanted {SHORTEST} to {LONGEST} or -1"
            )
        state = self.state(now)
        if state is LeaseState.BREAKING and proposed == self.lease_id:
            raise _conflict("LeaseIsBreakingAndCannotBeAcquired", "the lease is being broken")
        if state is LeaseState.BREAKING or (state is LeaseState.LEASED and proposed != self.lease_id):
            raise _conflict("LeaseAlreadyPresent", "there is already a lease present")
        until = math.inf if seconds == INFINITE else now + seconds
        return Lease(proposed, seconds, until)

    def renew(self, given: str, now: float) -> Lease:
        """Prolong it; also after it ran out, if nobody wrote or leased since."""
        self._demand(given)
        if self.break_at is not None:
            raise _conflict("LeaseIsBrokenAndCannotBeRenewed", "the lease was broken")
        if self.state(now) is LeaseState.EXPIRED and self.touched:
            raise _conflict(
                "LeaseIdMismatchWithLeaseOperation", "the blob was modified since the lease expired"
            )
        return replace(self, until=math.inf if self.seconds == INFINITE else now + self.seconds)

    def change(self, given: str, proposed: str, now: float) -> Lease:
        """Another identifier for the same lease; again is no error."""
        state = self.state(now)
        if state is LeaseState.BREAKING:
            raise _conflict("LeaseIsBreakingAndCannotBeChanged", "the lease is being broken")
        if state is not LeaseState.LEASED:
            raise _conflict("LeaseNotPresentWithLeaseOperation", "there is no lease present")
        if self.lease_id not in (given, proposed):
            self._demand(given)
        return replace(self, lease_id=proposed)

    def release(self, given: str) -> Lease:
        """No lease; whatever its state was."""
        self._demand(given)
        return Lease()

    def broken(self, period: int | None, now: float) -> tuple[Lease, int]:
        """End it without the identifier; the lease, and seconds until the break is complete."""
        if period is not None and not 0 <= period <= MAX_BREAK:
            raise Refusal(400, "InvalidHeaderValue", f"x-ms-lease-break-period: wanted 0 to {MAX_BREAK}")
        state = self.state(now)
        if state is LeaseState.AVAILABLE:
            raise _conflict("LeaseNotPresentWithLeaseOperation", "there is no lease present")
        if state in (LeaseState.BROKEN, LeaseState.EXPIRED):
            return replace(self, break_at=now), 0
        end = self.break_at if self.break_at is not None else self.until
        if period is not None:
            end = min(end, now + period)
        elif end == math.inf:
            end = now
        return replace(self, break_at=end), math.ceil(end - now)

    # -- use ------------------------------------------------------------------------------------

    def check_write(self, given: str, now: float) -> Lease:
        """Whether a write may happen; the lease after it.

        Raises:
            Refusal: 412 with the service's word for why not.
        """
        if self.is_locked(now) and not given:
            raise _failed("LeaseIdMissing", "there is a lease on the blob and no lease ID was specified")
        self.check_read(given, now)
        return replace(self, touched=True) if self.state(now) is LeaseState.EXPIRED else self

    def check_read(self, given: str, now: float) -> None:
        """Reads need no identifier, but a wrong one is refused."""
        if not given:
            return
        state = self.state(now)
        if state is LeaseState.AVAILABLE:
            raise _failed("LeaseNotPresentWithBlobOperation", "there is no lease on the blob")
        if given != self.lease_id:
            raise _failed("LeaseIdMismatchWithBlobOperation", "the lease ID did not match")
        if not self.is_locked(now):
            raise _failed("LeaseLost", "the lease has expired")

    def _demand(self, given: str) -> None:
        if not self.lease_id or given != self.lease_id:
            raise _conflict("LeaseIdMismatchWithLeaseOperation", "the lease ID did not match")


def _conflict(code: str, message: str) -> Refusal:
    return Refusal(409, code, message)


def _failed(code: str, message: str) -> Refusal:
    return Refusal(412, code, message)
