"""Addresses of blobs: what is taken, what is refused, and that a signature is never shown."""

from __future__ import annotations

import pytest

from encfs.block.bloburl import BlobUrl, is_blob_url, is_loopback, parse_blob_url
from encfs.errors import UsageError

SAS = "sv=2023-11-03&se=2030-01-01T00%3A00%3A00Z&sr=b&sp=rw&sig=c2VjcmV0%3D"


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("https://acct.blob.core.windows.net/c/disk.img", "acct.blob.core.windows.net", "/c/disk.img"),
        ("HTTPS://Acct.Blob.Core.Windows.Net/c/a/b%20c", "acct.blob.core.windows.net", "/c/a/b%20c"),
        ("http://127.0.0.1:10000/acct/c/d", "127.0.0.1:10000", "/acct/c/d"),
        ("http://[::1]:10000/acct/c/d", "[::1]:10000", "/acct/c/d"),
        ("https://localhost:8443/acct/c/d", "localhost:8443", "/acct/c/d"),
    ],
)
def test_addresses(text: str, host: str, path: str) -> None:
    url = parse_blob_url(text)
    assert (url.host, url.path, url.sas) == (host, path, "")
    assert is_blob_url(text)


def test_a_signature_is_kept_apart_and_out_of_sight() -> None:
    url = parse_blob_url(f"https://a.blob.core.windows.net/c/d?{SAS}")
    assert url.sas == SAS
    assert url == parse_blob_url("https://a.blob.core.windows.net/c/d").with_sas(f"?{SAS}\n")
    for shown in (str(url), repr(url), url.name, f"{url}"):
        assert "c2VjcmV0" not in shown
    with pytest.raises(UsageError, match="has a signature already"):
        url.with_sas(SAS)


@pytest.mark.parametrize(
    "text",
    [
        "http://acct.blob.core.windows.net/c/d",
        "ftp://acct.blob.core.windows.net/c/d",
        "https://user@acct.blob.core.windows.net/c/d",
        "https://acct.blob.core.windows.net/c/d#x",
        "https://acct.blob.core.windows.net/c",
        "https://acct.blob.core.windows.net/c/",
        "https://acct.blob.core.windows.net//d",
        "https://acct.blob.core.windows.net/c/../d",
        "https://acct.blob.core.windows.net:0/c/d",
        "https://acct.blob.core.windows.net/c/ä",
        "https://acct.blob.core.windows.net/c/a b",
        "https://acct.blob.core.windows.net/c/d?snapshot=2020",
        "https://acct.blob.core.windows.net/c/d?sig=a&sig=b",
        "https://acct.blob.core.windows.net/c/d?sig=a&comp=lease",
        "https://[::1/c/d",
        "https:///c/d",
        "https://a/c/" + "d" * 5000,
        "http://127.0.0.1.evil.example/c/d",
        "http://localhost.evil.example/c/d",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_blob_url(text)
    assert "sig=" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("localhost:80", True),
        ("[::1]", True),
        ("[::1]:80", True),
        ("10.0.0.1", False),
        ("example.com:80", False),
        ("[fe80::1]", False),
    ],
)
def test_loopback(host: str, ours: bool) -> None:
    assert is_loopback(host) is ours


def test_a_local_path_is_no_address() -> None:
    assert not is_blob_url("data.img")
    assert not is_blob_url("/https://x")
    assert isinstance(parse_blob_url("https://a/c/d"), BlobUrl)
