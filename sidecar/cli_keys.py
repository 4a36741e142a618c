"""Commands on keys in a vault: import-key, keys, explain.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sidecar.arguments import (
    Commands,
    add_identity,
    add_snp,
    command,
    identity_of,
    read_file,
    settings_with_identity,
    write_secret,
)
from sidecar.config import IdentityKind, SidecarSettings
from sidecar.errors import ExitCode, MalformedInput, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.explain import Explanation
    from sidecar.explaining import LiveExplanation
    from sidecar.importkey import ImportConfig, Material
    from sidecar.policy.digest import FoundPolicy


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    _add_import(commands)
    _add_keys(commands)
    _add_explain(commands)


# -- import-key -----------------------------------------------------------------------------------


def _add_import(commands: Commands) -> None:
    parser = command(
        commands,
        "import-key",
        _import,
        "Import a key into a vault under a release policy; makes one when none is given.",
        "Takes the predecessor's configuration and flags. Files it writes: mode 0600, replacing nothing.",
    )
    parser.add_argument(
        "-c", "--config", required=True, type=Path, metavar="FILE", help="importkeyconfig.json"
    )
    parser.add_argument("-kh", "--kh", metavar="HEX|FILE", help="symmetric key: a file, or 64 hex digits")
    parser.add_argument("-kp", "--kp", type=Path, metavar="PEM", help="RSA or EC private key, PKCS#8")
    parser.add_argument("-out", "--out", action="store_true", help="write the passphrase to keyfile.bin")
    parser.add_argument("-a", action="store_true", help="as this machine's managed identity")
    add_identity(parser)
    parser.add_argument(
        "--policy-digest",
        metavar="FILE|HEX",
        help="security policy (or its digest) that the claims must name",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="FILE",
        help="template, manifest or policy whose digest the claims must name",
    )
    parser.add_argument("--group", metavar="NAME", help="its container group, where it has several")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be imported, and send nothing"
    )
    parser.add_argument("--show-secrets", action="store_true", help="print the symmetric key")
    parser.add_argument("--json", action="store_true")


def _import(arguments: argparse.Namespace) -> None:
    from sidecar.importkey import import_key, make_material, parse_import_config, parse_symmetric
    from sidecar.services import open_services
    from sidecar.weakpolicy import weaknesses

    config = parse_import_config(read_file(arguments.config))
    if arguments.policy_digest:
        config = config.with_host_data(_digest(arguments.policy_digest))
    if arguments.policy:
        config = config.with_host_data(_digest_of_policy(arguments))
    if not config.clauses:
        raise MalformedInput(
            "import configuration: no claims, so no release policy",
            hint="list claims, or give --policy",
        )
    for words in weaknesses(config.policy()):
        print(f"sidecar: warning: weak release policy: {words}", file=sys.stderr)
    symmetric = parse_symmetric(_symmetric(arguments.kh)) if arguments.kh else None
    pem = read_file(arguments.kp) if arguments.kp else None
    material = make_material(config, symmetric=symmetric, pem=pem)
    kid = None
    _write_files(arguments, material)
    if not arguments.dry_run:

        async def run() -> str:
            settings, token = _importer(arguments, config)
            async with open_services(os.environ, settings, access_token=token) as services:
                services.authority(config.maa_endpoint)
                return (await import_key(services.vault(config.akv_endpoint), config, material)).kid

        kid = trio.run(run)
    _print_import(arguments, config, material, kid)


def _importer(arguments: argparse.Namespace, config: ImportConfig) -> tuple[SidecarSettings, str]:
    """Who imports: `-a` for the managed identity, else the configuration's token, else as asked."""
    identity = identity_of(arguments)
    if arguments.a:
        identity = replace(identity, kind=IdentityKind.MANAGED)
    named = identity.client_id or identity.object_id or identity.resource_id
    if config.client_id and not named and identity.kind in (IdentityKind.AUTO, IdentityKind.MANAGED):
        identity = replace(identity, client_id=config.client_id)
    return SidecarSettings(identity=identity), "" if arguments.a else config.bearer_token


def _digest(text: str) -> bytes:
    """A digest as hex, or of a policy file."""
    from sidecar.securitypolicy import policy_digest

    if len(text) == 64 and not Path(text).exists():
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    return policy_digest(read_file(Path(text)))


