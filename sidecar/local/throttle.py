"""The vault's throttle: so many operations in a sliding window.

Spec: Azure Key Vault service limits: creating and releasing HSM keys share 10 in 10 s, software keys 20 in
10 s.

Kind: pure
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

PERIOD = 10.0  # seconds
HSM_LIMIT = 10
SOFTWARE_LIMIT = 20


@dataclass(slots=True)
class Bucket:
    """A window of `limit` operations; what is refused does not count."""

    limit: int
    period: float = PERIOD
    _times: deque[float] = field(default_factory=deque)

    def take(self, now: float) -> bool:
        """Whether one more operation may happen at `now`, in seconds of a clock that never goes back."""
        while self._times and self._times[0] <= now - self.period:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        return True
