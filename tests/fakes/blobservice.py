"""A blob service seen by a test: makes containers, blobs and signatures, and looks at what is stored.

Blocking, and written against the published protocol only: what it does to a service, the code under test has
no part in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import httpx

from encfs.block.bloburl import BlobUrl, parse_blob_url

VERSION = "2023-11-03"
CONTAINER = "images"
_numbers = itertools.count()


@dataclass
class BlobService:
    """One account of a service.

    Attributes:
        base: address of the account.
        key: base64, of the account; signs everything here.
        tls: trusts the service's certificate, which `ca_file` leads to.
        environment: what clients need to be told.
    """

    base: str
    account: str
    key: str = field(repr=False)
    tls: ssl.SSLContext | None = None
    ca_file: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def sas(self, permissions: str = "racwdl", *, life: timedelta = timedelta(hours=1)) -> str:
        """A signature for the whole account."""
        end = (datetime.now(UTC) + life).strftime("%Y-%m-%dT%H:%M:%SZ")
        words = [self.account, permissions, "b", "sco", "", end, "", "https,http", VERSION, "", ""]
        digest = hmac.digest(base64.b64decode(self.key), "\n".join(words).encode(), hashlib.sha256)
        values = {"sv": VERSION, "ss": "b", "srt": "sco", "sp": permissions, "se": end, "spr": "https,http"}
        return urlencode(values | {"sig": base64.b64encode(digest).decode()})

    def url(self, name: str, sas: str | None = None) -> BlobUrl:
        """A blob's address, signed for everything unless told otherwise."""
        plain = parse_blob_url(f"{self.base}/{CONTAINER}/{name}")
        sas = self.sas() if sas is None else sas
        return plain.with_sas(sas) if sas else plain

    def send(
        self, method: str, path: str, query: str = "", *, body: bytes = b"", **headers: str
    ) -> httpx.Response:
        """One signed request; an underscore in a header's name stands for a dash."""
        address = f"{self.base}{path}?{'&'.join(part for part in (query, self.sas()) if part)}"
        lines = {name.replace("_", "-"): value for name, value in headers.items()} | {"x-ms-version": VERSION}
        with httpx.Client(trust_env=False, verify=self.tls or ssl.create_default_context()) as client:
            return client.request(method, address, headers=lines, content=body)

    def make_container(self, **headers: str) -> None:
        answer = self.send("PUT", f"/{CONTAINER}", "restype=container", **headers)
        assert answer.status_code == 201, answer.text

    def page_blob(self, content: bytes = b"", *, size: int | None = None, name: str = "") -> str:
        """Make a page blob; its name. Only what is not zero is written."""
        name = name or f"page-{next(_numbers)}"
        size = len(content) if size is None else size
        headers = {"x_ms_blob_type": "PageBlob", "x_ms_blob_content_length": str(size)}
        answer = self.send("PUT", f"/{CONTAINER}/{name}", **headers)
        assert answer.status_code == 201, answer.text
        for start in range(0, len(content), 1 << 20):
            piece = content[start : start + (1 << 20)]
            if any(piece):
                self.put_page(name, start, piece)
        return name

    def put_page(self, name: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
        headers |= {"x_ms_page_write": "update", "x_ms_range": f"bytes={offset}-{offset + len(data) - 1}"}
        answer = self.send("PUT", f"/{CONTAINER}/{name}", "comp=page", body=data, **headers)
        assert answer.status_code == 201 or "x_ms_lease_id" in headers, answer.text
        return answer

    def block_blob(self, content: bytes, *, name: str = "") -> str:
        name = name or f"block-{next(_numbers)}"
        answer = self.send("PUT", f"/{CONTAINER}/{name}", body=content, x_ms_blob_type="BlockBlob")
        assert answer.status_code == 201, answer.text
        return name

    def content(self, name: str) -> bytes:
        answer = self.send("GET", f"/{CONTAINER}/{name}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def lease(self, name: str, action: str, **headers: str) -> httpx.Response:
        return self.send("PUT", f"/{CONTAINER}/{name}", "comp=lease", x_ms_lease_action=action, **headers)

    def properties(self, name: str) -> dict[str, str]:
        answer = self.send("HEAD", f"/{CONTAINER}/{name}")
        assert answer.status_code == 200
        return dict(answer.headers)
