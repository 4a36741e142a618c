"""The agent as a process: real mounts, keys released by the cloud in a box, and all that can end it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fakes.agents import OTHER_POLICY, POLICY, Agent, local_cloud
from fakes.commands import Commands, is_mounted
from fakes.volumes import is_running, loop_file, mounts_below, wait_until

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with local_cloud(tmp_path_factory.mktemp("cloud")) as environment:
        yield environment


@pytest.fixture(scope="module")
def images(cloud: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, each under its own key in the vault, releasable under `POLICY` only."""
    folder = tmp_path_factory.mktemp("images")
    commands = Commands(folder, cloud | {"UVM_SECURITY_POLICY": base64.b64encode(POLICY.encode()).decode()})
    (folder / "policy.rego").write_text(POLICY)
    for name in ("first", "second"):
        (folder / "key.bin").write_bytes(os.urandom(32))
        (folder / "key.bin").chmod(0o600)
        claims = [[{"claim": "x-ms-sevsnpvm-is-debuggable", "equals": "false"}]]
        (folder / "import.json").write_text(json.dumps({"key": key(commands, name), "claims": claims}))
        words = ("-c", "import.json", "-kh", "key.bin", "--policy-digest", "policy.rego")
        commands.run("sidecar", "import-key", *words, check=True)
        commands.run("encfs", "create", f"{name}.img", "--size", "32M", "--key-file", "key.bin", check=True)
    return folder


def key(commands: Commands, name: str) -> dict[str, Any]:
    """The `key` member of settings, as the predecessor has it."""
    names = commands.environment
    return {
        "kid": name,
        "kty": "oct-HSM",
        "authority": {"endpoint": names["MAA_ENDPOINT"]},
        "akv": {"endpoint": names["MHSM_ENDPOINT"]},
    }


@pytest.fixture
def agent(commands: Commands, cloud: dict[str, str], images: Path) -> Iterator[Agent]:
    """An agent with two volumes of its own, the first read-write; not started."""
    commands.environment.update(cloud)
    commands.environment["UVM_SECURITY_POLICY"] = base64.b64encode(POLICY.encode()).decode()
    volumes: list[dict[str, Any]] = []
    for name in ("first", "second"):
        image = commands.folder / f"{name}.img"
        subprocess.run(["cp", "--sparse=always", images / image.name, image], check=True, timeout=20)
        volumes.append({"image": str(image), "mount_point": str(commands.folder / "mnt" / name)})
        volumes[-1]["key"] = key(commands, name)
    volumes[0]["read_write"] = True
    started = Agent(commands, {"azure_filesystems": volumes}, ("--drain", "8"))
    yield started
    started.stop_whatever()


def nothing_is_left(agent: Agent) -> None:
    """No mount, no link, no folder, no run directory."""
    folder = agent.commands.folder
    assert mounts_below(folder) == []
    assert list((folder / "mnt").iterdir()) == []
    assert list((folder / "run" / "agent").glob("*")) == []


def state_files(agent: Agent) -> list[Path]:
    return sorted((agent.commands.folder / "run" / "agent").glob("*/state.json"))


def state_of(agent: Agent, index: int) -> Any:
    """What the state file of a volume says."""
    for path in state_files(agent):
        state = json.loads(path.read_text())
        if Path(state["mount_point"]).name.startswith(f".filesystem-{index}"):
            return state
    raise AssertionError(f"volume {index} has no state file")


