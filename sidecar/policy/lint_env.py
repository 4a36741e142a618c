"""Environment rules: which admit too much, which never match, and which carry a secret.

A pattern stands for a whole NAME=VALUE; older utility VMs do not anchor it, so a short one matches in the
middle of anything. The platform's own rules, which generators add to every container, are known and left
alone.

Rules: a secret is told by its name, or by a value that has the shape of a key, token or signed URL; the
value is never shown.

Kind: pure
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sidecar.policy.inspect_text import shown
from sidecar.policy.parse_model import EnvRule

# level, code, words, cure
Found = tuple[str, str, str, str]

# What container instances and virtual nodes set themselves, by the generators' patterns.
_PLATFORM = frozenset(
    {
        "(?i)(FABRIC)_.+=.+",
        "((?i)FABRIC)_.+=.+",
        "HOSTNAME=.+",
        "T(E)?MP=.+",
        "FabricPackageFileName=.+",
        "HostedServiceName=.+",
        "IDENTITY_API_VERSION=.+",
        "IDENTITY_HEADER=.+",
        "IDENTITY_SERVER_THUMBPRINT=.+",
        "APP_IDENTITY_ENDPOINT=.+",
        "IDENTITY_ENDPOINT=.+",
        "IMDS_ENDPOINT=.+",
        "azurecontainerinstance_restarted_by=.+",
        "AZURE_CLIENT_ID=.+",
        "AZURE_TENANT_ID=.+",
        "AZURE_FEDERATED_TOKEN_FILE=.+",
        "AZURE_AUTHORITY_HOST=.+",
        "UVM_SECURITY_CONTEXT_DIR=.+",
    }
)
_VIRTUAL_NODES = re.compile(r"\[A-Z0-9_\]\+_(?:SERVICE_(?:HOST|PORT)|PORT)[A-Z0-9_+\[\]-]*=\.\+")
_ANY_VALUE = re.compile(r"[^=]*=\(?\.[*+]\)?\$?")
# A pattern that says nothing of the name either.
_ANYTHING = re.compile(r"\^?\(?(?:\.[*+]|\[\^=\][*+]|\\S[*+])\)?(?:=\(?\.[*+]\)?)?\$?")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:pass(?:word|wd|phrase)?|pwd|secret|token|credentials?|api_?key|access_?key|account_?key"
    r"|private_?key|connection_?string|sas|client_?secret|auth)(?:_|$)"
)
# A name of that kind that only says where the secret is.
_POINTER_NAME = re.compile(r"(?i)_(?:file|path|dir|uri|url|endpoint|name|id|host)$")
_SECRET_VALUE = (
    re.compile(r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\."),  # a JSON web token
    re.compile(r"[?&]sig=[A-Za-z0-9%]{20,}"),  # a shared access signature
    re.compile(r"(?i)\b(?:AccountKey|SharedAccessKey|Password|Pwd)\s*=\s*[^;\s]{6,}"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bghp_[A-Za-z0-9]{30,}|\bxox[baprs]-[A-Za-z0-9-]{10,}"),
    re.compile(r"://[^/\s:@]+:[^/\s:@]{3,}@"),  # a password in a URL
)
_MAX_LOOKED_AT = 8192


def lint_env(rules: tuple[EnvRule, ...]) -> Iterator[Found]:
    """Every finding on a container's environment rules."""
    names: dict[str, int] = {}
    for rule in rules:
        if rule.strategy == "re2":
            yield from _pattern(rule)
        else:
            yield from _literal(rule)
            names[rule.name] = names.get(rule.name, 0) + 1
    for name, times in names.items():
        if times > 1:
            words = f"variable {shown(name, 80)} has {times} exact rules: any of the values is admitted"
            yield "note", "several-rules", words, ""


def is_platform_rule(rule: EnvRule) -> bool:
    """Whether generators add this rule to every container."""
    return rule.pattern in _PLATFORM or _VIRTUAL_NODES.fullmatch(rule.pattern) is not None


def _pattern(rule: EnvRule) -> Iterator[Found]:
    if is_platform_rule(rule):
        return
    pattern = rule.pattern[:_MAX_LOOKED_AT]
    if _ANYTHING.fullmatch(pattern):
        words = (
            f"environment rule {shown(pattern, 120)} admits every variable: LD_PRELOAD, proxies, all of them"
        )
        yield "error", "wildcard-name", words, "name the variables"
    elif _ANY_VALUE.fullmatch(pattern):
        words = f"environment rule {shown(pattern, 120)}: the host chooses the value"
        yield "warning", "wildcard-value", words, "say what the value may be"
    if any(shape.search(pattern) for shape in _SECRET_VALUE):
        yield _secret(rule.name)
    if "=" not in pattern and not _ANYTHING.fullmatch(pattern):
        words = f"environment rule {shown(pattern, 120)} has no '=': it ties no value to a name"
        yield "warning", "pattern-without-name", words, "write NAME=PATTERN"
    if re.search(r"(?<!\\)\|", pattern) and not re.search(r"\(.*\|.*\)", pattern):
        words = (
            f"environment rule {shown(pattern, 120)}: '|' outside a group splits the whole rule, "
            "and each anchor then holds for one half"
        )
        yield "error", "open-alternative", words, "put the alternatives into a group: NAME=(a|b)"


def _literal(rule: EnvRule) -> Iterator[Found]:
    name, equals, value = rule.pattern[:_MAX_LOOKED_AT].partition("=")
    if not equals:
        words = f"environment rule {shown(name, 80)} has no '=': no variable can match it"
        yield "warning", "never-matches", words, "write NAME=VALUE"
    named = _SECRET_NAME.search(name) and not _POINTER_NAME.search(name)
    if value and (named or any(shape.search(value) for shape in _SECRET_VALUE)):
        yield _secret(name)


def _secret(name: str) -> Found:
    words = (
        f"variable {shown(name, 80)} looks like a secret, and a policy is public: the host reads it, "
        "and so does everyone who sees the template"
    )
    return "error", "secret-in-env", words, "release it as a key, or pass a secure value with a pattern rule"
