"""The agent with volumes in blobs: identity, lease, what is stored, and what another agent gets to see."""

from __future__ import annotations

import base64
import json
import os
import signal
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.agents import POLICY, Agent, local_cloud
from fakes.blobservice import BlobService
from fakes.commands import Commands
from fakes.localblobs import account_key
from fakes.volumes import is_running, wait_until

from encfs.errors import ExitCode
from sidecar.local.blobs import ACCOUNT

pytestmark = [pytest.mark.fuse, pytest.mark.root]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with local_cloud(tmp_path_factory.mktemp("cloud")) as environment:
        yield environment


@pytest.fixture(scope="module")
def blobs(cloud: dict[str, str]) -> BlobService:
    directory = Path(cloud["BLOB_SAS_FILE"]).parent
    ca_file = cloud["SIDECAR_CA_FILE"]
    tls = ssl.create_default_context(cafile=ca_file)
    return BlobService(cloud["BLOB_ENDPOINT"], ACCOUNT, account_key(directory), tls, ca_file)


@pytest.fixture
def agent(commands: Commands, cloud: dict[str, str], blobs: BlobService) -> Iterator[Agent]:
    """An agent with one read-write page blob, reached by identity, and its key in the vault."""
    commands.environment.update(cloud)
    commands.environment["UVM_SECURITY_POLICY"] = base64.b64encode(POLICY.encode()).decode()
    names = commands.environment
    key = {
        "kid": f"volume-{os.urandom(4).hex()}",
        "authority": {"endpoint": names["MAA_ENDPOINT"]},
        "akv": {"endpoint": names["MHSM_ENDPOINT"]},
    }
    claims = [[{"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"}]]
    (commands.folder / "import.json").write_text(json.dumps({"key": key, "claims": claims}))
    commands.run("sidecar", "import-key", "-c", "import.json", "-kh", "key.bin", check=True)
    commands.run("encfs", "create", "data.img", "--size", "32M", "--key-file", "key.bin", check=True)
    blob = blobs.page_blob((commands.folder / "data.img").read_bytes())
    (commands.folder / "data.img").unlink()
    volume = {
        "azure_url": str(blobs.url(blob, "")),
        "azure_url_private": True,
        "mount_point": str(commands.folder / "mnt" / "data"),
        "read_write": True,
        "cache_size": "32M",
        "key": key,
    }
    started = Agent(commands, {"azure_filesystems": [volume]}, ("--drain", "10", "--lease-wait", "0"))
    yield started
    started.stop_whatever()


def write_durably(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.fsync(file.fileno())


def store(agent: Agent) -> Any:
    """What `/volumes/0` says of the store."""
    return agent.volume(0)["store"]


def test_lease_token_and_what_is_not_stored_are_shown(
    agent: Agent, cloud: dict[str, str], blobs: BlobService
) -> None:
    agent.start()
    mnt = agent.commands.folder / "mnt" / "data"
    wait_until(lambda: store(agent)["lease"] == "held", 5, "the driver has said how it stands")
    before = store(agent)
    assert before["kind"] == "blob"
    assert before["token_expiry"] > time.time() + 60
    (mnt / "file").write_bytes(os.urandom(1 << 20))
    status, receipt = agent.ask("/volumes/0/sync", "POST")
    assert (status, receipt["stored"]) == (200, True)
    after = receipt["volume"]["store"]
    assert after["stored_generation"] > before["accepted_generation"], "the receipt names what is stored"
    wait_until(lambda: store(agent)["dirty_bytes"] == 0, 10, "the kernel's own afterthoughts are stored too")
    metrics = agent.ask("/metrics")[1]
    assert 'encfs_store_lease_held{volume="0"} 1\n' in metrics
    assert 'encfs_store_dirty_bytes{volume="0"} 0\n' in metrics
    assert f'encfs_token_expiry_seconds{{volume="0"}} {after["token_expiry"]}\n' in metrics

    # A second agent on the same blob is refused, and this one does not notice.
    folder = agent.commands.folder
    settings = json.loads((folder / "settings.json").read_text())
    settings["azure_filesystems"][0]["mount_point"] = str(folder / "mnt2" / "data")
    (folder / "settings2.json").write_text(json.dumps(settings))
    other = Commands(folder, agent.commands.environment | {"ENCFS_RUN_DIR": str(folder / "run2")})
    words = ("--config", "settings2.json", "--no-http", "--lease-wait", "0", "--result", "result2")
    refused = other.run("encfs", "agent", *words)
    assert refused.code == ExitCode.IMAGE_BUSY
    assert "lease" in refused.err
    assert agent.ask("/readyz")[0] == 200
    assert agent.end() == 0
    assert "eyJ" not in agent.log


def test_a_dead_driver_and_a_dead_agent_give_the_lease_back(agent: Agent) -> None:
    agent.start()
    mnt = agent.commands.folder / "mnt" / "data"
    (mnt / "file").write_text("stored")
    agent.ask("/volumes/0/sync", "POST")
    os.kill(agent.volume(0)["driver_pid"], signal.SIGKILL)
    wait_until(lambda: agent.volume(0)["restarts"] == 1, 20, "mounted again, well before the lease runs out")
    assert (mnt / "file").read_text() == "stored"
    (mnt / "file").write_text("in memory only")
    driver = agent.volume(0)["driver_pid"]
    agent.end(signal.SIGKILL)
    agent.start()
    assert not is_running(driver)
    assert (mnt / "file").read_text() == "in memory only"
    assert agent.end() == 0
    took = agent.start()
    assert took < 20, "the lease was given back at the end"
    assert agent.end() == 0


def test_a_lease_that_was_taken_over_is_told(agent: Agent, blobs: BlobService) -> None:
    agent.start()
    wait_until(lambda: store(agent)["lease"] == "held", 5, "the driver has said how it stands")
    name = agent.settings["azure_filesystems"][0]["azure_url"].rpartition("/")[2]
    blobs.lease(name, "break", x_ms_lease_break_period="0")
    blobs.lease(name, "acquire", x_ms_lease_duration="60")
    with pytest.raises(OSError, match=r"Input/output error|Read-only"):
        write_durably(agent.commands.folder / "mnt" / "data" / "file")
    wait_until(lambda: store(agent)["lease"] == "lost", 20, "the lease is lost")
    assert 'encfs_store_lease_held{volume="0"} 0\n' in agent.ask("/metrics")[1]
    assert agent.end() == ExitCode.STORE
    assert "became read-only" in agent.log