def test_two_volumes_by_released_keys_from_start_to_end(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    took = agent.start()
    with capsys.disabled():
        print(f"\nready to use: {took:.2f} s from start to two volumes mounted, keys released", end=" ")
    mnt = agent.commands.folder / "mnt"
    for index, name in enumerate(("first", "second")):
        assert os.readlink(mnt / name) == f".filesystem-{index}"
        assert (mnt / f".filesystem-{index}").stat().st_mode & 0o777 == 0o755
    agent.commands.run("encfs", "wait", mnt / "first", mnt / "second", "--timeout", "5", check=True)
    (mnt / "first" / "file").write_text("kept")
    with pytest.raises(OSError, match="Read-only file system"):
        (mnt / "second" / "file").write_text("no")

    assert agent.ask("/healthz") == (200, {"status": "ok", "down": []})
    assert agent.ask("/readyz") == (200, {"ready": True, "waiting_for": {}})
    status, receipt = agent.ask("/volumes/0/sync", "POST")
    assert (status, receipt["stored"]) == (200, True)
    listed = agent.ask("/volumes")[1]["volumes"]
    assert [(v["state"], v["writable"]) for v in listed] == [("mounted", True), ("mounted", False)]
    metrics = agent.ask("/metrics")[1]
    assert 'encfs_volume_mounted{volume="1"} 1\n' in metrics
    assert [agent.ask(path)[0] for path in ("/volumes/2", "/volumes/x", "/nothing")] == [404] * 3
    assert agent.ask("/volumes/0/sync")[0] == 405
    assert agent.result()[0] == "1\n"

    assert agent.end() == 0
    nothing_is_left(agent)
    assert agent.result()[1]["not_stored"] == []
    agent.start()
    assert (mnt / "first" / "file").read_text() == "kept"
    assert agent.end() == 0


def test_a_wrong_policy_ends_it_and_says_why(agent: Agent) -> None:
    agent.commands.environment["UVM_SECURITY_POLICY"] = base64.b64encode(OTHER_POLICY.encode()).decode()
    agent.start(wait=False)
    assert agent.wait() == ExitCode.RELEASE_REFUSED
    text, why = agent.result()
    assert (text, why["ok"], why["exit_code"]) == ("0\n", False, ExitCode.RELEASE_REFUSED)
    assert "x-ms-sevsnpvm-hostdata" in why["error"]
    assert "sidecar import-key --policy-digest" in why["hint"]
    assert [v["state"] for v in why["volumes"]] == ["failed", "failed"]
    assert "Failed to mount filesystems: failed to mount filesystem index 1: " in agent.log
    nothing_is_left(agent)


def test_one_volume_that_fails_takes_the_others_down(agent: Agent) -> None:
    (agent.commands.folder / "second.img").unlink()
    agent.start(wait=False)
    assert agent.wait() == ExitCode.IMAGE_MISSING
    why = agent.result()[1]
    assert why["error"].startswith("volume 1: image ")
    assert [v["state"] for v in why["volumes"]] == ["closed", "failed"]
    nothing_is_left(agent)


def test_settings_from_the_variable_are_checked_before_anything_is_touched(agent: Agent) -> None:
    commands = agent.commands
    commands.environment["EncfsSideCarArgs"] = base64.urlsafe_b64encode(
        json.dumps(agent.settings | {"extra": 1}).encode()
    ).decode()
    good = commands.run("encfs", "agent", "--check", check=True)
    assert good.out.splitlines()[0].endswith("first.img, read-write")
    assert "extra: unknown, ignored" in good.err
    commands.environment["EncfsSideCarArgs"] = base64.b64encode(b'{"azure_filesystems": [{}]}').decode()
    bad = commands.run("encfs", "agent")
    assert bad.code == ExitCode.USAGE
    assert "3 mistakes" in bad.err
    del commands.environment["EncfsSideCarArgs"]
    assert "encfs agent --config" in commands.run("encfs", "agent").err


def test_after_sigkill_a_new_life_finds_everything_and_stores_what_was_open(agent: Agent) -> None:
    agent.start()
    mnt = agent.commands.folder / "mnt"
    (mnt / "first" / "before").write_text("not synced")
    old = [state_of(agent, index) for index in (0, 1)]
    agent.end(signal.SIGKILL)
    assert is_running(old[0]["driver_pid"]), "the driver goes on serving"
    (mnt / "first" / "after").write_text("written while no agent was there")
    with (mnt / "first" / "held").open("w") as held:  # an application that keeps a file open
        agent.start()
        assert agent.volume(0)["state"] == "mounted"
        with pytest.raises(OSError, match="Input/output error"):
            os.write(held.fileno(), b"x" * 100_000)
    assert not any(is_running(state["driver_pid"]) for state in old)
    assert (mnt / "first" / "before").read_text() == "not synced"
    assert (mnt / "first" / "after").read_text() == "written while no agent was there"
    assert agent.end() == 0
    nothing_is_left(agent)
    wait_until(
        lambda: "device/data" not in (loop_file(old[0]["loop"]) or ""), 5, "the old loop device is gone"
    )


def test_a_replaced_container_finds_a_dead_mount_without_any_state(agent: Agent) -> None:
    """The mounts of a dead container stay where they were propagated to; its run directory is gone."""
    agent.start()
    mnt, run = agent.commands.folder / "mnt", agent.commands.folder / "run"
    (mnt / "first" / "file").write_text("kept")
    agent.ask("/volumes/0/sync", "POST")
    states = [state_of(agent, index) for index in (0, 1)]
    agent.end(signal.SIGKILL)
    for state in states:
        os.kill(state["driver_pid"], signal.SIGKILL)
    for device in run.glob("agent/*/device"):
        subprocess.run(["umount", "-l", device], check=True, timeout=20)
    subprocess.run(["rm", "-rf", run / "agent"], check=True, timeout=20)
    assert is_mounted(mnt / ".filesystem-0")
    agent.start()
    assert (mnt / "first" / "file").read_text() == "kept"
    assert agent.end() == 0
    nothing_is_left(agent)


def test_a_dead_driver_is_replaced_and_applications_see_eio_in_between(agent: Agent) -> None:
    agent.start()
    mnt = agent.commands.folder / "mnt"
    (mnt / "first" / "file").write_text("synced")
    agent.ask("/volumes/0/sync", "POST")
    first = os.readlink(mnt / "first")
    held = (mnt / "first" / "open").open("w")
    os.kill(state_of(agent, 0)["driver_pid"], signal.SIGKILL)
    errors: list[int] = []

    def back() -> bool:
        try:
            (mnt / "first" / "probe").write_text("x" * 10_000)
            os.listdir(mnt / "first" / "lost+found")
        except OSError as exc:
            errors.append(exc.errno or 0)
            return False
        return os.readlink(mnt / "first") != first and agent.volume(0)["state"] == "mounted"

    wait_until(back, 20, "the volume is mounted again")
    assert set(errors) <= {5, 30}, "EIO or a read-only file system, never a bare folder"
    for use in (lambda: os.write(held.fileno(), b"y" * 100_000), lambda: os.fsync(held.fileno())):
        with pytest.raises(OSError, match=r"Input/output error|Read-only"):
            use()
    held.close()
    assert (mnt / "first" / "file").read_text() == "synced"
    seen = agent.volume(0)
    assert (seen["restarts"], seen["error"]) == (1, "")
    assert agent.volume(1)["restarts"] == 0
    assert not is_mounted(mnt / first)
    assert agent.end() == 0
    nothing_is_left(agent)


def test_a_volume_that_stays_down_is_not_ready_and_does_not_take_the_others_along(agent: Agent) -> None:
    agent.start()
    image, mnt = agent.commands.folder / "first.img", agent.commands.folder / "mnt"
    image.rename(image.with_suffix(".away"))
    os.kill(state_of(agent, 0)["driver_pid"], signal.SIGKILL)
    wait_until(lambda: agent.ask("/readyz")[0] == 503, 10, "not ready")
    wait_until(lambda: "no such" in agent.volume(0)["error"].lower(), 10, "the reason is told")
    assert agent.ask("/readyz")[1]["waiting_for"] == {"0": "broken"}
    assert agent.ask("/volumes/0/sync", "POST")[0] == 409
    assert agent.ask("/healthz")[0] == 200, "not yet long enough"
    assert os.listdir(mnt / "second") == ["lost+found"]
    with pytest.raises(OSError):
        (mnt / "first" / "file").write_text("x")
    image.with_suffix(".away").rename(image)
    wait_until(lambda: agent.ask("/readyz")[0] == 200, 20, "ready again")
    assert agent.end() == 0


def test_a_file_system_that_lost_its_store_is_mounted_again_when_that_is_back(agent: Agent) -> None:
    folder = agent.commands.folder
    small, image = folder / "small", folder / "first.img"
    small.mkdir()
    size = image.stat().st_blocks // 2 + 3072
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", small], check=True, timeout=20)
    try:
        subprocess.run(["cp", "--sparse=always", image, small / "first.img"], check=True, timeout=20)
        agent.settings["azure_filesystems"][0]["image"] = str(small / "first.img")
        agent.start()
        file = folder / "mnt" / "first" / "file"
        (file.parent / "before").write_text("stored")
        agent.ask("/volumes/0/sync", "POST")

        def refused() -> bool:
            with contextlib.suppress(OSError), file.open("wb") as opened:
                opened.write(os.urandom(6 << 20))
            agent.ask("/volumes/0/sync", "POST")
            return agent.ask("/readyz")[0] == 503

        wait_until(refused, 20, "the disk is full, and that is told")
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True, timeout=20)
        wait_until(lambda: agent.ask("/readyz")[0] == 200, 20, "mounted again")
        file.write_bytes(b"x" * 100_000)
        assert agent.ask("/volumes/0/sync", "POST")[0] == 200
        assert (file.parent / "before").read_text() == "stored"
        assert agent.volume(0)["restarts"] >= 1
        assert agent.end() == 0
    finally:
        agent.stop_whatever()
        subprocess.run(["umount", "-l", small], check=True, timeout=20)


