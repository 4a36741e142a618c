"""From an error answer of the blob service to our error, with the hint that helps.

Which answers may be repeated is decided here and nowhere else: `StoreUnavailable` may, all others may not.

Spec: Azure Storage REST, Blob service error codes; Status and error codes.

Kind: pure
"""

from __future__ import annotations

from encfs.block.blobcodec import ErrorReply
from encfs.errors import (
    AccessDenied,
    EncfsError,
    ImageBusy,
    ImageChanged,
    ImageMissing,
    LeaseLost,
    StoreError,
    StoreUnavailable,
)

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
# Answers to a write or renewal that say the lease is not, or no longer, ours.
_LEASE_GONE = frozenset(
    {
        "LeaseIdMismatchWithBlobOperation",
        "LeaseIdMismatchWithLeaseOperation",
        "LeaseIsBreakingAndCannotBeChanged",
        "LeaseIsBrokenAndCannotBeRenewed",
        "LeaseLost",
        "LeaseNotPresentWithBlobOperation",
        "LeaseNotPresentWithLeaseOperation",
    }
)
_LEASE_HELD = frozenset({"LeaseAlreadyPresent", "LeaseIdMissing", "LeaseIsBreakingAndCannotBeAcquired"})
_DENIED_HINTS = {
    "AuthorizationPermissionMismatch": "the identity or signature lacks the permission: for an identity the "
    "role Storage Blob Data Reader, or Storage Blob Data Contributor to write",
    "AuthenticationFailed": "a signature that has expired, is not valid yet, or was made with another key; "
    "or a token for another service",
    "InvalidAuthenticationInfo": "the token has expired or is for another service",
    "AuthorizationFailure": "the account's firewall refuses this network, or the signature is missing",
    "PublicAccessNotPermitted": "the account allows no anonymous reads: use --identity or --sas-file",
    "NoAuthenticationInformation": "the blob is private: use --identity or --sas-file",
}


def refusal(reply: ErrorReply, name: str, *, doing: str, retry_after: float | None = None) -> EncfsError:
    """The error of an answer that is not a success.

    Args:
        reply: parsed answer.
        name: of the blob, without signature.
        doing: what was asked, as in "reading 4096 bytes at 0".
        retry_after: what the answer asks for, in seconds.
    """
    message = f"image {name}: {doing}: {reply}"
    if reply.code in _LEASE_GONE:
        return LeaseLost(message, hint="another took the blob over; see who writes it before you mount again")
    if reply.code in _LEASE_HELD:
        return ImageBusy(
            message,
            hint="another has a lease on it: unmount it there, or, if that machine is dead, --take-over",
        )
    if reply.status in (401, 403) or reply.code == "PublicAccessNotPermitted":
        return AccessDenied(
            message, hint=_DENIED_HINTS.get(reply.code, _DENIED_HINTS["AuthenticationFailed"])
        )
    if reply.status == 404:
        hint = "check account, container and name; a private blob looks missing to strangers"
        return ImageMissing(message, hint=hint)
    if reply.status == 412 and reply.code in ("ConditionNotMet", "SequenceNumberConditionNotMet", ""):
        return ImageChanged(message, hint="somebody else wrote or replaced the blob; mount it again")
    if reply.status in _TRANSIENT or reply.code == "Md5Mismatch":  # damaged on the way: send it again
        hint = "the store is busy or failing; what was not stored is kept and tried again"
        return StoreUnavailable(message, hint=hint, retry_after=retry_after)
    return StoreError(message)
