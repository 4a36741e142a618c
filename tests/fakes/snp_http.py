"""Certificate services at the seam of the HTTP client: answers by URL, every request recorded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.snp_chain import Authority
from sidecar.errors import ServiceError
from sidecar.snp.certs import Collateral, build_thim


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Services:
    """THIM, Azure's cache and AMD's key service of one machine.

    `firmware` is what the machine runs; `stale` is what THIM still has. `answers` replaces the answer of a
    service ("thim", "cache", "leaf", "chain") by a reply, or by an error to raise. `delay` is how long each
    answer takes, in trio's time.
    """

    firmware: Authority
    stale: Authority | None = None
    answers: dict[str, Reply | Exception] = field(default_factory=dict)
    delay: float = 0.0
    requests: list[str] = field(default_factory=list)
    hook: Callable[[str], Awaitable[None]] | None = None

    async def get(self, url: str, headers: Mapping[str, str]) -> Reply:
        self.requests.append(url)
        if self.delay:
            await trio.sleep(self.delay)
        kind = self.kind(url)
        if self.hook:
            await self.hook(kind)
        answer = self.answers.get(kind)
        if isinstance(answer, Exception):
            raise answer
        return answer or self.usual(kind, headers)

    @staticmethod
    def kind(url: str) -> str:
        if "THIM" in url:
            return "thim"
        if "/certificates/" in url:
            return "cache"
        return "chain" if url.endswith("cert_chain") else "leaf"

    def usual(self, kind: str, headers: Mapping[str, str]) -> Reply:
        chain = self.firmware.chain()
        if kind == "thim":
            if headers.get("Metadata") != "true":
                return Reply(400)
            source = self.stale or self.firmware
            tcbm = int.from_bytes(source.levels, "little")
            return Reply(body=build_thim(Collateral(source.chain(), f"{tcbm:x}", 86400)))
        if kind == "cache":
            return Reply(body=chain.to_pem())
        if kind == "leaf":
            return Reply(body=chain.leaf.public_bytes(Encoding.DER))
        return Reply(body=b"".join(c.public_bytes(Encoding.PEM) for c in (chain.ask, chain.ark)))

    def count(self, kind: str) -> int:
        return sum(self.kind(url) == kind for url in self.requests)


UNREACHABLE = ServiceError("no route to host")