def test_sigterm_waits_for_open_files_and_then_cuts_them_off_with_everything_stored(agent: Agent) -> None:
    agent.options = ("--drain", "3")
    agent.start()
    mnt = agent.commands.folder / "mnt"
    (mnt / "first" / "file").write_text("late")
    with subprocess.Popen(["sleep", "60"], cwd=mnt / "first") as user:
        try:
            assert agent.end() == 0, agent.log
        finally:
            user.kill()
            user.wait()
    assert f"sleep (pid {user.pid})" in agent.log
    assert "everything is stored; files were still open" in agent.log
    nothing_is_left(agent)
    agent.start()
    assert (mnt / "first" / "file").read_text() == "late"
    assert agent.end() == 0


def test_a_mount_that_lives_on_in_another_container_does_not_hold_up_the_end(agent: Agent) -> None:
    """A mount namespace without propagation keeps a copy of the mount, which nobody here can unmount."""
    agent.options = ("--drain", "4")
    agent.start()
    mnt = agent.commands.folder / "mnt"
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo started; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd="/") as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            (mnt / "first" / "file").write_text("late")
            began = time.monotonic()
            assert agent.end() == 0, agent.log
            assert time.monotonic() - began < 10
        finally:
            other.kill()
            other.wait()
    nothing_is_left(agent)
    agent.start()
    assert (mnt / "first" / "file").read_text() == "late"
    assert agent.end() == 0


