"""Policies where people keep them, and the change that stands in the way of a key."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from fakes.policies import container, policy_text

from sidecar.errors import MalformedInput
from sidecar.policy.digest import FoundPolicy, find_policies, only_policy
from sidecar.policy.digest_change import DigestChange, digest_change
from sidecar.releasepolicy import build_policy, evaluate

TEXT, OTHER = policy_text(), policy_text(container(command=["/other"]))
ENCODED, OTHER_ENCODED = (base64.b64encode(text).decode() for text in (TEXT, OTHER))
DIGEST = hashlib.sha256(TEXT).hexdigest()


def group(name: str, encoded: object, *, key: str = "ccePolicy") -> dict[str, Any]:
    properties = {"confidentialComputeProperties": {key: encoded}, "containers": []}
    return {
        "type": "Microsoft.ContainerInstance/containerGroups",
        "name": name,
        "properties": properties,
    }


def template(*groups: dict[str, Any]) -> bytes:
    return json.dumps({"$schema": "x", "resources": list(groups)}).encode()


MANIFEST = f"""\
apiVersion: v1
kind: Pod
metadata:
  annotations:
    microsoft.containerinstance.virtualnode.ccepolicy: "{ENCODED}" # generated
"""


@pytest.mark.parametrize(
    "data",
    [
        TEXT,
        ENCODED.encode(),
        ENCODED.encode() + b"\n",
        "\n".join(ENCODED[i : i + 76] for i in range(0, len(ENCODED), 76)).encode(),
        template(group("g", ENCODED)),
        b"\xef\xbb\xbf" + template(group("g", ENCODED)),
        b"// note\n" + template(group("g", ENCODED)) + b"/* end */",
        json.dumps(group("g", ENCODED, key="CCEPOLICY")).encode(),
        json.dumps([{"nested": {"template": {"resources": [group("g", ENCODED)]}}}]).encode(),
        MANIFEST.encode(),
        MANIFEST.replace('"', "").replace("\n", "\r\n").encode(),
    ],
    ids=[
        "text",
        "base64",
        "line end",
        "wrapped",
        "template",
        "mark",
        "comments",
        "deployed",
        "nested",
        "yaml",
        "crlf",
    ],
)
def test_one_policy_everywhere(data: bytes) -> None:
    (found,) = find_policies(data)
    assert (found.text, found.digest) == (TEXT, DIGEST)
    assert only_policy(data) == found


def test_the_real_policy_has_the_reports_digest(shared_snp: Path) -> None:
    (found,) = find_policies((shared_snp / "uvm_security_policy.base64").read_bytes())
    report = (shared_snp / "snp_report.bin").read_bytes()
    assert bytes.fromhex(found.digest) == report[0xC0:0xE0]


def test_several_groups() -> None:
    data = template(group("one", ENCODED), group("empty", ""), group("two", OTHER_ENCODED))
    assert [(f.name, f.text) for f in find_policies(data)] == [("one", TEXT), ("two", OTHER)]
    assert only_policy(data, group="two").text == OTHER
    with pytest.raises(MalformedInput, match="2 policies fit, wanted one; its groups are 'one', 'two'"):
        only_policy(data)
    with pytest.raises(MalformedInput, match="0 policies fit"):
        only_policy(data, group="three")
    # Groups under the same policy need no choice.
    assert only_policy(template(group("one", ENCODED), group("two", ENCODED))).text == TEXT


def test_several_manifests() -> None:
    data = MANIFEST + "---\n" + MANIFEST.replace(ENCODED, OTHER_ENCODED)
    assert [f.text for f in find_policies(data.encode())] == [TEXT, OTHER]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (template(), "carries no security policy"),
        (template(group("g", "")), "carries no security policy"),
        (template(group("g", None)), "carries no security policy"),
        (template(group("g", "[parameters('policy')]")), "policy of 'g': ccePolicy is not base64"),
        (template(group("g", 5)), "policy of 'g': ccePolicy is not base64"),
        (template(group("g", "AAAAA")), "policy of 'g': ccePolicy is not base64"),
        (MANIFEST.replace(f'"{ENCODED}"', "|").encode(), "is not base64 on one line"),
        (MANIFEST.replace(f'"{ENCODED}"', '""').encode(), "carries no security policy"),
    ],
)
def test_what_carries_no_policy(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        find_policies(data)


# -- a key that was imported for another policy ---------------------------------------------------


HOST_DATA = "x-ms-sevsnpvm-hostdata"
POLICIES = [FoundPolicy("", TEXT), FoundPolicy("", OTHER)]
OTHER_DIGEST = POLICIES[1].digest


def change(seen: object, at_hand: list[FoundPolicy], *wanted: str) -> DigestChange | None:
    policy = build_policy(["https://a"], [[(HOST_DATA, digest)] for digest in wanted or (DIGEST,)])
    return digest_change(evaluate(policy, {"iss": "https://a", HOST_DATA: seen}), at_hand)


def test_both_policies_are_at_hand() -> None:
    found = change(OTHER_DIGEST, POLICIES)
    assert found is not None
    text = found.to_text()
    assert text.startswith("policy digest changed since the key was imported\n")
    assert "command: /app --port 80 -> /other" in text
    assert DIGEST in text
    assert OTHER_DIGEST in text
    assert found.to_dict()["changes"]


def test_one_policy_is_missing() -> None:
    found = change(OTHER_DIGEST, POLICIES[1:])
    assert found is not None
    assert found.missing == (DIGEST,)
    assert f"give the policy {DIGEST[:12]}..." in found.to_text()


def test_of_several_policies_the_one_at_hand_is_compared() -> None:
    found = change(OTHER_DIGEST, POLICIES, "e" * 64, DIGEST)
    assert found is not None
    assert found.imported_for == DIGEST
    assert found.difference is not None


def test_a_policy_that_cannot_be_read() -> None:
    odd = FoundPolicy("", b"package policy\ndefault allow := true\n")
    found = change(odd.digest, [*POLICIES, odd])
    assert found is not None
    assert "cannot be compared: the second: line 2" in found.to_text()


@pytest.mark.parametrize("seen", [DIGEST, "", "zz", None, 5])
def test_when_it_is_not_the_policys_digest(seen: object) -> None:
    assert change(seen, POLICIES) is None
