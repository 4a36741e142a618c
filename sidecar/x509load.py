"""Reading X.509 from outside: the one place where `cryptography`'s lazy and loose sides are dealt with.

Strategy: load, then touch what is read lazily, so that every error comes from here and as one type. Two
warnings are silenced for the process: a certificate's oddity is either refused by a check of ours or none of
the reader's business, and what a peer sends must not decide what we print.

Kind: pure
"""

from __future__ import annotations

import warnings

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning

from sidecar.errors import MalformedInput

# AMD issues every VCEK with serial number 0.
warnings.filterwarnings(
    "ignore", message="Parsed a serial number which wasn't positive", category=CryptographyDeprecationWarning
)
# A name attribute of a length that X.520 does not allow, such as a country of three letters.
warnings.filterwarnings("ignore", message="Attribute's length must be", category=UserWarning)

# All that the library is documented or was seen to raise for bytes that are not a certificate it supports.
_ERRORS = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
)


def load_der(data: bytes, *, what: str = "certificate") -> x509.Certificate:
    """Read one DER certificate that fills `data`.

    Raises:
        MalformedInput: it does not parse; `what` names it.
    """
    try:
        return _touched(x509.load_der_x509_certificate(data))
    except _ERRORS as exc:
        raise MalformedInput(f"{what}: does not parse: {exc}") from exc


def load_pem(data: bytes, *, what: str = "certificate") -> list[x509.Certificate]:
    """Read every certificate of a PEM bundle, in its order.

    Raises:
        MalformedInput: one of them does not parse, or there is none; `what` names the bundle.
    """
    try:
        return [_touched(certificate) for certificate in x509.load_pem_x509_certificates(data)]
    except _ERRORS as exc:
        raise MalformedInput(f"{what}: does not parse: {exc}") from exc


def load_crl(data: bytes, *, what: str = "revocation list") -> x509.CertificateRevocationList:
    """Read one revocation list, DER or PEM.

    Raises:
        MalformedInput: it does not parse; `what` names it.
    """
    load = x509.load_pem_x509_crl if data.lstrip().startswith(b"-----") else x509.load_der_x509_crl
    try:
        crl = load(data)
        # The entries with their extensions are read lazily as well.
        _ = crl.issuer, crl.extensions, [(entry.serial_number, entry.extensions) for entry in crl]
        return crl
    except _ERRORS as exc:
        raise MalformedInput(f"{what}: does not parse: {exc}") from exc


def _touched(certificate: x509.Certificate) -> x509.Certificate:
    _ = (
        certificate.subject,
        certificate.issuer,
        certificate.extensions,
        certificate.version,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    return certificate