@pytest.mark.slow
def test_killed_at_any_moment_it_comes_up_again(agent: Agent) -> None:
    """SIGKILL of the agent, and now and then of its drivers, while it starts, serves and ends."""
    mnt, random = agent.commands.folder / "mnt", Random(7)
    kept = ""
    for round_number in range(20):
        moment = random.choice(["starting", "serving", "ending"])
        agent.start(wait=moment != "starting")
        if moment == "starting":
            time.sleep(random.uniform(0.3, 1.5))
        else:
            if kept:
                assert (mnt / "first" / "file").read_text() == kept, f"round {round_number}"
            kept = str(round_number)
            (mnt / "first" / "file").write_text(kept)
            assert agent.ask("/volumes/0/sync", "POST")[0] == 200
        if moment == "ending":
            agent.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
            time.sleep(random.uniform(0, 0.2))
        drivers = [json.loads(path.read_text())["driver_pid"] for path in state_files(agent)]
        agent.end(signal.SIGKILL)
        if random.random() < 0.5:
            for pid in drivers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    agent.start()
    assert (mnt / "first" / "file").read_text() == kept
    assert agent.end() == 0
    nothing_is_left(agent)


def test_what_could_not_be_stored_at_the_end_is_in_the_exit_code(agent: Agent) -> None:
    agent.options = ("--drain", "2")
    agent.start()
    mnt = agent.commands.folder / "mnt"
    with (mnt / "first" / "file").open("w") as file:
        file.write("stored")
        file.flush()
        agent.ask("/volumes/0/sync", "POST")
        os.kill(state_of(agent, 0)["driver_pid"], signal.SIGSTOP)  # a store that answers nothing
        os.write(file.fileno(), b"lost")
    assert agent.end() == ExitCode.STORE, agent.log
    text, why = agent.result()
    assert (text, why["exit_code"]) == ("1\n", ExitCode.STORE)
    assert why["not_stored"][0].startswith("volume 0: ")
    nothing_is_left(agent)


