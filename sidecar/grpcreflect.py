"""gRPC server reflection: which services there are, and their description.

Spec: grpc.reflection.v1 and v1alpha, ServerReflection (the two are the same on the wire).

Kind: pure
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.protobuf import Service, build_field, build_number, parse_fields

PATHS = tuple(f"/grpc.reflection.{v}.ServerReflection/ServerReflectionInfo" for v in ("v1", "v1alpha"))
NAMES = tuple(path.split("/")[1] for path in PATHS)
# Fields of ServerReflectionRequest.
_FILE_BY_NAME, _FILE_WITH_SYMBOL, _FILE_WITH_EXTENSION, _EXTENSIONS, _LIST = 3, 4, 5, 6, 7
# Fields of ServerReflectionResponse.
_ORIGINAL, _FILES, _EXTENSION_NUMBERS, _SERVICES, _ERROR = 2, 4, 5, 6, 7
_NOT_FOUND, _UNIMPLEMENTED = 5, 12


def reflect(services: Sequence[Service], request: bytes) -> bytes:
    """Answer one ServerReflectionRequest.

    Raises:
        MalformedInput: not a message.
    """
    fields = list(parse_fields(request, what="reflection request"))
    asked = [(number, value) for number, _, value in fields if number != 1]
    original = build_field(_ORIGINAL, request)
    number, value = asked[-1] if asked else (0, b"")
    if number == _LIST:
        names = [service.full_name for service in services] + list(NAMES)
        return original + build_field(_SERVICES, b"".join(build_field(1, build_field(1, n)) for n in names))
    if number in (_FILE_BY_NAME, _FILE_WITH_SYMBOL):
        wanted = value.decode("utf-8", "replace").removeprefix(".")
        for service in services:
            if wanted == service.file if number == _FILE_BY_NAME else wanted in service.symbols:
                return original + build_field(_FILES, build_field(1, service.descriptor()))
        return original + _error(_NOT_FOUND, "nothing of that name")
    if number == _EXTENSIONS:
        name = value.decode("utf-8", "replace").removeprefix(".")
        if any(name in service.symbols for service in services):
            return original + build_field(_EXTENSION_NUMBERS, build_field(1, name))
        return original + _error(_NOT_FOUND, "nothing of that name")
    if number == _FILE_WITH_EXTENSION:
        return original + _error(_NOT_FOUND, "there are no extensions")
    return original + _error(_UNIMPLEMENTED, "a question of no known kind")


def _error(code: int, words: str) -> bytes:
    return build_field(_ERROR, build_number(1, code) + build_field(2, words))
