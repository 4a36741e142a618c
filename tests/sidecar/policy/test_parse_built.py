"""What our own writer writes, our own reader reads: every policy that can be built, both spellings."""

from __future__ import annotations

import json
from dataclasses import asdict

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.policy.containers import ContainerEntry, EnvRule, Mount
from sidecar.policy.members import Capabilities, ExecProcess, IdName, UserRule
from sidecar.policy.parse import parse_policy
from sidecar.policy.rego import Flags, Policy, Versions, sidecar_text

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
HASHES = st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=3).map(tuple)
SIGNALS = st.lists(st.integers(1, 64), max_size=3).map(tuple)
ID_NAME = st.builds(IdName, TEXT, st.sampled_from(["any", "id", "name", "re2"]))
RULE = st.builds(EnvRule, TEXT, TEXT, st.sampled_from(["string", "re2"]), st.booleans())
ENTRIES = st.builds(
    ContainerEntry,
    name=TEXT | st.none(),
    id=TEXT | st.none(),
    layers=HASHES,
    command=WORDS | st.none(),
    env_rules=st.lists(RULE, max_size=3).map(tuple),
    capabilities=st.builds(Capabilities, WORDS, WORDS, WORDS, WORDS, WORDS),
    mounts=st.lists(st.builds(Mount, TEXT, TEXT, WORDS), max_size=2).map(tuple),
    exec_processes=st.lists(st.builds(ExecProcess, WORDS, SIGNALS), max_size=2).map(tuple),
    signals=SIGNALS,
    user=st.builds(UserRule, ID_NAME, st.lists(ID_NAME, max_size=2).map(tuple), TEXT),
    working_dir=TEXT,
    allow_elevated=st.booleans(),
    allow_stdio_access=st.booleans(),
    no_new_privileges=st.booleans(),
    seccomp_profile_sha256=TEXT,
)
INCLUDES = st.lists(st.sampled_from(["containers", "fragments"]), max_size=2)
IMPORTS = st.fixed_dictionaries(
    {"feed": TEXT, "includes": INCLUDES, "issuer": TEXT, "minimum_svn": st.integers(0, 99).map(str)}
)
POLICIES = st.builds(
    Policy,
    containers=st.lists(ENTRIES, max_size=3).map(tuple),
    fragments=st.lists(IMPORTS, max_size=2).map(tuple),
    flags=st.builds(Flags, *[st.booleans()] * 6),
    versions=st.sampled_from([Versions("0.10.0"), Versions(), Versions("0.12.0", "0.5.0")]),
)


@settings(deadline=None, max_examples=60)
@given(POLICIES, st.booleans())
def test_parse_of_build_is_the_policy(policy: Policy, pretty: bool) -> None:
    text = policy.text(pretty=pretty)
    read = parse_policy(text.encode())
    # Through JSON, which is what the text holds.
    assert [c.to_json() for c in read.containers] == [
        json.loads(json.dumps(entry.to_json())) for entry in policy.containers
    ]
    assert [f.to_json() for f in read.fragments] == list(policy.fragments)
    assert (read.api_version, read.framework_version) == (policy.versions.api, policy.versions.framework)
    flags = {f"allow_{name}": value for name, value in asdict(policy.flags).items()}
    assert flags.items() <= dict(read.flags).items()
    assert all(point.fixed is None for point in read.points)
    assert f"create_container := data.framework.{read.points[4].name}" in text


@settings(deadline=None, max_examples=20)
@given(st.lists(ENTRIES, max_size=2), st.booleans())
def test_the_text_of_the_services_own_containers(entries: list[ContainerEntry], pretty: bool) -> None:
    read = parse_policy(sidecar_text(entries, Versions(), pretty=pretty).encode())
    assert read.package == "microsoftcontainerinstance"
    assert [c.to_json() for c in read.containers] == [entry.to_json() for entry in entries]
