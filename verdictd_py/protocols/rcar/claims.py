"""Which claims of a guest stand in its token, and which are kept beside it.

A token travels in a header, and a guest chooses how long its init-data and its event log
are. What there is no room for is kept with the sessions under its digest, which the token
signs: whoever decides about the guest sees all claims of its appraisal, or refuses. A policy
that was asked about a part could take what is left out for what is not there.
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

MAX_SHOWN_BYTES: Final = 8 * 1024
"""Of a token's claims about a guest, as JSON. Those of a quote take 3 KiB; with the guest's
key twice, the longest token has some 20 KiB of the 32 that `jose` takes."""

_ALWAYS_KEPT: Final = (eventlog.RULE, "events")  # hundreds of digests, for hardly any policy


@dataclass(frozen=True, slots=True)
class Divided:
    """All claims of an appraisal in two parts.

    Attributes:
        shown: in the token.
        kept: digest and text of the others, None where there are none; equal for guests
            whose long claims are equal.
    """

    shown: Mapping[str, JsonValue] = field(repr=False)
    kept: tuple[str, str] | None = field(repr=False)


def divide(claims: Mapping[str, JsonValue]) -> Divided:
    """Keeps the longest claims until what is left fits; of an event log, its events always."""
    shown = dict(claims)
    kept: dict[str, JsonValue] = {}
    name, part = _ALWAYS_KEPT
    log = claims.get(name)
    if isinstance(log, dict) and part in log:
        kept[name] = log
        shown[name] = {each: log[each] for each in log if each != part}
    sizes = {name: len(json.dumps({name: value})) for name, value in shown.items()}
    left = sum(sizes.values())
    for name in sorted(sizes, key=lambda each: (sizes[each], each), reverse=True):
        if left <= MAX_SHOWN_BYTES:
            break
        left -= sizes[name]
        kept[name] = claims[name]
        del shown[name]
    if not kept:
        return Divided(shown, None)
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return Divided(shown, (_digest(text), text))


def join(
    shown: Mapping[str, JsonValue], digest: str | None, kept: str | None
) -> dict[str, JsonValue]:
    """All claims again.

    Raises:
        TokenInvalid: the kept part is not there, or not the one of this digest.
    """
    if digest is None:
        return dict(shown)
    if kept is None or _digest(kept) != digest:
        raise TokenInvalid("what was found about the guest is no longer kept; attest again")
    found: dict[str, JsonValue] = json.loads(kept)
    return {**shown, **found}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
