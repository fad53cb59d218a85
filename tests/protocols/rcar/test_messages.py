"""Guests' two requests, in every shape and in every wrong one; versions."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rcar import NONCE, jwk_of
from verdictd_py.domain.evidence import InitData, Tee
from verdictd_py.errors import AttestationError, ProtocolVersionRefused, RequestError
from verdictd_py.protocols.rcar import messages, versions
from verdictd_py.protocols.rcar.messages import (
    MAX_AUTH_BYTES,
    MAX_BODY_BYTES,
    MAX_NUMBERS,
    Attestation,
    AuthRequest,
    Challenge,
)
from verdictd_py.protocols.rcar.versions import Version

JWK = jwk_of("P-256")
OLDER = (Version.V0_1_1, Version.V0_2_0)


def challenge_of(version: Version) -> Challenge:
    return Challenge(version, Tee.TDX, NONCE)


CHALLENGE = challenge_of(Version.V0_4_0)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def auth(**changes: object) -> bytes:
    members = {"version": "0.4.0", "tee": "tdx", "extra-params": "", **changes}
    return encoded({name: value for name, value in members.items() if value is not ...})


def answer(**changes: object) -> dict[str, Any]:
    """A good answer of 0.4.0; `...` leaves a member out, a name with `/` goes into one."""
    members: dict[str, Any] = {
        "init-data": None,
        "runtime-data": {"nonce": NONCE, "tee-pubkey": JWK},
        "tee-evidence": {"primary_evidence": {"quote": "AA=="}, "additional_evidence": ""},
    }
    for path, value in changes.items():
        place, *names = members, *path.split("/")
        for name in names[:-1]:
            place = place[name]
        if value is ...:
            del place[names[-1]]
        else:
            place[names[-1]] = value
    return members


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("tee", [Tee.TDX, Tee.SGX, Tee.SAMPLE, Tee.SEV_SNP])
@pytest.mark.parametrize(
    "extra", [..., "", {"supported-hash-algorithms": ["sha256", "sm3"]}, None, 1]
)
def test_auth(version: Version, tee: Tee, extra: object) -> None:
    body = auth(version=version.value, tee=tee.value, **{"extra-params": extra})
    assert messages.parse_auth(body) == AuthRequest(version, tee)


@pytest.mark.parametrize("said", ["0.1.0", "0.3.0", "0.4", "0.4.0 ", "v0.4.0", "", "1.0.0", "é\n"])
def test_versions_that_are_not_served(said: str) -> None:
    """Guests look for the beginning of the text (wire-rcar.md, "Versions")."""
    with pytest.raises(ProtocolVersionRefused) as refused:
        messages.parse_auth(auth(version=said))
    text = str(refused.value)
    assert text.startswith("KBS Client Protocol Version Mismatch: expect ")
    assert "`0.4.0` or `0.2.0` or `0.1.1`" in text
    assert text.isascii()
    assert text.isprintable()


def test_a_long_version_does_not_fill_the_log() -> None:
    with pytest.raises(ProtocolVersionRefused) as refused:
        versions.served("9" * 100_000)
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("tee", ["nvidia", "az-tdx-vtpm", "TDX", "tdx ", "", "x" * 9999])
def test_tees_that_nobody_knows(tee: str) -> None:
    with pytest.raises(AttestationError, match="is not served here") as refused:
        messages.parse_auth(auth(tee=tee))
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b"{", auth(version=...), auth(tee=...)),
        *(auth(version=None), auth(version=0.4), auth(version=["0.4.0"]), auth(tee=None)),
        *(auth(tee={}), auth() + b"x", b'{"version":"0.4.0","version":"0.4.0","tee":"tdx"}'),
    ],
)
def test_auth_of_another_shape(body: bytes) -> None:
    with pytest.raises(RequestError):
        messages.parse_auth(body)


def test_auth_of_any_length() -> None:
    """Anybody may ask, as often as they like."""
    longest = auth(**{"extra-params": "x" * (MAX_AUTH_BYTES - len(auth()))})
    assert len(longest) == MAX_AUTH_BYTES
    assert messages.parse_auth(longest)
    with pytest.raises(RequestError, match=f"longer than {MAX_AUTH_BYTES} bytes"):
        messages.parse_auth(longest + b" ")


def filled(unit: str, behind: str = "") -> bytes:
    """An answer at the cap, with what takes long to read in its evidence."""
    body = encoded(answer(**{"tee-evidence/primary_evidence": ...}))
    room = MAX_BODY_BYTES - len(body) - len(behind) - 30
    numbers = (unit * (room // len(unit)) + behind).encode()
    return body[:-2] + b', "primary_evidence": [' + numbers + b"]}}"


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize(("unit", "last"), [("1,", "1"), ("1.5,", "0"), ("-1e1,", "1e5")])
def test_numbers_in_an_answer_are_few(version: Version, unit: str, last: str) -> None:
    """Reading them takes Python's time, and nobody has to attest to be read."""
    assert messages.parse_attest(encoded(answer()), CHALLENGE)
    begins = time.process_time()
    with pytest.raises(RequestError, match=f"more than {MAX_NUMBERS} numbers"):
        messages.parse_attest(filled(unit, last), challenge_of(version))
    assert time.process_time() - begins < 0.5
    many = {"tee-evidence/primary_evidence": {"report": [1] * MAX_NUMBERS}}
    assert messages.parse_attest(encoded(answer(**many)), CHALLENGE)


