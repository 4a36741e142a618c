"""Every error of the package, with exit code, HTTP status and the hint a user needs.

    SidecarError
    |-- UsageError          2  400  command line, settings or a request body is wrong
    |   |-- HostNotAllowed     15  403  a host is not on the allow-list; nothing was sent to it
    |   `-- KeyNotAllowed      16  403  the settings do not give this key to this caller; nothing was sent
    |-- MalformedInput      3  400  bytes from outside do not parse: report, certificate, token, key
    |   `-- LayerRejected       3  400  an image layer is not what the guest's converter takes
    |       `-- LayerUnpredictable  3  400  the guest's converter may give another result on each run
    |-- ReportUnavailable   4  503  no SNP report could be had
    |   `-- SourceAbsent        4  503  this machine lacks this source; another one may be there
    |-- VerificationFailed  5  403  a signature, chain or policy check failed
    |   |-- CertificateRejected  10  403  the chain does not lead from a trusted root to the report
    |   |-- SignatureRejected    11  403  the report's signature is wrong or of a kind that proves nothing
    |   |-- PolicyRejected       12  403  the evidence is genuine, but is not what the verifier asked for
    |   |-- CertificateRevoked   13  403  a certificate is revoked, or the revocation list is unusable
    |   |-- EndorsementRejected  14  403  a UVM endorsement or policy fragment is not to be believed
    |   `-- DigestMismatch        5  403  a blob's bytes do not have the digest they are named by
    |-- ServiceError        6  502  a service could not be reached or answered with an error
    |   |-- AttestationRefused  7  403  the attestation authority refused the evidence
    |   `-- ReleaseRefused      8  403  the vault refused to release the key
    |       `-- AttestationRejected 8  403  it does not accept the attestation token, or not for this key
    |           `-- PolicyNotMet        8  403  the token misses claims of the release policy, named here
    |-- IdentityError       9  403  no access token could be had
    `-- Overloaded         17  503  too many requests are under way

Rules: a message names the object, the value seen, then the value wanted; `hint` says what to do next.
No error text ever holds a secret. Only `app` maps errors to HTTP, only `cli` to exit codes.

Kind: pure
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the `sidecar` command; listed in `sidecar --help`."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    MALFORMED = 3
    REPORT_UNAVAILABLE = 4
    VERIFICATION_FAILED = 5
    SERVICE = 6
    ATTESTATION_REFUSED = 7
    RELEASE_REFUSED = 8
    IDENTITY = 9
    CERTIFICATE_REJECTED = 10
    SIGNATURE_REJECTED = 11
    POLICY_REJECTED = 12
    CERTIFICATE_REVOKED = 13
    ENDORSEMENT_REJECTED = 14
    HOST_NOT_ALLOWED = 15
    KEY_NOT_ALLOWED = 16
    OVERLOADED = 17
    INTERRUPTED = 130


class SidecarError(Exception):
    """Base of all errors this package raises on purpose.

    Args:
        message: one sentence, lower case, no full stop, no secret.
        hint: what the user can do next; empty when nothing useful is known.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    http_status: int = 500

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SidecarError):
    """Command line, settings or a request body is wrong."""

    exit_code = ExitCode.USAGE
    http_status = 400


class MalformedInput(SidecarError):
    """Bytes from outside do not parse."""

    exit_code = ExitCode.MALFORMED
    http_status = 400


class LayerRejected(MalformedInput):
    """An image layer is not a tar archive that the guest's converter would take."""


class LayerUnpredictable(LayerRejected):
    """A layer whose root hash depends on more than its bytes; a policy made with it would fail at random."""


class ReportUnavailable(SidecarError):
    """No SNP report could be had."""

    exit_code = ExitCode.REPORT_UNAVAILABLE
    http_status = 503


class SourceAbsent(ReportUnavailable):
    """This machine lacks this source of reports; another one may be there."""


class VerificationFailed(SidecarError):
    """A signature, chain or policy check failed."""

    exit_code = ExitCode.VERIFICATION_FAILED
    http_status = 403


class CertificateRejected(VerificationFailed):
    """The certificate chain does not lead from a trusted root to the report."""

    exit_code = ExitCode.CERTIFICATE_REJECTED


class SignatureRejected(VerificationFailed):
    """The report's signature is wrong or of a kind that proves nothing."""

    exit_code = ExitCode.SIGNATURE_REJECTED


class PolicyRejected(VerificationFailed):
    """The evidence is genuine, but is not what the verifier asked for."""

    exit_code = ExitCode.POLICY_REJECTED


class CertificateRevoked(VerificationFailed):
    """A certificate is on AMD's revocation list, or the list cannot be used."""

    exit_code = ExitCode.CERTIFICATE_REVOKED


class EndorsementRejected(VerificationFailed):
    """A signed statement (UVM endorsement, policy fragment) is not to be believed."""

    exit_code = ExitCode.ENDORSEMENT_REJECTED


class DigestMismatch(VerificationFailed):
    """A blob's bytes do not have the digest that they are named by."""


class ServiceError(SidecarError):
    """A service could not be reached or answered with an error."""

    exit_code = ExitCode.SERVICE
    http_status = 502


class AttestationRefused(ServiceError):
    """The attestation authority refused the evidence."""

    exit_code = ExitCode.ATTESTATION_REFUSED
    http_status = 403


class ReleaseRefused(ServiceError):
    """The vault refused to release the key."""

    exit_code = ExitCode.RELEASE_REFUSED
    http_status = 403


class AttestationRejected(ReleaseRefused):
    """The vault does not accept the attestation token, or not for this key."""


class PolicyNotMet(AttestationRejected):
    """The token misses claims that the key's release policy demands; the message names them."""


class IdentityError(SidecarError):
    """No access token could be had."""

    exit_code = ExitCode.IDENTITY
    http_status = 403


class HostNotAllowed(UsageError):
    """A host is not on the allow-list; nothing was sent to it."""

    exit_code = ExitCode.HOST_NOT_ALLOWED
    http_status = 403


class KeyNotAllowed(UsageError):
    """The settings do not give this key to this caller; nothing was sent."""

    exit_code = ExitCode.KEY_NOT_ALLOWED
    http_status = 403


class Overloaded(SidecarError):
    """Too many requests are under way to start another one."""

    exit_code = ExitCode.OVERLOADED
    http_status = 503
