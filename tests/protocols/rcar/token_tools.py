"""Tokens made, read and taken apart, for their tests."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.support.rcar import NOW, POLICY, tokens, unb64url
from verdictd_py.errors import TokenInvalid
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.tokens import Attested, Issued

MAX_CHARACTERS = 32 * 1024
JWK_PLACES = (
    ("submods", "cpu0", "ear.veraison.annotated-evidence", "runtime_data_claims", "tee-pubkey"),
    ("customized_claims", "runtime_data", "tee-pubkey"),
)


def issued(guest: Attested, **more: Any) -> Issued:
    return tokens().issue(guest, **{"now": NOW, "policy": POLICY, **more})


def came_out(made: Issued, *, now: datetime = NOW) -> Attested:
    shown = tokens().read(made.token, now=now)
    assert (None if made.kept is None else made.kept[0]) == shown.kept
    return shown.attested(None if made.kept is None else made.kept[1])


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.split(".")
    return json.loads(unb64url(header)), json.loads(unb64url(payload))


def signed(said: Any, header: dict[str, Any] | None = None, key: Any = None) -> str:
    return jose.signed(said, header or {}, key or tokens().key)


def refused(token: str, *, now: datetime = NOW) -> str:
    with pytest.raises(TokenInvalid) as caught:
        tokens().read(token, now=now).attested()
    return str(caught.value)
