"""Command line options of the cloud in a box."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from sidecar.errors import UsageError
from sidecar.local.options import LocalSettings, add_arguments, settings_of


def settings(*arguments: str, environ: dict[str, str] | None = None) -> LocalSettings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return settings_of(parser.parse_args(arguments), environ or {"HOME": "/home/me"}, Path("/snp"))


def test_defaults() -> None:
    found = settings()
    assert found == LocalSettings(Path("/home/me/.local/state/sidecar/local"), Path("/snp"))
    assert found.throttled
    assert settings(environ={"XDG_STATE_HOME": "/state"}).directory == Path("/state/sidecar/local")


def test_everything() -> None:
    places = ["--directory=/d", "--snp-directory=/s", "--env-file=/e", "--port=akv=1", "--port=maa=2"]
    faults = ["--fault=akv:status=429", "--fault=maa:delay=1"]
    found = settings(*places, *faults, "--identities=3", "--compliance=azure-compliant-uvm", "--no-throttle")
    assert found == LocalSettings(
        Path("/d"),
        Path("/s"),
        Path("/e"),
        {"akv": 1, "maa": 2},
        ("akv:status=429", "maa:delay=1"),
        3,
        "azure-compliant-uvm",
        False,
    )


@pytest.mark.parametrize(
    "argument",
    ["--port=akv", "--port=other=1", "--port=akv=0", "--port=akv=65536", "--fault=x", "--identities=0"],
)
def test_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        settings(argument)


def test_help_is_honest() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    text = parser.format_help()
    for words in ("not Azure", "SIDECAR_MANAGED_HSM_HOSTS", "akv/release:status=429"):
        assert words in text
