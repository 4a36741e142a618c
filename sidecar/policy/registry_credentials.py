"""Who we are to a registry: Docker's and Podman's files of logins, and credential helpers.

A helper is a program that the user's own configuration names; it gets the registry's name on its standard
input and answers on its standard output. Passwords are secret: they stay out of `repr` and of every error.

Spec: docker login documentation ("Credential stores", "Credential helpers"); containers-auth.json(5).

Kind: adapter
"""

from __future__ import annotations

import base64
import binascii
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.errors import IdentityError, MalformedInput, UsageError
from sidecar.policy.images_names import HUB, HUB_HOST, RegistryName
from sidecar.strictjson import JsonObject, as_object, as_text, load_object, optional_text

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
_HELPER_SECONDS = 30
_MAX_ANSWER = 64 << 10
_MAX_FILE = 1 << 20
_HUB_KEY = f"https://index.{HUB}/v1/"
_TOKEN_USER = "<token>"  # noqa: S105 - how helpers mark an identity token


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password, or an identity token (a refresh token) in place of both."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of a Basic authorization header, secret."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(name: RegistryName, environ: Mapping[str, str]) -> Credentials | None:
    """The login for an image, None where the user has none. Blocking: may run a helper.

    Raises:
        UsageError: a file cannot be read.
        MalformedInput: a file or a helper's answer is malformed.
        IdentityError: a helper failed.
    """
    for path in _files(environ):
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_FILE + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise UsageError(f"{path}: {exc.strerror}") from exc
        found = _in_config(load_object(data, what=str(path)), name, str(path))
        if found is not None:
            return found
    return None


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if named := environ.get("DOCKER_CONFIG"):
        yield Path(named) / "config.json"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    if home := environ.get("HOME"):
        yield Path(home) / ".docker" / "config.json"


def _keys(name: RegistryName) -> list[str]:
    """What a login may be filed under, the most exact first."""
    host = HUB if name.host == HUB_HOST else name.host
    parts = name.path.split("/")
    keys = ["/".join((host, *parts[:depth])) for depth in range(len(parts), 0, -1)] + [host]
    if name.host == HUB_HOST:
        return [*keys, _HUB_KEY, f"index.{HUB}"]
    return [*keys, f"https://{host}", f"https://{host}/"]


def _in_config(config: JsonObject, name: RegistryName, what: str) -> Credentials | None:
    keys = _keys(name)
    helpers = as_object(config.get("credHelpers") or {}, f"{what}: credHelpers")
    auths = as_object(config.get("auths") or {}, f"{what}: auths")
    for key in keys:
        if key in helpers:
            helper = as_text(helpers[key], f"{what}: credHelpers")
            return _ask_helper(helper, key, what)
    for key in keys:
        if key in auths:
            found = _entry(as_object(auths[key], f"{what}: auths"), f"{what}: auths: {key}")
            if found is not None:
                return found
    store = optional_text(config, "credsStore", what)
    if not store:
        return None
    server = _HUB_KEY if name.host == HUB_HOST else name.host
    return _ask_helper(store, server, what)


def _entry(entry: JsonObject, what: str) -> Credentials | None:
    identity_token = optional_text(entry, "identitytoken", what) or ""
    packed = optional_text(entry, "auth", what)
    if not packed:
        username, password = (optional_text(entry, key, what) or "" for key in ("username", "password"))
    else:
        try:
            text = base64.b64decode(packed, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise MalformedInput(f"{what}: auth is not base64 of text") from None
        username, _, password = text.partition(":")
        password = password.rstrip("\0")
    if not (identity_token or username or password):
        return None
    return Credentials(username, password, identity_token)


def _ask_helper(helper: str, server: str, what: str) -> Credentials | None:
    if not _HELPER.match(helper):
        raise MalformedInput(f"{what}: credential helper {helper[:80]!r} is no plain name")
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_HELPER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise IdentityError(
            f"credential helper {program}: not found", hint=f"{what} names it; install it or log in again"
        ) from None
    except subprocess.TimeoutExpired:
        raise IdentityError(f"credential helper {program}: no answer within {_HELPER_SECONDS} s") from None
    except OSError as exc:
        raise IdentityError(f"credential helper {program}: {exc.strerror}") from exc
    if done.returncode:
        # Helpers say that they know no login on standard output, which may also hold something secret.
        if b"not found" in done.stdout[:_MAX_ANSWER]:
            return None
        raise IdentityError(f"credential helper {program}: failed with exit code {done.returncode}")
    answer = load_object(done.stdout, what=f"answer of {program}", max_bytes=_MAX_ANSWER)
    username = optional_text(answer, "Username", program) or ""
    secret = optional_text(answer, "Secret", program) or ""
    return Credentials(identity_token=secret) if username == _TOKEN_USER else Credentials(username, secret)
