"""An error answer as an exception: what a handler of the cloud in a box raises to refuse.

It stands outside `sidecar.errors` on purpose: those are our errors, this is the imitated service's answer.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.serviceerror import ErrorBody


class Refusal(Exception):
    """An answer with an error status.

    Args:
        status: HTTP status, 400 or more.
        code: the service's word for it.
        message: its sentence.
        inner: `innererror.code`, where the service has one.
        headers: extra headers.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.headers = dict(headers or {})

    @property
    def body(self) -> ErrorBody:
        """The error envelope."""
        return ErrorBody(self.code, self.message, self.inner)
