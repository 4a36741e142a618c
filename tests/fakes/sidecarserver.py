"""The sidecar as a server inside a test: real sockets, a cloud in a box behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from sidecar.config import DEFAULTS, SidecarSettings
from sidecar.serving import ServeOptions, serve


@dataclass
class Served:
    """Where it listens: addresses by scheme (`http`, `grpc`, `http+unix`, `grpc+unix`)."""

    addresses: dict[str, str] = field(default_factory=dict)

    def http(self, scheme: str = "http") -> httpx.AsyncClient:
        """A client of the HTTP API; close it with `async with`."""
        address = self.addresses[scheme]
        uds = address.partition(":")[2] if scheme == "http+unix" else None
        transport = httpx.AsyncHTTPTransport(uds=uds)
        base = "http://localhost" if uds else address
        return httpx.AsyncClient(base_url=base, transport=transport, timeout=60, trust_env=False)

    @property
    def grpc_target(self) -> str:
        """What gRPC clients call the address."""
        return self.addresses["grpc"].removeprefix("grpc://")


@asynccontextmanager
async def sidecar_served(
    environ: Mapping[str, str], settings: SidecarSettings = DEFAULTS, **options: Any
) -> AsyncIterator[Served]:
    """Run it for as long as the block runs, and end it as SIGTERM does."""
    shutdown, ready, served = trio.Event(), trio.Event(), Served()

    def told(names: list[str]) -> None:
        for name in names:
            scheme = name.partition(":")[0]
            served.addresses[scheme] = name
        ready.set()

    options.setdefault("port", 0)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(ServeOptions(**options), settings, environ, shutdown=shutdown, ready=told)
            shutdown.set()

        nursery.start_soon(run)
        await ready.wait()
        try:
            yield served
        finally:
            shutdown.set()
