"""Division of a guest's claims: those in its token, and those stored next to it.

A token is sent in a header, and the guest determines the length of its init-data and event
log. Claims that do not fit are stored with the sessions under their digest, which the token
contains. A release policy therefore sees all claims of the appraisal, or the guest is
refused: a policy could take an omitted claim for an absent one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import TokenInvalid
from verdictd_py.formats import eventlog

MAX_CLAIMS_BYTES: Final = 8 * 1024
"""Maximum size of the claims about a guest in its token, as JSON. The claims of a quote take
3 KiB. With the guest's key twice, the longest token has some 20 KiB; `jose` accepts 32 KiB."""

_NEVER_IN_TOKEN: Final = (eventlog.RULE, "events")  # hundreds of digests that few policies use


@dataclass(frozen=True, slots=True)
class StoredClaims:
    """Claims that are stored next to the token.

    Attributes:
        digest: SHA-256 of the text, in hex; equal for guests whose long claims are equal.
        text: the claims as JSON.
    """

    digest: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DividedClaims:
    """All claims of an appraisal in two parts.

    Attributes:
        in_token: the claims in the token.
        stored: the other claims, None if the token has all.
    """

    in_token: Mapping[str, JsonValue] = field(repr=False)
    stored: StoredClaims | None = field(repr=False)


def divide(claims: Mapping[str, JsonValue]) -> DividedClaims:
    """Move the longest claims out of the token until the rest fits.

    The events of an event log are never in the token.
    """
    in_token = dict(claims)
    stored: dict[str, JsonValue] = {}
    log_name, events = _NEVER_IN_TOKEN
    log = claims.get(log_name)
    if isinstance(log, dict) and events in log:
        stored[log_name] = log
        in_token[log_name] = {name: log[name] for name in log if name != events}
    if len(json.dumps(in_token)) > MAX_CLAIMS_BYTES:
        for claim in _longest(in_token):
            stored[claim] = claims[claim]
            del in_token[claim]
    if not stored:
        return DividedClaims(in_token, None)
    text = json.dumps(stored, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return DividedClaims(in_token, StoredClaims(_digest(text), text))


def _longest(claims: Mapping[str, JsonValue]) -> list[str]:
    """Return the names of the longest claims, so that the rest has `MAX_CLAIMS_BYTES`."""
    sizes = {name: len(json.dumps({name: value})) for name, value in claims.items()}
    total = sum(sizes.values())  # the length of all claims in one object
    names = []
    for name in sorted(sizes, key=lambda name: (sizes[name], name), reverse=True):
        if total <= MAX_CLAIMS_BYTES:
            break
        total -= sizes[name]
        names.append(name)
    return names


def join(
    in_token: Mapping[str, JsonValue], digest: str | None, stored: str | None
) -> dict[str, JsonValue]:
    """Return all claims.

    Args:
        digest: digest of the stored claims in the token; None if the token has all claims.
        stored: text of the stored claims.

    Raises:
        TokenInvalid: the stored claims are missing, or have another digest.
    """
    if digest is None:
        return dict(in_token)
    if stored is None or _digest(stored) != digest:
        raise TokenInvalid("the claims of the guest are no longer stored; attest again")
    others: dict[str, JsonValue] = json.loads(stored)
    return {**in_token, **others}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
