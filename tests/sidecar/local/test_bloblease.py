"""A lease's states as a table: every operation in each of them, as the service's documentation has it."""

from __future__ import annotations

import pytest

from sidecar.local.bloblease import INFINITE, Lease, LeaseState
from sidecar.local.refusal import Refusal

A, B = "aaaaaaaa-0000-0000-0000-000000000000", "bbbbbbbb-0000-0000-0000-000000000000"
NOW = 1000.0
STATES = {
    "available": Lease(),
    "leased": Lease(A, 60, NOW + 30),
    "breaking": Lease(A, 60, NOW + 30, break_at=NOW + 10),
    "broken": Lease(A, 60, NOW + 30, break_at=NOW - 1),
    "expired": Lease(A, 60, NOW - 1),
}
MISMATCH, ABSENT = "LeaseIdMismatchWithLeaseOperation", "LeaseNotPresentWithLeaseOperation"
# Operation, state -> the state after it, or the service's word for no.
TABLE = {
    ("acquire A", "available"): "leased",
    ("acquire A", "leased"): "leased",
    ("acquire A", "breaking"): "LeaseIsBreakingAndCannotBeAcquired",
    ("acquire A", "broken"): "leased",
    ("acquire A", "expired"): "leased",
    ("acquire B", "available"): "leased",
    ("acquire B", "leased"): "LeaseAlreadyPresent",
    ("acquire B", "breaking"): "LeaseAlreadyPresent",
    ("acquire B", "broken"): "leased",
    ("acquire B", "expired"): "leased",
    ("renew A", "available"): MISMATCH,
    ("renew A", "leased"): "leased",
    ("renew A", "breaking"): "LeaseIsBrokenAndCannotBeRenewed",
    ("renew A", "broken"): "LeaseIsBrokenAndCannotBeRenewed",
    ("renew A", "expired"): "leased",
    ("renew B", "leased"): MISMATCH,
    ("renew B", "expired"): MISMATCH,
    ("change A", "available"): ABSENT,
    ("change A", "leased"): "leased",
    ("change A", "breaking"): "LeaseIsBreakingAndCannotBeChanged",
    ("change A", "broken"): ABSENT,
    ("change A", "expired"): ABSENT,
    ("change B", "leased"): MISMATCH,
    ("release A", "available"): MISMATCH,
    ("release A", "leased"): "available",
    ("release A", "breaking"): "available",
    ("release A", "broken"): "available",
    ("release A", "expired"): "available",
    ("release B", "leased"): MISMATCH,
    ("break", "available"): ABSENT,
    ("break", "leased"): "breaking",
    ("break", "breaking"): "breaking",
    ("break", "broken"): "broken",
    ("break", "expired"): "broken",
    ("write", "available"): "available",
    ("write", "leased"): "LeaseIdMissing",
    ("write", "breaking"): "LeaseIdMissing",
    ("write", "broken"): "broken",
    ("write", "expired"): "expired",
    ("write A", "available"): "LeaseNotPresentWithBlobOperation",
    ("write A", "leased"): "leased",
    ("write A", "breaking"): "breaking",
    ("write A", "broken"): "LeaseLost",
    ("write A", "expired"): "LeaseLost",
    ("write B", "leased"): "LeaseIdMismatchWithBlobOperation",
    ("read", "leased"): "leased",
    ("read A", "available"): "LeaseNotPresentWithBlobOperation",
    ("read A", "leased"): "leased",
    ("read B", "leased"): "LeaseIdMismatchWithBlobOperation",
    ("read A", "expired"): "LeaseLost",
}


def perform(operation: str, lease: Lease) -> Lease:
    word, _, who = operation.partition(" ")
    given = {"A": A, "B": B, "": ""}[who]
    match word:
        case "acquire":
            return lease.acquire(given, 60, NOW)
        case "renew":
            return lease.renew(given, NOW)
        case "change":
            return lease.change(given, "c" * 36, NOW)
        case "release":
            return lease.release(given)
        case "break":
            return lease.broken(None, NOW)[0]
        case "write":
            return lease.check_write(given, NOW)
        case _:
            lease.check_read(given, NOW)
            return lease


@pytest.mark.parametrize(("operation", "state"), TABLE, ids=[f"{o}-{s}" for o, s in TABLE])
def test_every_operation_in_every_state(operation: str, state: str) -> None:
    wanted = TABLE[operation, state]
    lease = STATES[state]
    assert lease.state(NOW) == state
    if wanted in tuple(LeaseState):
        assert perform(operation, lease).state(NOW) == wanted
        return
    with pytest.raises(Refusal) as caught:
        perform(operation, lease)
    assert caught.value.code == wanted
    assert caught.value.status == (412 if operation.startswith(("write", "read")) else 409)


def test_times() -> None:
    lease = Lease().acquire(A, 60, NOW)
    assert lease.state(NOW + 59) is LeaseState.LEASED
    assert lease.state(NOW + 60) is LeaseState.EXPIRED
    assert Lease().acquire(A, INFINITE, NOW).state(NOW * 1e6) is LeaseState.LEASED
    for seconds in (14, 61, 0, -2):
        with pytest.raises(Refusal, match="InvalidHeaderValue"):
            Lease().acquire(A, seconds, NOW)


@pytest.mark.parametrize(
    ("lease", "period", "left"),
    [
        (Lease(A, 60, NOW + 30), None, 30),
        (Lease(A, 60, NOW + 30), 0, 0),
        (Lease(A, 60, NOW + 30), 10, 10),
        (Lease(A, 60, NOW + 30), 60, 30),
        (Lease(A, INFINITE, float("inf")), None, 0),
        (Lease(A, INFINITE, float("inf")), 20, 20),
        (Lease(A, 60, NOW + 30, break_at=NOW + 20), 5, 5),
        (Lease(A, 60, NOW + 30, break_at=NOW + 20), 40, 20),
    ],
)
def test_breaking_takes_as_long_as_it_says(lease: Lease, period: int | None, left: int) -> None:
    broken, seconds = lease.broken(period, NOW)
    assert seconds == left
    assert broken.state(NOW + left) is LeaseState.BROKEN
    assert not broken.is_locked(NOW + left)


def test_renewing_what_ran_out_needs_that_nobody_wrote() -> None:
    expired = STATES["expired"]
    assert expired.renew(A, NOW).state(NOW) is LeaseState.LEASED
    written = expired.check_write("", NOW)
    with pytest.raises(Refusal, match=MISMATCH):
        written.renew(A, NOW)
