"""A cloud in a box for a test: real sockets, real TLS, and a small client that trusts its root."""

from __future__ import annotations

import json
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import trio
from cryptography import x509

from sidecar.akv import (
    ReleasedKey,
    ReleaseRequest,
    build_release_request,
    parse_key_ref,
    parse_release_response,
    unwrap_release,
    verify_release,
)
from sidecar.akvkeys import Attributes, ImportRequest, PolicyEnvelope
from sidecar.jwk import Jwk
from sidecar.local.cloud import LocalCloud, serve_local
from sidecar.local.options import LocalSettings
from sidecar.maa import AttestRequest, build_attest_request, report_data_for
from sidecar.releasepolicy import ReleasePolicy
from sidecar.wrapping import WrapAlgorithm, WrappingKey

RESOURCE = {"akv": "https://vault.azure.net", "mhsm": "https://managedhsm.azure.net"}


@dataclass
class Client:
    """What a guest does, step by step, with no retries and no shortcuts."""

    cloud: LocalCloud
    http: httpx.AsyncClient

    async def call(self, service: str, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, without an access token."""
        return await self.http.request(method, self.cloud.url(service) + path, **options)

    async def access_token(self, resource: str) -> str:
        """A token from IMDS."""
        path = f"/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"
        answer = await self.call("imds", "GET", path, headers={"Metadata": "true"})
        return str(answer.json()["access_token"])

    async def keys(
        self, service: str, method: str, path: str, body: bytes | None = None, **query: str
    ) -> Any:
        """One request to a vault, with a token for it."""
        token = await self.access_token(RESOURCE[service])
        return await self.call(
            service,
            method,
            path,
            content=body,
            params={"api-version": "7.4"} | query,
            headers={"authorization": f"Bearer {token}"},
        )

    async def imported(self, service: str, name: str, key: Jwk, policy: ReleasePolicy, **extra: Any) -> Any:
        """Import an exportable key; the bundle."""
        request = ImportRequest(
            key, True, Attributes(exportable=True), release_policy=PolicyEnvelope.of(policy), **extra
        )
        answer = await self.keys(service, "PUT", f"/keys/{name}", request.to_bytes())
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def attest(self, wrapping: WrappingKey, **report: Any) -> httpx.Response:
        """Attest with the software processor."""
        runtime = wrapping.runtime_data()
        raw = self.cloud.processor.sign_report(report_data_for(runtime), **report)
        request = AttestRequest(raw, self.cloud.processor.chain.to_pem(), runtime_data=runtime, nonce="7")
        path = "/attest/SevSnpVm?api-version=2020-10-01"
        return await self.call("maa", "POST", path, content=build_attest_request(request))

    async def token(self, wrapping: WrappingKey, **report: Any) -> str:
        """An attestation token."""
        answer = await self.attest(wrapping, **report)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["token"])

    async def release(self, service: str, kid: str, token: str, **options: Any) -> httpx.Response:
        """Ask for a key."""
        options.setdefault("enc", WrapAlgorithm.SHA256)
        body = build_release_request(ReleaseRequest(token, **options))
        return await self.keys(service, "POST", f"/keys/{kid}/release", body)

    def opened(self, service: str, kid: str, answer: httpx.Response, wrapping: WrappingKey) -> ReleasedKey:
        """Verify and unwrap an answer."""
        assert answer.status_code == 200, answer.text
        release = verify_release(
            parse_release_response(answer.content),
            host=self.cloud.host(service),
            roots=x509.load_pem_x509_certificates(self.cloud.ca_file.read_bytes()),
            at=datetime.now(UTC),
            key=parse_key_ref(kid),
            wrapping_kid=wrapping.kid,
            enc=WrapAlgorithm.SHA256,
        )
        return unwrap_release(release, wrapping)


def prepared(directory: Path, template: Path) -> Path:
    """A new state directory with the certificates of a template, which take a while to make."""
    directory.mkdir(parents=True)
    for path in [*template.glob("*.pem"), *template.glob("*.key")]:
        shutil.copy2(path, directory)
    return directory


@asynccontextmanager
async def local_cloud(settings: LocalSettings, **options: Any) -> AsyncIterator[Client]:
    """Run a cloud in a box."""
    async with trio.open_nursery() as nursery:
        cloud = await nursery.start(
            lambda task_status: serve_local(settings, task_status=task_status, **options)
        )
        trust = ssl.create_default_context(cafile=cloud.ca_file)
        async with httpx.AsyncClient(verify=trust, trust_env=False) as http:
            yield Client(cloud, http)
        nursery.cancel_scope.cancel()


def error(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of an error answer."""
    body = json.loads(answer.content)["error"]
    return answer.status_code, body["code"], body["message"]
