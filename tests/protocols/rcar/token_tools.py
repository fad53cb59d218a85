"""Helpers that issue, read and decode tokens, for their tests."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.support.rcar import NOW, POLICY, tokens, unb64url
from verdictd_py.errors import TokenInvalid
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.tokens import AttestedGuest, IssuedToken

MAX_CHARACTERS = 32 * 1024
JWK_PLACES = (
    ("submods", "cpu0", "ear.veraison.annotated-evidence", "runtime_data_claims", "tee-pubkey"),
    ("customized_claims", "runtime_data", "tee-pubkey"),
)


def issued(guest: AttestedGuest, **more: Any) -> IssuedToken:
    return tokens().issue(guest, **{"now": NOW, "policy": POLICY, **more})


def read_back(made: IssuedToken, *, now: datetime = NOW) -> AttestedGuest:
    content = tokens().read(made.token, now=now)
    if (stored := made.stored_claims) is None:
        assert content.stored_digest is None
        return content.guest()
    assert content.stored_digest == stored.digest
    return content.guest(stored.text)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.split(".")
    return json.loads(unb64url(header)), json.loads(unb64url(payload))


def signed(said: Any, header: dict[str, Any] | None = None, key: Any = None) -> str:
    return jose.sign(said, header or {}, key or tokens().key)


def refused(token: str, *, now: datetime = NOW) -> str:
    with pytest.raises(TokenInvalid) as caught:
        tokens().read(token, now=now).guest()
    return str(caught.value)
