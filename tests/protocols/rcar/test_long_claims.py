"""Claims that are too long for a token are stored next to it, and none is lost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocols.rcar.token_tools import MAX_CHARACTERS, issued, parts, read_back
from tests.support.examples import examples
from tests.support.rcar import NOW, appraisal, attested, jwk_of, tokens
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import TokenInvalid
from verdictd_py.formats import eventlog
from verdictd_py.protocols.rcar import claims
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.tokens import AttestedGuest
from verdictd_py.protocols.rcar.versions import Version


def huge(**more: JsonValue) -> dict[str, JsonValue]:
    """Claims of a guest that sends the maximum of everything."""
    events: list[JsonValue] = [
        {"index": 1, "type": 2**31, "digest": f"{number:096x}"}
        for number in range(eventlog.MAX_EVENTS)
    ]
    return {
        **{f"rtmr{number}": "ab" * 48 for number in range(4)},
        **dict.fromkeys(("mrTd", "mrSeam", "mrOwner", "mrConfigId"), "cd" * 48),
        "unverifiedDevices": ["d" * 64] * 16,
        "initData": {"algorithm": "sha384", "data": {"policy.rego": "\0" * 262_000}},
        "eventLog": {
            "events": events,
            "efiApplications": ["ef" * 48] * eventlog.MAX_EVENTS,
            "kernelCommandLine": "\0" * 900_000,
        },
        **more,
    }


def long_jwk() -> dict[str, JsonValue]:
    return {
        **jwk_of("P-521"),
        "n": "A" * 1368,
        "e": "A" * 8,
        "kid": "\0" * 256,
        "use": "\0" * 16,
    }


def test_no_token_is_too_long_whatever_a_guest_sends() -> None:
    """A token is sent in a header, whose size is limited."""
    key = TeeKey.parse(long_jwk(), Version.V0_4_0)
    guest = AttestedGuest(
        replace(
            appraisal(claims=huge(), advisory_ids=tuple(f"INTEL-SA-{n:05}" for n in range(60))),
            trust={"executables": 33},
        ),
        key,
        Version.V0_4_0,
    )
    made = issued(guest)
    assert len(made.token) < MAX_CHARACTERS
    assert read_back(made).appraisal == guest.appraisal
    usual = issued(attested()).token
    assert len(usual) < 4096


@given(
    st.dictionaries(
        st.sampled_from(["initData", "eventLog", "unverifiedDevices", "mrTd", "x"]),
        st.integers(0, 40_000).map(lambda size: "\0" * size)
        | st.integers(0, 9000).map(lambda size: {"events": [1] * size, "rest": "\n" * size}),
    )
)
@examples(60)
def test_claims_of_arbitrary_length_are_restored(found: dict[str, JsonValue]) -> None:
    guest = attested(claims=found)
    made = issued(guest)
    assert len(made.token) < MAX_CHARACTERS
    assert read_back(made).appraisal == guest.appraisal
    divided = claims.divide(found)
    assert len(json.dumps(dict(divided.in_token))) <= claims.MAX_CLAIMS_BYTES + 2


def test_digests_of_events_are_in_no_token() -> None:
    events: list[JsonValue] = [{"index": 1, "type": 3, "digest": "f00d" * 24}]
    log: dict[str, JsonValue] = {"events": events, "kernelDigest": "ab" * 48}
    made = issued(attested(claims={"eventLog": log}))
    assert "f00d" not in json.dumps(parts(made.token))
    _, said = parts(made.token)
    shown = said["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["tdx"]
    assert shown == {"eventLog": {"kernelDigest": "ab" * 48}}  # others still read what it proves


def test_a_token_without_its_stored_claims_is_refused() -> None:
    """A policy could take an omitted claim for an absent one."""
    guest = attested(claims=huge())
    made = issued(guest)
    assert made.stored_claims is not None
    content = tokens().read(made.token, now=NOW)
    text = made.stored_claims.text
    for other in (None, "", "{}", text + " ", text.replace("sha384", "sha256")):
        with pytest.raises(TokenInvalid, match="attest again"):
            content.guest(other)
    assert content.guest(text).appraisal == guest.appraisal


def test_guests_with_equal_claims_share_the_stored_claims() -> None:
    """The order of the members does not matter."""
    one = issued(attested(claims=huge()))
    again = issued(attested("P-521", claims=dict(reversed(huge().items()))))
    assert one.stored_claims == again.stored_claims
    other = issued(attested(claims=huge(initData={"data": "x" * 9000})))
    assert one.stored_claims is not None
    assert other.stored_claims is not None
    assert other.stored_claims.digest != one.stored_claims.digest
    assert one.stored_claims.digest == hashlib.sha256(one.stored_claims.text.encode()).hexdigest()
