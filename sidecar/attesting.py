"""Wrapping keys made ahead, and attestation tokens used again: a request waits for as little as it must.

Strategy: a token commits to one wrapping key, so the two are kept together, one pair per authority, and many
releases share them. Requests that need a new pair at once wait for one attestation, and share its failure:
an authority that is down must not be asked by each of them in turn.

Rules: a token is used again only while it is far from its end and younger than the settings allow; a vault
that rejects a token we had at hand is asked once more with a new one, unless the reason is known to be the
policy. `fresh` makes a pair for one release and forgets it.

Kind: composition
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from sidecar.akv import KeyRef, ReleasedKey
from sidecar.errors import AttestationRejected, PolicyNotMet, SidecarError
from sidecar.release import AttestationToken, Guest, attest, release_with_token
from sidecar.services import Authority, Vault
from sidecar.wrapping import WRAPPING_BITS, WrappingKey

log = logging.getLogger(__name__)

MARGIN_SECONDS = 300  # before its end a token counts as ended: clocks differ, and releases take time
MAX_AUTHORITIES = 16
KEYS_AHEAD = 4


class WrappingKeys:
    """Wrapping keys made ahead; each is handed out once.

    Args:
        bits: their size.
        ahead: how many are kept ready.
    """

    def __init__(self, bits: int = WRAPPING_BITS[0], *, ahead: int = KEYS_AHEAD) -> None:
        self._make = partial(WrappingKey.generate, bits)
        self._send, self._receive = trio.open_memory_channel[WrappingKey](ahead)
        # One thread: making keys must not take the processor from requests.
        self._limiter = trio.CapacityLimiter(1)

    async def keep_making(self) -> None:
        """Make keys for ever; run it in a nursery."""
        while True:
            await self._send.send(await trio.to_thread.run_sync(self._make, limiter=self._limiter))

    async def take(self) -> WrappingKey:
        """The next key; made now when none is ready, so that it works without `keep_making` as well."""
        try:
            return self._receive.receive_nowait()
        except trio.WouldBlock:
            return await trio.to_thread.run_sync(self._make)

    @property
    def ready(self) -> int:
        """How many are at hand."""
        return self._receive.statistics().current_buffer_used


@dataclass(frozen=True, slots=True)
class Attested:
    """A wrapping key and the token that commits to it.

    Attributes:
        made_at: Unix seconds.
    """

    wrapping_key: WrappingKey
    token: AttestationToken
    made_at: float


@dataclass(slots=True)
class _Slot:
    """What is at hand for one authority; the lock makes many requests wait for one attestation."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    attested: Attested | None = None
    failure: SidecarError | None = None
    failed_at: float = -math.inf  # of the clock that waits are measured by


class Attester:
    """Attests and releases for one guest; one per process.

    Args:
        guest: the machine.
        keys: where wrapping keys come from.
        reuse_seconds: how long a token is used again at most; 0 for never.
        now: Unix seconds.

    Attributes:
        made, reused: how many tokens were made, and how often one was used again.
    """

    def __init__(
        self,
        guest: Guest,
        keys: WrappingKeys,
        *,
        reuse_seconds: float = 3600,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._guest = guest
        self._keys = keys
        self._reuse_seconds = reuse_seconds
        self._now = now
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self.made = 0
        self.reused = 0

    async def release(
        self, authority: Authority, vault: Vault, key: KeyRef, *, fresh: bool = False
    ) -> ReleasedKey:
        """Release a key, with a token at hand or a new one.

        Args:
            authority, vault, key: as `release_key`.
            fresh: make a new wrapping key and token, and forget them afterwards.

        Raises:
            ReleaseRefused: the vault refused; see `release_key`.
            SidecarError: what else went wrong where.
        """
        if fresh or not self._reuse_seconds:
            made = await self._attest(authority)
            return await release_with_token(vault, key, made.token, made.wrapping_key)
        attested, at_hand = await self._attested(authority)
        try:
            return await release_with_token(vault, key, attested.token, attested.wrapping_key)
        except PolicyNotMet:
            raise
        except AttestationRejected as exc:
            if not at_hand:
                raise
            # Perhaps the authority's keys or our firmware changed since; a new token knows.
            log.info("the token at hand was rejected, asking for a new one: %s", exc)
        self._drop(authority, attested)
        attested, _ = await self._attested(authority)
        return await release_with_token(vault, key, attested.token, attested.wrapping_key)

    def expiries(self) -> dict[str, int]:
        """When the tokens at hand expire, by authority, in Unix seconds."""
        return {
            name: slot.attested.token.expires_at
            for name, slot in self._slots.items()
            if slot.attested is not None
        }

    async def _attested(self, authority: Authority) -> tuple[Attested, bool]:
        """A pair for this authority, and whether it was at hand."""
        slot = self._slots.setdefault(authority.host.name, _Slot())
        self._slots.move_to_end(authority.host.name)
        while len(self._slots) > MAX_AUTHORITIES:
            self._slots.popitem(last=False)
        asked_at = trio.current_time()
        async with slot.lock:
            if slot.attested is not None and self._is_good(slot.attested):
                self.reused += 1
                return slot.attested, True
            if slot.failure is not None and slot.failed_at > asked_at:
                # Made anew: one exception raised by many tasks would collect all their tracebacks.
                raise type(slot.failure)(str(slot.failure), hint=slot.failure.hint) from None
            slot.attested = slot.failure = None
            try:
                slot.attested = await self._attest(authority)
            except SidecarError as exc:
                slot.failure, slot.failed_at = exc, trio.current_time()
                raise
            return slot.attested, False

    async def _attest(self, authority: Authority) -> Attested:
        wrapping_key = await self._keys.take()
        made_at = self._now()
        token = await attest(self._guest, authority, wrapping_key.runtime_data())
        self.made += 1
        return Attested(wrapping_key, token, made_at)

    def _is_good(self, attested: Attested) -> bool:
        now = self._now()
        age = now - attested.made_at
        # A clock that was set back must not make a token young again.
        return 0 <= age < self._reuse_seconds and now < attested.token.expires_at - MARGIN_SECONDS

    def _drop(self, authority: Authority, attested: Attested) -> None:
        """Forget a pair, unless another request already replaced it."""
        slot = self._slots.get(authority.host.name)
        if slot is not None and slot.attested is attested:
            slot.attested = None
