"""OpenAPI description of the HTTP listener, served to any client.

One test compares it with the routes, and another sends every described request.
"""

from __future__ import annotations

import json
from typing import Any, Final

from verdictd_py import __version__
from verdictd_py.listeners.kbs.admins import policy_ids
from verdictd_py.listeners.kbs.guests import COOKIE, PREFIX, RESOURCE
from verdictd_py.ports import Tees
from verdictd_py.protocols.rcar.messages import MAX_BODY_BYTES
from verdictd_py.protocols.rcar.versions import Version

_ANYWHERE: Final = (400, 408, 413, 415, 417, 431, 500, 503)
_SEGMENT: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,254}$"}
_TEXT: Final = {"type": "string"}
_BASE64URL: Final = {"type": "string", "pattern": "^[A-Za-z0-9_-]*$"}


def document(tees: Tees) -> bytes:
    """Return the description as JSON.

    Args:
        tees: the known TEEs.
    """
    return json.dumps(_document(tees), separators=(",", ":")).encode()


def _document(tees: Tees) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "verdictd-py, a key broker: RCAR and administration",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            PREFIX + "/auth": {"post": _auth(tees)},
            PREFIX + "/attest": {"post": _ATTEST},
            RESOURCE: {
                "parameters": [_path(name) for name in ("repository", "type", "tag")],
                "get": _GET_RESOURCE,
                "post": {
                    **_admin(
                        "Store a resource, or a new key if the caller has the role register",
                        body=_OCTETS,
                        more=(404, 409),
                    ),
                    "parameters": [_FORCE],
                },
                "delete": _admin("Delete a resource", more=(404,)),
            },
            PREFIX + "/resource-policy": {
                "get": _admin("The release policy", answer=_object(policy=_BASE64URL), more=(404,)),
                "post": _admin("Set the release policy", body=_json(_object(policy=_BASE64URL))),
            },
            PREFIX + "/attestation-policy": {
                "post": _admin("Set an appraisal policy", body=_json(_policy(tees))),
            },
            PREFIX + "/reference-value": {
                "get": _admin("Every reference value", answer={"type": "object"}, more=(404,)),
                "post": _admin("Replace reference values", body=_json(_VALUES), more=(404,)),
            },
            PREFIX + "/reference-value/{name}": {
                "parameters": [_path("name", {"type": "string", "minLength": 1})],
                "get": _admin(
                    "Reference values of one name, which may have slashes",
                    answer={"type": "array", "items": _TEXT},
                    more=(404,),
                ),
            },
            PREFIX + "/jwks": {"get": _JWKS},
            "/.well-known/jwks.json": {"get": _JWKS},
            PREFIX + "/openapi.json": {"get": _open("This description", {"type": "object"})},
            "/healthz": {"get": {"summary": "Alive", "responses": _answers((), None)}},
            "/livez": {"get": {"summary": "Alive", "responses": _answers((), None)}},
            "/readyz": {"get": _READINESS},
        },
        "components": {
            "schemas": {"Error": _ERROR, "Jwk": _JWK},
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "administrator": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _object(**members: object) -> dict[str, Any]:
    """Return the schema of an object that requires all these members."""
    return {"type": "object", "properties": members, "required": list(members)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _path(name: str, schema: dict[str, Any] = _SEGMENT) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _answers(
    statuses: tuple[int, ...], schema: dict[str, Any] | None, headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the answers of an operation: 200, these statuses, and those of any request."""
    good: dict[str, Any] = {"description": "done"}
    if schema is not None:
        good["content"] = {"application/json": {"schema": schema}}
    if headers:
        good["headers"] = headers
    bad = {
        "description": "an error",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    found = {str(status): bad for status in sorted({*statuses, *_ANYWHERE})}
    found["503"] = bad | {"headers": {"Retry-After": {"schema": {"type": "integer"}}}}
    return {"200": good} | found


def _open(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers((), schema)}


def _admin(
    summary: str,
    *,
    body: dict[str, Any] | None = None,
    answer: dict[str, Any] | None = None,
    more: tuple[int, ...] = (),
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": summary,
        "security": [{"administrator": []}],
        "responses": _answers((401, 403, *more), answer),
    }
    return found | ({"requestBody": body} if body is not None else {})


_FORCE: Final = {
    "name": "force",
    "in": "query",
    "description": "Store a content that guests read although no guest can use it",
    "schema": {"type": "boolean", "default": False},
}
_OCTETS: Final = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "maxLength": MAX_BODY_BYTES}}
    },
}
_ERROR: Final = _object(
    type={
        "type": "string",
        "pattern": "^https://github.com/confidential-containers/kbs/errors/[A-Za-z]+$",
    },
    detail=_TEXT,
)
_JWK: Final = {
    "type": "object",
    "required": ["kty", "alg"],
    "properties": {
        "kty": {"enum": ["EC", "RSA"]},
        "alg": {"enum": ["ECDH-ES+A256KW", "RSA-OAEP-256", "RSA1_5"]},
        "crv": {"enum": ["P-256", "P-521"]},
        **dict.fromkeys(("x", "y", "n", "e", "kid", "use"), _TEXT),
    },
    "additionalProperties": False,
}
_KEY: Final = {"$ref": "#/components/schemas/Jwk"}
_VALUES: Final = _object(
    version={"const": "0.1.0"},
    type={"const": "sample"},
    payload={"type": "string", "contentEncoding": "base64"},
)
_COMPOSITE: Final = {
    "type": "object",
    "required": ["runtime-data", "tee-evidence"],
    "properties": {
        "init-data": {"oneOf": [{"type": "null"}, _object(format=_TEXT, body=_TEXT)]},
        "runtime-data": {
            "type": "object",
            "required": ["nonce", "tee-pubkey"],
            "properties": {"nonce": _TEXT, "tee-pubkey": _KEY},
        },
        "tee-evidence": {
            "type": "object",
            "required": ["primary_evidence"],
            "properties": {"primary_evidence": {}, "additional_evidence": _TEXT},
        },
    },
}
_OLDER: Final = {
    "type": "object",
    "required": ["tee-pubkey", "tee-evidence"],
    "properties": {"tee-pubkey": _KEY, "tee-evidence": {}},
}
_ATTEST: Final = {
    "summary": "Answer the challenge with evidence",
    "security": [{"session": []}],
    "requestBody": _json({"anyOf": [_COMPOSITE, _OLDER]}),
    "responses": _answers((401,), _object(token=_TEXT)),
}
_JWE: Final = _object(protected=_TEXT, encrypted_key=_TEXT, iv=_TEXT, ciphertext=_TEXT, tag=_TEXT)
_GET_RESOURCE: Final = {
    "summary": "Fetch a resource, encrypted to the attested key",
    "security": [{"session": []}, {"token": []}],
    "responses": _answers((401, 403, 404), _JWE),
}
_JWKS: Final = _open(
    "Keys that verify attestation tokens",
    _object(keys={"type": "array", "items": {"type": "object"}}),
)


_PARTS: Final = {
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "additionalProperties": {"enum": ["ok", "failed"]},
            }
        }
    }
}
_READINESS: Final = {
    "summary": "Ready to appraise guests and to release secrets: the state of each part",
    "responses": _answers((), None)
    | {
        "200": {"description": "ready", **_PARTS},
        "503": {"description": "a part cannot be used", **_PARTS},
    },
}


def _policy(tees: Tees) -> dict[str, Any]:
    return _object(
        type={"const": "rego"},
        policy_id={"enum": list(policy_ids(tees))},
        policy=_BASE64URL,
    )


def _auth(tees: Tees) -> dict[str, Any]:
    members = {
        "version": {"enum": [version.value for version in Version]},
        "tee": {"enum": [name for tee in tees for name in tee.wire.rcar]},
        "extra-params": {},
    }
    body = {"type": "object", "required": ["version", "tee"], "properties": members}
    answer = {
        "type": "object",
        "required": ["nonce", "extra-params"],
        "properties": {"nonce": _TEXT, "extra-params": _TEXT},
    }
    return {
        "summary": "Request a challenge",
        "requestBody": _json(body),
        "responses": _answers((401,), answer, {"Set-Cookie": {"schema": _TEXT}}),
    }
