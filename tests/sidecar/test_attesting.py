"""Tokens used again, and when not; wrapping keys made ahead."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from fakes.localcloud import Client

from sidecar import attesting
from sidecar.akv import KeyRef, parse_key_ref
from sidecar.attesting import MARGIN_SECONDS, MAX_AUTHORITIES, Attester, WrappingKeys
from sidecar.client import open_guest
from sidecar.config import SidecarSettings
from sidecar.errors import AttestationRejected, PolicyNotMet, ServiceError
from sidecar.jose import b64u_encode
from sidecar.jwk import jwk_of_secret
from sidecar.release import AttestationToken, Guest
from sidecar.releasepolicy import build_policy
from sidecar.services import Authority, Services, Vault, open_services
from sidecar.wrapping import WrappingKey

HOST_DATA = "x-ms-sevsnpvm-hostdata"
KEY = parse_key_ref("data")
SECRET = b64u_encode(bytes(range(32)))


@dataclass
class Clock:
    """Unix seconds that a test moves."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@dataclass
class Releasing:
    """An attester against a cloud, with the key `data` that it may have and `other` that it may not."""

    services: Services
    guest: Guest
    authority: Authority
    vault: Vault
    clock: Clock

    def attester(self, **options: Any) -> Attester:
        return Attester(self.guest, WrappingKeys(), now=self.clock, **options)

    async def release(self, attester: Attester, key: KeyRef = KEY, **options: Any) -> str:
        released = await attester.release(self.authority, self.vault, key, **options)
        return str(released.jwk()["k"])


@asynccontextmanager
async def releasing(cloud: Client) -> AsyncIterator[Releasing]:
    environ = cloud.cloud.environment
    for name, digest in (("data", "00" * 32), ("other", "ab" * 32)):
        key = jwk_of_secret(bytes(range(32)), kty="oct-HSM", key_ops=("encrypt", "decrypt"))
        await cloud.imported(
            "mhsm", name, key, build_policy([cloud.cloud.url("maa")], [[(HOST_DATA, digest)]])
        )
    async with open_services(environ) as services:
        yield Releasing(
            services,
            await open_guest(services.http, environ),
            services.authority(environ["MAA_ENDPOINT"]),
            services.vault(environ["MHSM_ENDPOINT"]),
            Clock(),
        )


async def test_a_token_is_used_again_within_its_life(here: Client) -> None:
    async with releasing(here) as at:
        attester = at.attester(reuse_seconds=1000)
        for made, reused, later in ((1, 0, 999), (1, 1, 1), (2, 1, 0), (2, 2, -10), (3, 2, 0)):
            assert await at.release(attester) == SECRET
            assert (attester.made, attester.reused) == (made, reused)
            at.clock.now += later
        (expiry,) = attester.expiries().values()
        assert expiry > at.clock.now


async def test_fresh_and_zero_never_use_a_token_again(here: Client) -> None:
    async with releasing(here) as at:
        attester = at.attester(reuse_seconds=1000)
        await at.release(attester)
        await at.release(attester, fresh=True)
        assert (attester.made, attester.reused) == (2, 0)
        await at.release(attester)
        assert (attester.made, attester.reused) == (2, 1), "a fresh token must not replace the one at hand"
        never = at.attester(reuse_seconds=0)
        for made in (1, 2, 3):
            await at.release(never)
            assert (never.made, never.reused, never.expiries()) == (made, 0, {})


async def test_near_its_end_a_token_is_not_used(here: Client) -> None:
    async with releasing(here) as at:
        attester = at.attester(reuse_seconds=10**9)
        await at.release(attester)
        (expiry,) = attester.expiries().values()
        at.clock.now = expiry - MARGIN_SECONDS - 1
        await at.release(attester)
        assert attester.made == 1
        at.clock.now = expiry - MARGIN_SECONDS
        await at.release(attester)
        assert attester.made == 2


async def test_many_at_once_share_one_attestation(here: Client) -> None:
    async with releasing(here) as at:
        attester = at.attester()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(at.release, attester)
        assert (attester.made, attester.reused) == (1, 7)


async def test_many_at_once_share_one_failure(here: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def failing(guest: Guest, authority: Authority, runtime_data: bytes) -> AttestationToken:
        nonlocal calls
        calls += 1
        await trio.testing.wait_all_tasks_blocked()
        raise ServiceError("authority: down", hint="wait")

    async with releasing(here) as at:
        monkeypatch.setattr(attesting, "attest", failing)
        attester = at.attester()
        seen = []

        async def one() -> None:
            with pytest.raises(ServiceError, match="down") as caught:
                await at.release(attester)
            seen.append(caught.value)

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        assert (calls, len({id(error) for error in seen})) == (1, 8)
        assert {error.hint for error in seen} == {"wait"}
        await one()
        assert calls == 2, "who asks afterwards asks anew"


@pytest.mark.parametrize(("times", "made"), [(1, 2), (9, 2)])
async def test_a_rejected_token_at_hand_is_replaced_once(
    start_cloud: Any, quiet: None, monkeypatch: pytest.MonkeyPatch, times: int, made: int
) -> None:
    fault = f"mhsm/release:status=403,code=Forbidden,after=1,times={times}"
    async with start_cloud(faults=(fault,)) as cloud:
        for name, value in cloud.cloud.environment.items():
            monkeypatch.setenv(name, value)
        async with releasing(cloud) as at:
            attester = at.attester()
            await at.release(attester)
            if times == 1:
                await at.release(attester)
                await at.release(attester)
            else:
                with pytest.raises(AttestationRejected):
                    await at.release(attester)
            assert attester.made == made


async def test_a_policy_that_is_not_met_asks_for_no_new_token(here: Client) -> None:
    async with releasing(here) as at:
        attester = at.attester()
        await at.release(attester)
        with pytest.raises(PolicyNotMet, match=HOST_DATA):
            await at.release(attester, parse_key_ref("other"))
        assert (attester.made, attester.reused) == (1, 1)
        await at.release(attester)
        assert attester.made == 1


async def test_only_so_many_authorities_are_remembered(here: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with releasing(here) as at:
        token = AttestationToken("t", {"exp": int(at.clock.now) + 9999})

        async def attest(*_: object) -> AttestationToken:
            return token

        async def release(*_: object) -> str:
            return "released"

        monkeypatch.setattr(attesting, "attest", attest)
        monkeypatch.setattr(attesting, "release_with_token", release)
        attester = at.attester()
        key = WrappingKey.generate()
        monkeypatch.setattr(attester._keys, "_make", lambda: key)
        for index in range(MAX_AUTHORITIES + 5):
            host = type(at.authority.host)(f"a{index}.example", at.authority.host.kind, "")
            await attester.release(Authority(at.authority.http, host), at.vault, KEY)
        names = list(attester.expiries())
        assert len(names) == MAX_AUTHORITIES
        assert names[-1] == f"a{MAX_AUTHORITIES + 4}.example"


async def test_wrapping_keys_are_made_ahead_and_handed_out_once() -> None:
    keys = WrappingKeys(2048, ahead=2)
    assert (await keys.take()).jwk.public_key().key_size == 2048, "also without anything made ahead"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.keep_making)
        with trio.fail_after(30):
            while keys.ready < 2:
                await trio.sleep(0.02)
        seen = {(await keys.take()).kid for _ in range(4)}
        assert len(seen) == 4
        nursery.cancel_scope.cancel()


def test_larger_wrapping_keys_by_option() -> None:
    assert SidecarSettings(wrapping_bits=3072).wrapping_bits == 3072
