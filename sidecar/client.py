"""What others call: one function from settings to a released key, in this process.

Kind: composition
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from sidecar.akv import ReleasedKey, parse_key_ref
from sidecar.attesting import Attester, WrappingKeys
from sidecar.collateral import open_store
from sidecar.config import ANY_IDENTITY, DEFAULTS, IdentitySettings, SidecarSettings
from sidecar.http import Http
from sidecar.release import Guest
from sidecar.services import Services, open_services
from sidecar.snp.device import open_report_source
from sidecar.snp.endpoints import CertificateEndpoint
from sidecar.uvm import read_uvm

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    """Which key, from where.

    Attributes:
        maa_endpoint, akv_endpoint: hosts without scheme.
        kid: key name, or `name/version`.
        snp: report source by name; None for SIDECAR_SNP, else hardware.
        identity: who asks the vault.
        access_token: the caller's own token, secret, in place of it.
        wrapping_bits: size of the wrapping key.
    """

    maa_endpoint: str
    akv_endpoint: str
    kid: str
    snp: str | None = None
    identity: IdentitySettings = ANY_IDENTITY
    access_token: str = field(default="", repr=False)
    wrapping_bits: int = 2048


class ReleaseClient:
    """Releases several keys in this process: one guest, one set of services, tokens used again."""

    def __init__(self, services: Services, attester: Attester) -> None:
        self._services = services
        self._attester = attester

    async def release(
        self, maa_endpoint: str, akv_endpoint: str, kid: str, *, access_token: str = "", fresh: bool = False
    ) -> ReleasedKey:
        """Release one key.

        Args:
            maa_endpoint, akv_endpoint, kid, access_token: as in `ReleaseSettings`.
            fresh: with a new wrapping key and attestation token.

        Raises:
            SidecarError: what went wrong where, with a hint.
        """
        key = parse_key_ref(kid)
        authority = self._services.authority(maa_endpoint)
        vault = self._services.vault(akv_endpoint, access_token=access_token)
        return await self._attester.release(authority, vault, key, fresh=fresh)


@asynccontextmanager
async def open_client(
    environ: Mapping[str, str],
    settings: SidecarSettings = DEFAULTS,
    *,
    snp: str | None = None,
) -> AsyncIterator[ReleaseClient]:
    """Find the guest and open the services, for as long as the block runs.

    Raises:
        SidecarError: no source of reports, or settings are wrong.
    """
    async with open_services(environ, settings) as services:
        guest = await open_guest(services.http, environ, snp=snp, endpoint=settings.endpoint)
        keys = WrappingKeys(settings.wrapping_bits)
        yield ReleaseClient(services, Attester(guest, keys, reuse_seconds=settings.reuse_seconds))


async def release(settings: ReleaseSettings, environ: Mapping[str, str]) -> ReleasedKey:
    """Attest this machine and release one key.

    Raises:
        SidecarError: what went wrong where, with a hint.
    """
    parse_key_ref(settings.kid)
    shared = SidecarSettings(identity=settings.identity, wrapping_bits=settings.wrapping_bits)
    async with open_services(environ, shared) as services:
        # Hosts are checked before anything is asked for, and before a report is made.
        services.authority(settings.maa_endpoint)
        services.vault(settings.akv_endpoint)
        guest = await open_guest(services.http, environ, snp=settings.snp)
        attester = Attester(guest, WrappingKeys(settings.wrapping_bits))
        client = ReleaseClient(services, attester)
        return await client.release(
            settings.maa_endpoint,
            settings.akv_endpoint,
            settings.kid,
            access_token=settings.access_token,
            fresh=True,
        )


async def open_guest(
    http: Http | None,
    environ: Mapping[str, str],
    *,
    snp: str | None = None,
    endpoint: CertificateEndpoint | None = None,
    outdated: bool = False,
) -> Guest:
    """Find this machine's report source, certificates and UVM information.

    Args:
        http: fetches certificates; None for no network at all.
        environ: see `open_report_source`, `read_uvm` and `open_store`.
        snp: report source by name.
        endpoint: certificate service of the settings, asked first.
        outdated: for tests, leave the host's certificates aside, as if its firmware were newer.

    Raises:
        ReportUnavailable: no hardware, and no software processor asked for.
        UsageError, MalformedInput: settings or the security context are wrong.
    """

    def find() -> Guest:
        uvm = read_uvm(environ)
        if outdated:
            log.warning("for tests: the host's certificates are left aside")
            uvm = replace(uvm, host_certificates=None)
        source = open_report_source(snp, environ=environ)
        get = None if http is None else http.get
        store = open_store(source, uvm=uvm, get=get, environ=environ, endpoint=endpoint)
        return Guest(source, store, uvm)

    return await trio.to_thread.run_sync(find)
