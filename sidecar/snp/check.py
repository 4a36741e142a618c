"""One verification step and its outcome, and which error a failure of each cause becomes.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from sidecar.errors import (
    CertificateRejected,
    CertificateRevoked,
    EndorsementRejected,
    MalformedInput,
    PolicyRejected,
    SignatureRejected,
    VerificationFailed,
)


class Cause(StrEnum):
    """What is wrong when a check fails; the command line has an exit code for each."""

    CERTIFICATE = "certificate"
    SIGNATURE = "signature"
    POLICY = "policy"
    REVOCATION = "revocation"
    ENDORSEMENT = "endorsement"


_ERRORS: dict[Cause, type[VerificationFailed]] = {
    Cause.CERTIFICATE: CertificateRejected,
    Cause.SIGNATURE: SignatureRejected,
    Cause.POLICY: PolicyRejected,
    Cause.REVOCATION: CertificateRevoked,
    Cause.ENDORSEMENT: EndorsementRejected,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One step.

    Attributes:
        name: stable, for machines and people.
        ok: passed.
        detail: what was seen; for a failure also what was wanted.
        hint: what to do about a failure.
    """

    name: str
    ok: bool
    detail: str
    cause: Cause
    hint: str = ""

    def error(self) -> VerificationFailed:
        """The error this failed check ends in."""
        return _ERRORS[self.cause](f"{self.name}: {self.detail}", hint=self.hint)


class Refused(Exception):
    """Raised inside a step to fail it; never leaves `run`."""


def run(name: str, cause: Cause, step: Callable[[], str], *, hint: str = "") -> Check:
    """Run one step: its return value is the detail of a pass, `Refused` or malformed input a failure."""
    try:
        return Check(name, True, str(step()), cause)
    except Refused as exc:
        return Check(name, False, str(exc), cause, hint)
    except MalformedInput as exc:
        return Check(name, False, str(exc), cause, hint or exc.hint)
