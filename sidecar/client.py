"""What others call: one function from settings to a released key, in this process.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from sidecar.akv import ReleasedKey, parse_key_ref
from sidecar.collateral import open_store
from sidecar.http import Http
from sidecar.release import Guest, release_key
from sidecar.services import open_services
from sidecar.snp.device import open_report_source
from sidecar.snp.endpoints import CertificateEndpoint
from sidecar.uvm import read_uvm


@dataclass(frozen=True, slots=True)
class ReleaseSettings:
    """Which key, from where.

    Attributes:
        maa_endpoint, akv_endpoint: hosts without scheme.
        kid: key name, or `name/version`.
        snp: report source by name; None for SIDECAR_SNP, else hardware.
        client_id: of the managed identity, where there are several.
        access_token: the caller's own token, secret.
    """

    maa_endpoint: str
    akv_endpoint: str
    kid: str
    snp: str | None = None
    client_id: str = ""
    access_token: str = field(default="", repr=False)


async def release(settings: ReleaseSettings, environ: Mapping[str, str]) -> ReleasedKey:
    """Attest this machine and release a key.

    Raises:
        SidecarError: what went wrong where, with a hint.
    """
    key = parse_key_ref(settings.kid)
    async with open_services(
        environ, client_id=settings.client_id, access_token=settings.access_token
    ) as services:
        # Hosts are checked before anything is asked for, and before a report is made.
        authority = services.authority(settings.maa_endpoint)
        vault = services.vault(settings.akv_endpoint)
        guest = await open_guest(services.http, environ, snp=settings.snp)
        return await release_key(guest, authority, vault, key)


async def open_guest(
    http: Http | None,
    environ: Mapping[str, str],
    *,
    snp: str | None = None,
    endpoint: CertificateEndpoint | None = None,
) -> Guest:
    """Find this machine's report source, certificates and UVM information.

    Args:
        http: fetches certificates; None for no network at all.
        environ: see `open_report_source`, `read_uvm` and `open_store`.
        snp: report source by name.
        endpoint: certificate service of the settings, asked first.

    Raises:
        ReportUnavailable: no hardware, and no software processor asked for.
        UsageError, MalformedInput: settings or the security context are wrong.
    """

    def find() -> Guest:
        uvm = read_uvm(environ)
        source = open_report_source(snp, environ=environ)
        get = None if http is None else http.get
        store = open_store(source, uvm=uvm, get=get, environ=environ, endpoint=endpoint)
        return Guest(source, store, uvm)

    return await trio.to_thread.run_sync(find)