def _digest_of_policy(arguments: argparse.Namespace) -> bytes:
    """The digest of the one policy in a file; says on standard error what is badly wrong with it."""
    from sidecar.policy.digest import only_policy
    from sidecar.policy.lint import Level, lint_policy
    from sidecar.policy.parse import parse_policy

    if arguments.policy_digest:
        raise UsageError("import-key: wanted one of --policy and --policy-digest")
    what = f"file {arguments.policy}"
    found = only_policy(read_file(arguments.policy), what=what, group=arguments.group)
    for finding in lint_policy(parse_policy(found.text, what=what)):
        if finding.level is Level.ERROR:
            words = f"{finding.where}: {finding.words}"
            print(f"sidecar: warning: weak security policy: {words}", file=sys.stderr)
    return bytes.fromhex(found.digest)


def _symmetric(text: str) -> bytes:
    """Content of a file, else the hex digits themselves."""
    if not Path(text).exists() and len(text) == 64:
        return text.encode()
    return read_file(Path(text))


def _write_files(arguments: argparse.Namespace, material: Material) -> None:
    """Keep a generated private key and, when asked, the passphrase, before anything is sent."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    if arguments.dry_run:
        return
    if material.generated and material.key.family != "oct":
        pem = material.key.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(Path("private_key.pem"), pem)
    if arguments.out:
        if material.passphrase is None:
            raise UsageError("-out: an EC key stands for no passphrase")
        write_secret(Path("keyfile.bin"), material.passphrase)


def _print_import(
    arguments: argparse.Namespace, config: ImportConfig, material: Material, kid: str | None
) -> None:
    from sidecar.importkey import without_secret

    summary: dict[str, object] = {
        "kid": kid,
        "key_check_value": material.check_value,
        "salt": material.salt.hex() or None,
        "label": config.label if material.salt else None,
        **without_secret(config),
    }
    if arguments.show_secrets and material.passphrase is not None:
        summary["symmetric_key"] = material.passphrase.hex()
    if arguments.json:
        print(json.dumps(summary, indent=1))
        return
    print(f"key {kid}" if kid else f"key {config.kid}: nothing was sent (dry run)")
    if material.check_value:
        print(f"key check value {material.check_value}")
    if material.salt:
        print(f"salt {material.salt.hex()} label {config.label!r}: mounting needs both")
        if not config.salt:
            print("sidecar: warning: the salt is new; record it in key_derivation.salt", file=sys.stderr)
    if "symmetric_key" in summary:
        print(f"symmetric key {summary['symmetric_key']}")
    print("release policy " + json.dumps(config.policy().to_dict(), indent=1))


# -- keys -----------------------------------------------------------------------------------------


def _add_keys(commands: Commands) -> None:
    parser = commands.add_parser("keys", help="List, show, delete, purge or recover keys of a vault.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, words in (
        ("list", "List the keys of a vault."),
        ("show", "Show a key: attributes and release policy, no secret."),
        ("delete", "Delete a key; it can be recovered until it is purged."),
        ("purge", "Purge a deleted key for ever."),
        ("recover", "Recover a deleted key."),
    ):
        action = command(actions, name, _keys, words)
        action.add_argument("--akv", required=True, metavar="HOST", help="vault or managed HSM")
        add_identity(action)
        if name != "list":
            action.add_argument("--kid", required=True, help="key name, or name/version to show")
        action.set_defaults(action=name)


def _keys(arguments: argparse.Namespace) -> None:
    from sidecar.keyadmin import delete, list_keys, purge, recover, show
    from sidecar.services import open_services

    async def run() -> object:
        async with open_services(os.environ, settings_with_identity(arguments)) as services:
            vault = services.vault(arguments.akv)
            if arguments.action == "list":
                return await list_keys(vault)
            act = {"show": show, "delete": delete, "purge": purge, "recover": recover}[arguments.action]
            return await act(vault, arguments.kid)

    print(json.dumps(trio.run(run), indent=1))


# -- explain --------------------------------------------------------------------------------------


def _add_explain(commands: Commands) -> None:
    parser = command(
        commands,
        "explain",
        _explain,
        "Explain claim by claim whether a key would be released to this guest.",
        "Live: --maa, --akv, --kid; where the policy is met the release is tried, because roles and\n"
        "firewalls only show then (the key goes nowhere). From files: --token, --policy.\n"
        "With --maa and --policy this guest is held against a policy that no key has yet.\n"
        "Exit code 8: it would not be released.",
    )
    parser.add_argument("--maa", metavar="HOST", help="attestation authority, without https://")
    parser.add_argument("--akv", metavar="HOST", help="vault or managed HSM, without https://")
    parser.add_argument("--kid", help="key name, or name/version")
    parser.add_argument("--token", type=Path, metavar="FILE", help="an attestation token; not verified")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="a release policy, JSON")
    parser.add_argument(
        "--security-policy",
        type=Path,
        action="append",
        metavar="FILE",
        help="of the import or of now, to show what changed; repeatable",
    )
    parser.add_argument("--no-release", action="store_true", help="do not try the release")
    parser.add_argument("--suggest", action="store_true", help="print a release policy for this guest")
    parser.add_argument("--json", action="store_true")
    add_identity(parser)
    add_snp(parser)


def _explain(arguments: argparse.Namespace) -> int:
    from sidecar.explain import explain
    from sidecar.explaining import suggest_policy
    from sidecar.releasepolicy import parse_policy

    if bool(arguments.maa) == bool(arguments.token):
        raise UsageError("explain: wanted either --maa (this guest) or --token FILE")
    if not arguments.suggest and not arguments.policy:
        if not (arguments.maa and arguments.akv and arguments.kid):
            raise UsageError("explain: wanted a policy: --policy FILE, or --maa, --akv and --kid")
        return _print_explanation(_explain_live(arguments), arguments)
    claims = _live_claims(arguments) if arguments.maa else _token_claims(arguments.token)
    if arguments.suggest:
        print(json.dumps(suggest_policy(claims).to_dict(), indent=1))
        return ExitCode.OK
    policy = parse_policy(read_file(arguments.policy))
    return _print_explanation(explain(policy, claims, at=datetime.now(UTC)), arguments)


def _print_explanation(found: Explanation | LiveExplanation, arguments: argparse.Namespace) -> int:
    from sidecar.explaining import LiveExplanation
    from sidecar.policy.digest_change import digest_change

    policy = found.policy if isinstance(found, LiveExplanation) else found
    change = digest_change(policy.evaluation, _policies_at_hand(arguments)) if policy else None
    if arguments.json:
        more = {"policy_change": change.to_dict()} if change else {}
        print(json.dumps(found.to_dict() | more, indent=1))
    else:
        print(found.to_text())
        if change:
            print("\n" + change.to_text())
    return ExitCode.OK if found.granted else ExitCode.RELEASE_REFUSED


def _policies_at_hand(arguments: argparse.Namespace) -> Iterator[FoundPolicy]:
    """The policies that the user names, and the one this machine runs under."""
    from sidecar.policy.digest import FoundPolicy, find_policies
    from sidecar.uvm import read_uvm

    for path in arguments.security_policy or ():
        yield from find_policies(read_file(path), what=f"file {path}")
    if (own := read_uvm().security_policy) is not None:
        yield FoundPolicy("", own)


def _token_claims(path: Path) -> dict[str, object]:
    from sidecar.jose import parse_jws, payload_object

    return payload_object(parse_jws(read_file(path).strip()))


def _live_claims(arguments: argparse.Namespace) -> dict[str, object]:
    from sidecar.client import open_guest
    from sidecar.release import attest
    from sidecar.services import open_services

    async def run() -> dict[str, object]:
        async with open_services(os.environ) as services:
            authority = services.authority(arguments.maa)
            guest = await open_guest(services.http, os.environ, snp=arguments.snp)
            return (await attest(guest, authority, b"{}")).claims

    return trio.run(run)


def _explain_live(arguments: argparse.Namespace) -> LiveExplanation:
    from sidecar.akv import parse_key_ref
    from sidecar.client import open_guest
    from sidecar.explaining import explain_live
    from sidecar.services import open_services

    key = parse_key_ref(arguments.kid)

    async def run() -> LiveExplanation:
        async with open_services(os.environ, settings_with_identity(arguments)) as services:
            authority, vault = services.authority(arguments.maa), services.vault(arguments.akv)
            guest = await open_guest(services.http, os.environ, snp=arguments.snp)
            attempt = not arguments.no_release
            return await explain_live(guest, authority, vault, key, at=datetime.now(UTC), attempt=attempt)

    return trio.run(run)
