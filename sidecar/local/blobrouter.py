"""Routes of the local blob service, by method, level and `comp`: names of blobs have slashes in them.

Kind: pure
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import unquote

from sidecar.web import Handler, Route, Router, WebRequest

# Parameters of what is not imitated: other versions of a blob than the one there is.
_OTHER_VERSIONS = frozenset({"snapshot", "versionid", "prevsnapshot"})


class BlobRouter(Router):
    """Routes by method, level and `comp`, because names of blobs have slashes in them."""

    def __init__(self) -> None:
        super().__init__()
        self._table: dict[tuple[str, bool, str], Route] = {}

    def add_operation(self, name: str, method: str, handler: Handler, *, blob: bool, comp: str = "") -> None:
        """Add an operation on blobs or on containers."""
        self._table[method, blob, comp] = Route(name, method, (), handler)

    def find(self, request: WebRequest) -> tuple[Route, WebRequest] | None:
        """The operation, with the parameters account, container and blob."""
        account, _, rest = request.path.removeprefix("/").partition("/")
        container, _, blob = rest.partition("/")
        is_container = request.query.get("restype") == "container"
        if not container or is_container == bool(blob):
            return None
        route = self._table.get((request.method, bool(blob), request.query.get("comp", "")))
        if route is None or _OTHER_VERSIONS & request.query.keys():
            return None
        names = {"account": account, "container": container, "blob": blob}
        return route, replace(request, parameters={name: unquote(text) for name, text in names.items()})

    def methods(self, path: str) -> list[str]:
        """Unknown operations are 404, whatever their method."""
        return []
