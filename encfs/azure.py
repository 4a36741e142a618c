"""The only bridge to `sidecar`: a key source that attests and releases, its errors put into our words.

Kind: composition
"""

from __future__ import annotations

import os
from pathlib import Path

from encfs import errors as ours
from encfs.config import MAX_CONFIG, KeyConfig, parse_key_config
from encfs.keys import Secret, passphrase_from_jwk
from sidecar import errors as theirs
from sidecar.client import ReleaseSettings, release

# The most specific class first.
_SAME = (
    (theirs.ReleaseRefused, ours.ReleaseRefused),
    (theirs.AttestationRefused, ours.AttestationRefused),
    (theirs.ReportUnavailable, ours.ReportUnavailable),
    (theirs.UsageError, ours.UsageError),
)


class ReleasedKeySource:
    """A key that a vault releases under attestation of this machine."""

    def __init__(self, config: KeyConfig) -> None:
        self.config = config

    async def passphrase(self) -> Secret:
        """Attest, release, derive; see `KeySource`."""
        config = self.config
        settings = ReleaseSettings(config.maa_endpoint, config.akv_endpoint, config.kid)
        try:
            released = await release(settings, os.environ)
        except theirs.SidecarError as exc:
            raise _translated(exc) from exc
        return passphrase_from_jwk(released.jwk(), config.salt, config.label)


def released_key_source(path: Path) -> ReleasedKeySource:
    """A key source from a key configuration file.

    Raises:
        UsageError: the file cannot be read or is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
    except OSError as exc:
        raise ours.UsageError(f"key configuration {path}: {exc.strerror}") from exc
    return ReleasedKeySource(parse_key_config(data, f"key configuration {path}"))


def _translated(exc: theirs.SidecarError) -> ours.EncfsError:
    kind = next((our for their, our in _SAME if isinstance(exc, their)), ours.KeyUnavailable)
    return kind(f"key release: {exc}", hint=exc.hint)
