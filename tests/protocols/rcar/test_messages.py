"""The two requests of guests, valid and malformed, and the protocol versions."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rcar import NONCE, jwk_of
from verdictd_py.domain.evidence import InitData
from verdictd_py.errors import AttestationError, ProtocolVersionRefused, RequestError
from verdictd_py.protocols.rcar import messages, versions
from verdictd_py.protocols.rcar.messages import (
    MAX_AUTH_BYTES,
    MAX_BODY_BYTES,
    MAX_VALUES,
    Attestation,
    AuthRequest,
    Challenge,
)
from verdictd_py.protocols.rcar.versions import Version

JWK = jwk_of("P-256")
OLDER = (Version.V0_1_1, Version.V0_2_0)


def challenge_of(version: Version) -> Challenge:
    return Challenge(version, "tdx", NONCE)


CHALLENGE = challenge_of(Version.V0_4_0)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def auth(**changes: object) -> bytes:
    members = {"version": "0.4.0", "tee": "tdx", "extra-params": "", **changes}
    return encoded({name: value for name, value in members.items() if value is not ...})


def answer(**changes: object) -> dict[str, Any]:
    """Return a valid attest body of 0.4.0; `...` omits a member, `a/b` changes a nested one."""
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
@pytest.mark.parametrize("tee", ["tdx", "sgx", "sample", "snp"])
@pytest.mark.parametrize(
    "extra", [..., "", {"supported-hash-algorithms": ["sha256", "sm3"]}, None, 1]
)
def test_the_first_request_is_read(version: Version, tee: str, extra: object) -> None:
    body = auth(version=version.value, tee=tee, **{"extra-params": extra})
    assert messages.parse_auth(body) == AuthRequest(version, tee)


@pytest.mark.parametrize("said", ["0.1.0", "0.3.0", "0.4", "0.4.0 ", "v0.4.0", "", "1.0.0", "é\n"])
def test_unknown_versions_are_refused(said: str) -> None:
    """Guests compare the beginning of the text (wire-rcar.md, "Versions")."""
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


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b"{", auth(version=...), auth(tee=...)),
        *(auth(version=None), auth(version=0.4), auth(version=["0.4.0"]), auth(tee=None)),
        *(auth(tee={}), auth() + b"x", b'{"version":"0.4.0","version":"0.4.0","tee":"tdx"}'),
    ],
)
def test_a_malformed_first_request_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        messages.parse_auth(body)


def test_the_first_request_has_a_maximum_length() -> None:
    """Unauthenticated clients may send it at any rate."""
    longest = auth(**{"extra-params": "x" * (MAX_AUTH_BYTES - len(auth()))})
    assert len(longest) == MAX_AUTH_BYTES
    assert messages.parse_auth(longest)
    with pytest.raises(RequestError, match=f"longer than {MAX_AUTH_BYTES} bytes"):
        messages.parse_auth(longest + b" ")


def filled(unit: str, behind: str = "") -> bytes:
    """Return an attest body of maximum size whose evidence takes long to parse."""
    body = encoded(answer(**{"tee-evidence/primary_evidence": ...}))
    room = MAX_BODY_BYTES - len(body) - len(behind) - 30
    numbers = (unit * (room // len(unit)) + behind).encode()
    return body[:-2] + b', "primary_evidence": [' + numbers + b"]}}"


@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize(
    ("unit", "last"), [("1,", "1"), ("1.5,", "0"), ("-1e1,", "1e5"), ("null,", "1")]
)
@pytest.mark.timing
def test_values_in_an_attest_body_are_limited(version: Version, unit: str, last: str) -> None:
    """Each value costs memory, and clients need no evidence to send them."""
    assert messages.parse_attest(encoded(answer()), CHALLENGE)
    begins = time.process_time()
    with pytest.raises(RequestError, match=f"more than {MAX_VALUES} values"):
        messages.parse_attest(filled(unit, last), challenge_of(version))
    assert time.process_time() - begins < 2
    many = {"tee-evidence/primary_evidence": {"report": [1] * (MAX_VALUES - 64)}}
    assert messages.parse_attest(encoded(answer(**many)), CHALLENGE)


def test_the_challenge_has_both_members() -> None:
    """Guests require both; `extra-params` without an algorithm means SHA-384."""
    body = messages.challenge(CHALLENGE)
    assert body == b'{"nonce":"' + NONCE.encode() + b'","extra-params":""}'


def test_an_attest_body_is_read() -> None:
    found = messages.parse_attest(encoded(answer()), CHALLENGE)
    assert found == Attestation(CHALLENGE, NONCE, JWK, {"quote": "AA=="}, "", None)
    assert isinstance(found.jwk, dict)
    assert list(found.jwk) == list(JWK)  # older guests' evidence covers this order


def test_an_attest_body_with_all_members_is_read() -> None:
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
def test_optional_members_may_be_absent(left_out: str) -> None:
    found = messages.parse_attest(encoded(answer(**{left_out: ...})), CHALLENGE)
    assert (found.additional, found.init_data) == ("", None)


@pytest.mark.parametrize("version", OLDER)
def test_an_attest_body_of_older_guests_is_read(version: Version) -> None:
    body = {"tee-pubkey": JWK, "tee-evidence": {"quote": "AA=="}}
    assert messages.parse_attest(encoded(body), challenge_of(version)) == Attestation(
        challenge_of(version), None, JWK, {"quote": "AA=="}, "", None
    )


@pytest.mark.parametrize("version", OLDER)
def test_members_that_older_evidence_does_not_cover_are_ignored(version: Version) -> None:
    """Members of 0.4.0 in an older body are not used."""
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
def test_malformed_attest_bodies_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        messages.parse_attest(encoded(answer(**changes)), CHALLENGE)


@pytest.mark.parametrize("version", OLDER)
@pytest.mark.parametrize("left_out", ["tee-pubkey", "tee-evidence"])
def test_malformed_older_attest_bodies_are_refused(version: Version, left_out: str) -> None:
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
def test_arbitrary_bytes_raise_documented_errors_only(body: bytes, version: Version) -> None:
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
