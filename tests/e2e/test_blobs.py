"""Blobs for real: a page blob behind a mounted file system, with Azurite as the store."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest
from fakes.blobservice import BlobService
from fakes.commands import Commands, is_mounted
from fakes.localblobs import local_blobs
from fakes.remote import put_image
from fakes.volumes import is_running, state_of, wait_until

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.azurite]


@pytest.fixture
def signature(commands: Commands, azurite: BlobService) -> list[str | Path]:
    path = commands.folder / "sas"
    path.write_text(azurite.sas())
    path.chmod(0o600)
    return ["--sas-file", path]


def write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@pytest.fixture
def image(commands: Commands, sample: Path) -> Path:
    path = commands.folder / "data.img"
    commands.run(
        *("encfs", "create", path, "--size", "32M", "--key-file", "key.bin", "--from", sample), check=True
    )
    return path


def test_written_through_a_mount_and_there_after_it(
    commands: Commands, image: Path, azurite: BlobService, signature: list[str | Path]
) -> None:
    url = str(azurite.url("uploaded", ""))
    uploaded = commands.run("encfs", "upload", image, url, *signature, "--json", check=True)
    assert json.loads(uploaded.out)["verified"] == 32 << 20
    (commands.folder / "other").mkdir()
    mnt, data = commands.folder / "mnt", os.urandom(3 << 20)
    commands.run("encfs", "mount", url, mnt, "--key-file", "key.bin", *signature, check=True)
    assert (mnt / "text").read_text() == "attested\n"
    write_durably(mnt / "new", data)
    second = commands.run("encfs", "mount", url, "other", "--key-file", "key.bin", *signature)
    assert second.code == ExitCode.IMAGE_BUSY
    assert "--take-over" in second.err
    commands.run("encfs", "unmount", mnt, check=True)
    assert not is_mounted(mnt)
    copy = commands.folder / "copy.img"
    copy.write_bytes(azurite.content(url.rpartition("/")[2]))
    checked = commands.run("encfs", "check", copy, "--key-file", "key.bin", check=True)
    assert "ok   file system  clean" in checked.out
    commands.run("encfs", "check", url, "--key-file", "key.bin", *signature, check=True)
    commands.run("encfs", "extract", copy, "out", "--key-file", "key.bin", check=True)
    assert (commands.folder / "out" / "new").read_bytes() == data


def test_a_volume_with_integrity_in_a_blob_is_anchored_and_whole(
    commands: Commands, sample: Path, azurite: BlobService, signature: list[str | Path]
) -> None:
    """Tags, journal, cache, lease and anchor together; an older copy of the blob is refused."""
    key = ("--key-file", "key.bin")
    words = ("--size", "40M", *key, "--from", sample, "--integrity", "hmac-sha256")
    commands.run("encfs", "create", "data.img", *words, check=True)
    url = str(azurite.url("tagged", ""))
    commands.run("encfs", "upload", "data.img", url, *signature, check=True)
    mnt, data = commands.folder / "mnt", os.urandom(3 << 20)
    mount = ("encfs", "mount", url, mnt, *key, *signature, "--anchor", "anchor", "--require", "rollback")
    commands.run(*mount, check=True)
    write_durably(mnt / "new", data)
    commands.run("encfs", "unmount", mnt, check=True)
    commands.run("encfs", "check", url, *key, *signature, "--deep", check=True)
    commands.run(*mount, check=True)
    assert (mnt / "new").read_bytes() == data
    commands.run("encfs", "unmount", mnt, check=True)
    commands.run("encfs", "upload", "data.img", url, *signature, "--force", check=True)
    refused = commands.run(*mount)
    assert (refused.code, "anchored was" in refused.err) == (ExitCode.ROLLED_BACK, True), refused


def test_a_sealed_blob_is_verified(
    commands: Commands, sample: Path, azurite: BlobService, signature: list[str | Path]
) -> None:
    key = ("--key-file", "key.bin")
    words = (*key, "--from", sample, "--verity", "--json")
    root = json.loads(commands.run("encfs", "create", "data.img", *words, check=True).out)["root_hash"]
    image = bytearray((commands.folder / "data.img").read_bytes())
    mnt = commands.folder / "mnt"
    for name, flipped in (("whole", False), ("changed", True)):
        image[20 << 20] ^= flipped
        (commands.folder / "data.img").write_bytes(image)
        url = str(azurite.url(name, ""))
        commands.run("encfs", "upload", "data.img", url, *signature, "--type", "block", check=True)
        check = commands.run("encfs", "check", url, *key, *signature, "--root-hash", root, "--deep")
        assert check.code == (ExitCode.TAMPERED if flipped else 0), check
    url = str(azurite.url("whole", ""))
    commands.run("encfs", "mount", url, mnt, *key, *signature, "--root-hash", root, check=True)
    assert (mnt / "text").read_text() == "attested\n"
    commands.run("encfs", "unmount", mnt, check=True)


def test_a_block_blob_is_mounted_read_only_and_not_otherwise(
    commands: Commands, image: Path, azurite: BlobService, signature: list[str | Path]
) -> None:
    url = str(azurite.url(azurite.block_blob(image.read_bytes()), ""))
    mnt = commands.folder / "mnt"
    words = ["encfs", "mount", url, mnt, "--key-file", "key.bin", *signature]
    refused = commands.run(*words)
    assert refused.code == ExitCode.UNSUITABLE_BLOB
    assert "--read-only" in refused.err
    commands.run(*words, "--read-only", check=True)
    assert (mnt / "text").read_text() == "attested\n"
    with pytest.raises(OSError, match="Read-only"):
        (mnt / "text").write_text("no")
    commands.run("encfs", "unmount", mnt, check=True)
    info = commands.run("encfs", "info", url, *signature, "--json", check=True)
    assert "aes-xts-plain64" in info.out


@pytest.mark.parametrize("noticed_by", ["read", "write"])
def test_a_taken_over_volume_becomes_read_only_and_the_new_one_works(
    commands: Commands, image: Path, azurite: BlobService, signature: list[str | Path], noticed_by: str
) -> None:
    url = str(azurite.url(azurite.page_blob(image.read_bytes()), ""))
    old, new = commands.folder / "mnt", commands.folder / "new"
    new.mkdir()
    commands.run("encfs", "mount", url, old, "--key-file", "key.bin", *signature, check=True)
    if noticed_by == "write":  # what has to be read for one is in memory then
        write_durably(old / "stored", b"s" * 100_000)
    commands.run("encfs", "mount", url, new, "--key-file", "key.bin", *signature, "--take-over", check=True)
    with pytest.raises(OSError):  # EROFS or EIO, as the kernel sees fit
        write_durably(old / "lost", b"x" * 100_000)
    (new / "kept").write_bytes(b"y" * 100_000)
    commands.run("encfs", "unmount", new, check=True)
    ended = commands.run("encfs", "unmount", old)
    assert not is_mounted(old), ended
    commands.run("encfs", "check", url, "--key-file", "key.bin", *signature, check=True)
    commands.run("encfs", "extract", url, "out", "--key-file", "key.bin", *signature, check=True)
    assert (commands.folder / "out" / "kept").read_bytes() == b"y" * 100_000
    assert not (commands.folder / "out" / "lost").exists()
    assert ended.code == ExitCode.STORE, "that something was not stored is said"
    assert "became read-only" in ended.err or "could not store everything" in ended.err


@pytest.mark.parametrize("noticed_by", ["read", "write"])
def test_a_taken_over_volume_whose_supervisor_is_dead_unmounts_too(
    commands: Commands, image: Path, azurite: BlobService, signature: list[str | Path], noticed_by: str
) -> None:
    url = str(azurite.url(azurite.page_blob(image.read_bytes()), ""))
    old, new = commands.folder / "mnt", commands.folder / "new"
    new.mkdir()
    commands.run("encfs", "mount", url, old, "--key-file", "key.bin", *signature, check=True)
    if noticed_by == "write":
        write_durably(old / "stored", b"s" * 100_000)
    supervisor = state_of(commands.folder / "run").supervisor_pid
    commands.run("encfs", "mount", url, new, "--key-file", "key.bin", *signature, "--take-over", check=True)
    with pytest.raises(OSError):
        write_durably(old / "lost", b"x" * 100_000)
    commands.run("encfs", "unmount", new, check=True)
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not is_running(supervisor), 10, "the supervisor has ended")
    ended = commands.run("encfs", "unmount", old)
    if noticed_by == "write":  # as after any write that failed: told once, then left at that
        assert (ended.code, is_mounted(old)) == (ExitCode.MOUNT, True), ended
        ended = commands.run("encfs", "unmount", old)
    assert (ended.code, is_mounted(old)) == (ExitCode.STORE, False), ended
    assert "encfs check" in ended.err
    assert commands.run("encfs", "unmount", old).code == ExitCode.NOT_MOUNTED
    commands.run("encfs", "check", url, "--key-file", "key.bin", *signature, check=True)


def test_tokens_of_an_identity_renewed_while_mounted(commands: Commands, image: Path, tmp_path: Path) -> None:
    """Against the cloud in a box, which refuses the token now and then, as if it had expired."""
    refused = "status=401,code=InvalidAuthenticationInfo,times=1,after"
    faults = [f"blob/put-page:{refused}={after}" for after in (0, 20, 30)] + [f"blob/get:{refused}=5"]
    with local_blobs(tmp_path / "cloud", tmp_path / "snp", *faults) as service:
        commands.environment |= service.environment
        url, mnt = str(service.url("mine", "")), commands.folder / "mnt"
        commands.run("encfs", "upload", image, url, "--identity", check=True)
        commands.run("encfs", "mount", url, mnt, "--key-file", "key.bin", "--identity", check=True)
        for number in range(5):
            write_durably(mnt / f"new-{number}", bytes([number]) * 100_000)
        commands.run("encfs", "unmount", mnt, check=True)
        commands.run("encfs", "check", url, "--key-file", "key.bin", "--identity", check=True)
        commands.run("encfs", "extract", url, "out", "--key-file", "key.bin", "--identity", check=True)
        stranger = commands.run("encfs", "info", url)
    for number in range(5):
        assert (commands.folder / "out" / f"new-{number}").read_bytes() == bytes([number]) * 100_000
    assert stranger.code == ExitCode.ACCESS_DENIED
    assert "--identity" in stranger.err


def test_an_upload_shows_how_far_it_is_and_goes_on_after_an_interrupt(
    commands: Commands, azurite: BlobService, signature: list[str | Path]
) -> None:
    """At a terminal: a progress line; Ctrl-C; the same command again."""
    image = commands.folder / "large.img"
    image.write_bytes(os.urandom(1 << 20) * 96)
    url = str(azurite.url("interrupted", ""))
    words = ["encfs", "upload", image, url, "--raw", "--parallel", "1", *signature]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [str(word) for word in words],
        env=commands.child_environment(),
        cwd=commands.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        # A test run in the background has SIGINT ignored, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    said = b""
    while not re.search(rb"uploading to .*: +[1-9][0-9]*%", said):
        part = os.read(ours, 4096)
        assert part, said
        said += part
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == ExitCode.INTERRUPTED
    os.close(ours)
    assert commands.run("encfs", "info", url, *signature).code == ExitCode.UNSUITABLE_BLOB
    again = commands.run(*words, "--json", check=True)
    done = json.loads(again.out)
    assert done["resumed"] >= 4 << 20
    assert done["resumed"] + done["sent"] == done["verified"] == 96 << 20
    assert (
        hashlib.sha256(azurite.content("interrupted")).digest() == hashlib.sha256(image.read_bytes()).digest()
    )
    assert commands.run(*words).code == ExitCode.IMAGE


def test_a_signature_in_the_arguments_is_refused_and_not_repeated(commands: Commands) -> None:
    url = "https://acct.blob.core.windows.net/c/d?sv=1&sp=r&sig=c2VjcmV0"
    refused = commands.run("encfs", "info", url)
    assert refused.code == ExitCode.USAGE
    assert "--sas-file" in refused.err
    assert "c2VjcmV0" not in refused.err


def test_a_token_goes_to_no_host_that_is_not_listed(commands: Commands) -> None:
    refused = commands.run("encfs", "info", "https://acct.evil.example/c/d", "--identity")
    assert refused.code == ExitCode.HOST_NOT_ALLOWED
    assert "SIDECAR_ALLOWED_HOSTS" in refused.err


def test_options_of_blobs_are_refused_for_files(commands: Commands, image: Path) -> None:
    refused = commands.run("encfs", "info", image, "--identity")
    assert (refused.code, "for blobs" in refused.err) == (ExitCode.USAGE, True)


def test_a_blob_is_measured_and_stays_as_it_is(
    commands: Commands, image: Path, azurite: BlobService, signature: list[str | Path]
) -> None:
    name = put_image(azurite, image)
    before = azurite.content(name)
    url, quick = str(azurite.url(name, "")), ("--seconds", "0.05", "--size", "4M", "--json")
    words = ("encfs", "bench", url, "--key-file", "key.bin", *signature, *quick)
    found = json.loads(commands.run(*words, check=True).out)
    assert [m["name"] for m in found["measures"]] == [
        "sequential read",
        "random read, 1 reader",
        "random read, 4 readers",
    ]
    assert all(m["value"] > 0 for m in found["measures"])
    assert azurite.content(name) == before
    written = json.loads(commands.run(*words, "--write", check=True).out)
    assert "write and fsync, 4 KiB" in [m["name"] for m in written["measures"]]
    checked = commands.run("encfs", "check", url, "--key-file", "key.bin", *signature, check=True)
    assert "ok   file system  clean" in checked.out
