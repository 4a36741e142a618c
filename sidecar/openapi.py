"""The HTTP API described for machines: what `/openapi.json` answers.

Spec: OpenAPI 3.1.0.

Kind: pure
"""

from __future__ import annotations

from sidecar.strictjson import JsonObject

# The last character of a part group has unused bits, which must be zero.
_GROUPS = "(?:{0}{{4}})*(?:{0}[AQgw](?:==)?|{0}{{2}}[AEIMQUYcgkosw048]=?)?"
_BASE64 = {
    "type": "string",
    "pattern": f"^(?:{_GROUPS.format('[A-Za-z0-9+/]')}|{_GROUPS.format('[A-Za-z0-9_-]')})$",
    "minLength": 2,
    "maxLength": 87384,
    "description": "Base64 of 1 to 65536 bytes: standard or URL-safe alphabet, with or without padding.",
}
_PORT = "6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}"
_HOST = {
    "type": "string",
    "pattern": rf"^[A-Za-z0-9]+(?:(?:-+|\.)[A-Za-z0-9]+)*(?::(?:{_PORT}))?$",
    "maxLength": 253,
    "description": "Host name, with a port where it is not 443, without https://",
    "examples": ["name.vault.azure.net"],
}


def document(version: str) -> JsonObject:
    """The whole description.

    Args:
        version: of this software.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Attestation and secure key release",
            "version": version,
            "description": "Served on loopback and Unix sockets only.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": {
            "/status": {"get": _status("Whether this guest can attest; the predecessor's route.")},
            "/readyz": {"get": _status("The same, for probes.")},
            "/healthz": {"get": _alive()},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _self()},
            "/attest/raw": {"post": _post("A report over SHA-256 of the data.", _raw(), _report())},
            "/attest/combined": {
                "post": _post("A report with the certificates that verify it.", _raw(), _combined())
            },
            "/attest/maa": {"post": _post("An attestation token.", _maa(), _token())},
            "/key/release": {"post": _post("Attest, and release a key.", _release(), _key())},
        },
        "components": {
            "schemas": {
                "Error": _object({"error": {"type": "string", "minLength": 1}}),
                "Message": _object({"message": {"type": "string"}}),
            }
        },
    }


def _object(properties: JsonObject, optional: JsonObject | None = None) -> JsonObject:
    return {
        "type": "object",
        "required": list(properties),
        "properties": {**properties, **(optional or {})},
    }


def _json(description: str, schema: JsonObject) -> JsonObject:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> JsonObject:
    return _json(description, {"$ref": "#/components/schemas/Error"})


def _message(description: str) -> JsonObject:
    return _json(description, {"$ref": "#/components/schemas/Message"})


def _status(summary: str) -> JsonObject:
    return {
        "summary": summary,
        "responses": {"200": _message("Ready."), "503": _error("Not ready, and why.")},
    }


def _alive() -> JsonObject:
    return {"summary": "Whether the process answers.", "responses": {"200": _message("It does.")}}


def _metrics() -> JsonObject:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {
        "summary": "Metrics for Prometheus.",
        "responses": {"200": {"description": "Text exposition format.", "content": content}},
    }


def _self() -> JsonObject:
    return {
        "summary": "This document.",
        "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"})},
    }


def _post(summary: str, body: JsonObject, answer: JsonObject) -> JsonObject:
    # A body of another type is read all the same: the predecessor's clients send none.
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _json("Done.", answer),
            "400": _error("The request is wrong."),
            "403": _error("Not allowed, or attestation or release did not succeed, and why."),
            "408": _error("The body did not arrive in time."),
            "413": _error("The body is too large."),
            "500": _error("A defect of ours."),
            "503": _error("Too many requests at once; try again."),
        },
    }


def _raw() -> JsonObject:
    return _object({"runtime_data": _BASE64})


def _report() -> JsonObject:
    return _object({"report": {"type": "string", "pattern": "^[0-9a-f]{2368}$"}})


def _combined() -> JsonObject:
    text = {"type": "string"}
    return _object({"endorsed_tcb": text, "endorsements": text, "evidence": text, "uvm_endorsements": text})


def _maa() -> JsonObject:
    return _object({"maa_endpoint": _HOST, "runtime_data": _BASE64 | {"description": "Base64 of JSON."}})


def _token() -> JsonObject:
    return _object({"token": {"type": "string"}})


def _release() -> JsonObject:
    name = {
        "type": "string",
        "pattern": "^[0-9A-Za-z-]{1,127}(?:/[0-9a-f]{32})?$",
        "description": "Key name, or name/version.",
    }
    token = {
        "type": ["string", "null"],
        "pattern": "^[!-~]*$",
        "maxLength": 16384,
        "description": "Access token for the vault, of the caller's own.",
    }
    return _object({"maa_endpoint": _HOST, "akv_endpoint": _HOST, "kid": name}, {"access_token": token})


def _key() -> JsonObject:
    text = {"type": "string", "contentMediaType": "application/json"}
    return _object({"key": text | {"description": "The private key as a JWK: JSON inside a string."}})