def test_challenge() -> None:
    """Both members have to be there; `extra-params` without a choice means SHA-384."""
    body = messages.challenge(CHALLENGE)
    assert body == b'{"nonce":"' + NONCE.encode() + b'","extra-params":""}'


def test_answer() -> None:
    found = messages.parse_attest(encoded(answer()), CHALLENGE)
    assert found == Attestation(CHALLENGE, NONCE, JWK, {"quote": "AA=="}, "", None)
    assert isinstance(found.jwk, dict)
    assert list(found.jwk) == list(JWK)  # older guests' evidence covers this order


def test_answer_with_everything() -> None:
    body = answer(
        **{
            "init-data": {"format": "toml", "body": 'x = "é"'},
            "tee-evidence/additional_evidence": '{"nvidia":{}}',
            "unknown": 1,
        }
    )
    found = messages.parse_attest(encoded(body), CHALLENGE)
    assert (found.additional, found.init_data) == ('{"nvidia":{}}', InitData("toml", 'x = "é"'))


@pytest.mark.parametrize("left_out", ["init-data", "tee-evidence/additional_evidence"])
def test_members_that_may_be_absent(left_out: str) -> None:
    found = messages.parse_attest(encoded(answer(**{left_out: ...})), CHALLENGE)
    assert (found.additional, found.init_data) == ("", None)


@pytest.mark.parametrize("version", OLDER)
def test_answer_of_older_guests(version: Version) -> None:
    body = {"tee-pubkey": JWK, "tee-evidence": {"quote": "AA=="}}
    assert messages.parse_attest(encoded(body), challenge_of(version)) == Attestation(
        challenge_of(version), None, JWK, {"quote": "AA=="}, "", None
    )


@pytest.mark.parametrize("version", OLDER)
def test_older_guests_cannot_say_what_their_evidence_does_not_cover(version: Version) -> None:
    """Members of 0.4.0 in an older body: neither believed nor looked at."""
    said = {**answer(), "init-data": {"format": "toml", "body": "x"}, "nonce": "x"}
    body = {**said, "tee-pubkey": JWK, "tee-evidence": {"quote": "AA=="}}
    found = messages.parse_attest(encoded(body), challenge_of(version))
    assert (found.nonce, found.additional, found.init_data) == (None, "", None)


@pytest.mark.parametrize(
    "changes",
    [
        *({"runtime-data": ...}, {"runtime-data": None}, {"runtime-data": []}),
        *({"runtime-data/nonce": ...}, {"runtime-data/nonce": None}, {"runtime-data/nonce": 1}),
        *({"runtime-data/tee-pubkey": ...}, {"tee-evidence": ...}, {"tee-evidence": "e"}),
        *({"tee-evidence/primary_evidence": ...}, {"tee-evidence/additional_evidence": None}),
        *({"tee-evidence/additional_evidence": {}}, {"init-data": ""}, {"init-data": []}),
        *({"init-data": {}}, {"init-data": {"format": "toml"}}, {"init-data": {"body": ""}}),
        *({"init-data": {"format": 1, "body": ""}}, {"init-data": {"format": "", "body": None}}),
    ],
)
def test_answers_of_another_shape(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        messages.parse_attest(encoded(answer(**changes)), CHALLENGE)


@pytest.mark.parametrize("version", OLDER)
@pytest.mark.parametrize("left_out", ["tee-pubkey", "tee-evidence"])
def test_older_answers_of_another_shape(version: Version, left_out: str) -> None:
    body = {"tee-pubkey": JWK, "tee-evidence": {}}
    del body[left_out]
    with pytest.raises(RequestError, match=left_out):
        messages.parse_attest(encoded(body), challenge_of(version))
    with pytest.raises(RequestError):
        messages.parse_attest(encoded(answer()), challenge_of(version))  # and that of newer guests


def test_the_answers_to_guests() -> None:
    assert messages.token("a.b.c") == b'{"token":"a.b.c"}'
    found = json.loads(messages.error("PolicyDeny", 'no "é"\n'))
    assert found == {
        "type": "https://github.com/confidential-containers/kbs/errors/PolicyDeny",
        "detail": 'no "é"\n',
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda each: (
        st.lists(each, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("version", "tee", "extra-params", "init-data", "runtime-data", "nonce"),
                    *("tee-pubkey", "tee-evidence", "primary_evidence", "additional_evidence"),
                    *("format", "body"),
                ]
            ),
            each,
            max_size=6,
        )
    ),
    max_leaves=12,
)
BODIES = (
    st.binary(max_size=200)
    | JSON.map(encoded)
    | st.just(encoded(answer())).flatmap(
        lambda body: st.tuples(st.integers(0, len(body) - 1), st.binary(max_size=4)).map(
            lambda change: body[: change[0]] + change[1] + body[change[0] + len(change[1]) :]
        )
    )
)


@given(BODIES, st.sampled_from(Version))
def test_only_their_own_errors(body: bytes, version: Version) -> None:
    try:
        found = messages.parse_attest(body, challenge_of(version))
    except RequestError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert (found.nonce is None) is (version in OLDER)
    try:
        messages.parse_auth(body)
    except (RequestError, AttestationError, ProtocolVersionRefused) as error:
        assert "\n" not in str(error)  # noqa: PT017