def test_sigterm_before_everything_is_mounted_leaves_nothing(agent: Agent) -> None:
    agent.start(wait=False)
    mnt = agent.commands.folder / "mnt"
    wait_until(lambda: any(mnt.glob(".filesystem-*")), 10, "it has begun")
    assert agent.end() in (ExitCode.INTERRUPTED, ExitCode.OK)
    nothing_is_left(agent)


def test_foreign_things_at_the_mount_point_are_left_alone(agent: Agent) -> None:
    mnt = agent.commands.folder / "mnt"
    (mnt / "first").mkdir()
    (mnt / "first" / "file").write_text("mine")
    agent.start(wait=False)
    assert agent.wait() == ExitCode.MOUNT_POINT_BUSY
    assert (mnt / "first" / "file").read_text() == "mine"
    (mnt / "first" / "file").unlink()
    agent.start()  # an empty folder gives way
    assert agent.end() == 0


def test_two_agents_on_one_image(agent: Agent) -> None:
    agent.start()
    folder = agent.commands.folder
    other = Commands(folder, agent.commands.environment | {"ENCFS_RUN_DIR": str(folder / "run2")})
    same = other.run("encfs", "agent", "--config", "settings.json", "--no-http", "--result", "result2")
    assert same.code == ExitCode.MOUNT_POINT_BUSY
    assert "another agent has its mount points there" in same.err
    settings = json.loads((folder / "settings.json").read_text())
    for volume in settings["azure_filesystems"]:
        volume["mount_point"] = volume["mount_point"].replace("/mnt/", "/mnt2/")
    (folder / "settings2.json").write_text(json.dumps(settings))
    elsewhere = other.run("encfs", "agent", "--config", "settings2.json", "--no-http", "--result", "result2")
    assert elsewhere.code == ExitCode.IMAGE_BUSY
    assert agent.ask("/readyz")[0] == 200
    assert agent.end() == 0


def test_wait_as_an_init_container_does(agent: Agent) -> None:
    commands, mnt = agent.commands, agent.commands.folder / "mnt"
    early = commands.run("encfs", "wait", mnt / "first", "--timeout", "0.2")
    assert (early.code, "not there" in early.err) == (ExitCode.NOT_MOUNTED, True)
    words = ["encfs", "wait", "mnt/first", "mnt/second", "--timeout", "30"]
    environment = commands.child_environment()
    with subprocess.Popen(words, cwd=commands.folder, env=environment, stdout=subprocess.PIPE) as waiting:
        agent.start()
        out, _ = waiting.communicate(timeout=30)
        assert waiting.returncode == 0
    assert sorted(out.decode().split()[1::2]) == [str(mnt / "first"), str(mnt / "second")]
    assert agent.end() == 0


def test_no_secret_is_in_log_result_or_process_list(agent: Agent) -> None:
    raw = os.urandom(32)
    agent.settings["azure_filesystems"][0]["raw_key"] = raw.hex()
    agent.settings["azure_filesystems"][1]["key"]["akv"]["bearer_token"] = "eyJhbGciOiJub25lIn0.eyJhIjoxfQ."
    agent.options = ("--insecure-raw-key", "--log-format", "json", "--log-level", "debug")
    agent.start(wait=False)
    code = agent.wait()
    assert code in (ExitCode.WRONG_KEY, ExitCode.RELEASE_REFUSED)
    lines = [json.loads(line) for line in agent.log.splitlines()]
    assert lines[-1]["level"] == "error"
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert {line.get("volume") for line in lines} == {None, 0, 1}
    everything = agent.log + json.dumps(agent.result())
    assert raw.hex() not in everything
    assert "eyJhbGciOiJub25lIn0" not in everything
