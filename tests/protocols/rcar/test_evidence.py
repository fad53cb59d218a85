"""Reading evidence from an attestation: the expected REPORTDATA, and the TEE."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tests.support.rcar import NONCE, coordinates, ec_jwk, jwk_of, padded
from tests.support.tees import TDX, TEES
from tests.support.vectors import input_file
from verdictd_py.domain.evidence import MAX_QUOTE_BYTES, Evidence, InitData
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import AttestationError, EvidenceFormat, EvidenceMissing, NonceMismatch
from verdictd_py.ports.known_tees import Tees
from verdictd_py.ports.tees import CarriedEvidence
from verdictd_py.protocols.rcar import evidence
from verdictd_py.protocols.rcar.evidence import MAX_DEVICES
from verdictd_py.protocols.rcar.messages import MAX_VALUES, Attestation, Challenge
from verdictd_py.protocols.rcar.versions import Version

HEADERS = {"tdx": b"\x04\0\x02\0\x81\0\0\0", "sgx": b"\x03\0\x02\0\0\0\0\0"}
QUOTES = {tee: header + bytes(100) for tee, header in HEADERS.items()}
JWK = jwk_of("P-256")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def shown(**changes: Any) -> Attestation:
    good = Attestation(challenge(), NONCE, JWK, {"quote": b64(QUOTES["tdx"]), "cc_eventlog": None})
    return replace(good, **changes)


def challenge(version: Version = Version.V0_4_0, tee: str = "tdx") -> Challenge:
    return Challenge(version, tee, NONCE)


def read(answer: Attestation, given: Challenge) -> Evidence:
    return evidence.read(replace(answer, challenge=given), TEES)


def filled(digest: bytes) -> bytes:
    return digest + bytes(64 - len(digest))


def test_evidence_of_a_guest_is_read() -> None:
    answer = shown(
        evidence={"quote": b64(QUOTES["tdx"]), "cc_eventlog": b64(b"log"), "aa_eventlog": "x"},
        init_data=InitData("toml", "x = 1"),
        additional='{"nvidia":{"evidence":"..."},"tpm":[]}',
    )
    found = read(answer, challenge())
    assert (found.tee, found.quote, found.event_log) == ("tdx", QUOTES["tdx"], b"log")
    assert (found.init_data, found.devices) == (answer.init_data, ("nvidia", "tpm"))
    assert found.form == "rcar 0.4.0"
    assert found.endorsements is None


def test_endorsements_reach_the_verifier_of_a_tee_that_sends_them() -> None:
    """Guests of some vendors send certificates with the report."""
    endorsements = object()
    carried = CarriedEvidence(QUOTES["tdx"], endorsements=endorsements)
    wire = replace(TDX.wire, read_rcar=lambda _: carried)
    tees = Tees([replace(TDX, wire=wire)])
    assert evidence.read(shown(), tees).endorsements is endorsements


def test_evidence_has_a_maximum_size() -> None:
    largest = HEADERS["tdx"].ljust(MAX_QUOTE_BYTES, b"\0")
    assert read(shown(evidence={"quote": b64(largest)}), challenge()).quote == largest
    with pytest.raises(EvidenceFormat, match="longer than 65536 bytes"):
        read(shown(evidence={"quote": b64(largest + b"\0")}), challenge())


@pytest.mark.parametrize("kind", ["P-256", "P-521", "RSA-OAEP-256"])
@pytest.mark.parametrize("additional", ["", '{"nvidia":{"a":"\\u00e9 \\" / \\n"}}', '{"tpm":"é𝄞"}'])
def test_report_data_covers_key_nonce_and_devices(kind: str, additional: str) -> None:
    """The expected value comes from an independent implementation of RFC 8785."""
    jwk = jwk_of(kind)
    found = read(shown(jwk=jwk, additional=additional), challenge())
    covered: Any = {"tee-pubkey": jwk, "nonce": NONCE, "additional-evidence": additional}
    assert found.binding == filled(hashlib.sha384(rfc8785.dumps(covered)).digest())
    assert found.other_bindings == ()


def test_report_data_covers_these_bytes() -> None:
    text = (
        '{"additional-evidence":"","nonce":"' + NONCE + '","tee-pubkey":{"alg":"ECDH-ES+A256KW",'
        f'"crv":"P-256","kty":"EC","x":"{JWK["x"]}","y":"{JWK["y"]}"}}}}'
    )
    found = read(shown(), challenge())
    assert found.binding == filled(hashlib.sha384(text.encode()).digest())


@pytest.mark.parametrize("version", [Version.V0_1_1, Version.V0_2_0])
def test_report_data_of_older_guests_covers_either_order(version: Version) -> None:
    """Builds of one release differ: the names are sorted, or in the order of the source code."""
    jwk = jwk_of("RSA1_5" if version is Version.V0_1_1 else "RSA-OAEP-256")
    inside = f'"n":"{jwk["n"]}","e":"AQAB"'
    in_order = f'{{"tee-pubkey":{{"kty":"RSA","alg":"{jwk["alg"]}",{inside}}},"nonce":"{NONCE}"}}'
    in_other_order = (
        f'{{"nonce":"{NONCE}","tee-pubkey":{{"kty":"RSA","alg":"{jwk["alg"]}",{inside}}}}}'
    )
    in_sorted_order = (
        f'{{"nonce":"{NONCE}","tee-pubkey":{{"alg":"{jwk["alg"]}","e":"AQAB","kty":"RSA",'
        f'"n":"{jwk["n"]}"}}}}'
    )
    found = read(shown(nonce=None, jwk=jwk), challenge(version))
    assert found.binding is not None
    assert {found.binding, *found.other_bindings} == {
        filled(hashlib.sha384(text.encode()).digest())
        for text in (in_order, in_other_order, in_sorted_order)
    }
    assert found.form == f"rcar {version}"


def test_the_binding_of_another_version_is_refused() -> None:
    """Evidence of one version of the protocol cannot be used in another one."""
    bindings = []
    for version in Version:
        nonce = NONCE if version is Version.V0_4_0 else None
        found = read(shown(nonce=nonce), challenge(version))
        bindings.append({found.binding, *found.other_bindings})
    assert not bindings[0] & bindings[2]
    assert bindings[0] == bindings[1]  # both hash the same; RSA1_5 is in the key's own `alg`


def test_a_padded_key_is_covered_as_it_was_sent() -> None:
    x, y = coordinates(379, "P-256")
    jwk = ec_jwk(padded(x), padded(y))
    found = read(shown(jwk=jwk), challenge())
    covered: Any = {"additional-evidence": "", "nonce": NONCE, "tee-pubkey": jwk}
    assert found.binding == filled(hashlib.sha384(rfc8785.dumps(covered)).digest())


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_arbitrary_text_is_covered_as_rfc_8785_writes_it(kid: str, device: str) -> None:
    jwk: dict[str, JsonValue] = {**JWK, "kid": kid}
    additional = json.dumps({"nvidia": device}, ensure_ascii=False)
    found = read(shown(jwk=jwk, additional=additional), challenge())
    covered: Any = {"additional-evidence": additional, "nonce": NONCE, "tee-pubkey": jwk}
    assert found.binding == filled(hashlib.sha384(rfc8785.dumps(covered)).digest())


@pytest.mark.parametrize("nonce", ["", NONCE + " ", NONCE.rstrip("="), NONCE[::-1], "0" * 44])
def test_evidence_for_another_nonce_is_refused(nonce: str) -> None:
    with pytest.raises(NonceMismatch):
        read(shown(nonce=nonce), challenge())


def test_an_invalid_key_is_refused_before_the_evidence_is_read() -> None:
    with pytest.raises(EvidenceFormat, match="not a point"):
        read(shown(jwk={**JWK, "y": JWK["x"]}, evidence=None), challenge())
    with pytest.raises(EvidenceFormat, match="RSA1_5"):
        read(shown(jwk=jwk_of("RSA1_5")), challenge())


def test_the_evidence_of_a_reported_guest_has_an_empty_quote() -> None:
    value = json.loads(input_file("reports/rcar-evidence-empty-quote.json").read_text())
    with pytest.raises(EvidenceMissing, match="empty quote: the guest's host gave none"):
        read(shown(evidence=value), challenge())


@pytest.mark.parametrize("value", [None, {}, "", [], {"quote": None}, {"cc_eventlog": ""}])
def test_missing_evidence_is_refused(value: JsonValue) -> None:
    with pytest.raises(EvidenceMissing):
        read(shown(evidence=value), challenge())


@pytest.mark.parametrize(
    "value",
    [
        *("quote", ["quote"], 1, True, {"quote": 1}, {"quote": []}, {"quote": {}}),
        *({"quote": "AA"}, {"quote": "A A="}, {"quote": "_-=="}, {"quote": "é"}),
        *({"quote": b64(HEADERS["tdx"])}, {"quote": b64(bytes(4) + b"\x82" + bytes(60))}),
        {"quote": b64(HEADERS["tdx"] + bytes(MAX_QUOTE_BYTES))},
        {"quote": b64(QUOTES["tdx"]), "cc_eventlog": 1},
        {"quote": b64(QUOTES["tdx"]), "cc_eventlog": "A"},
        {"quote": b64(QUOTES["tdx"]), "cc_eventlog": {}},
    ],
)
def test_malformed_evidence_is_refused(value: JsonValue) -> None:
    with pytest.raises(EvidenceFormat) as refused:
        read(shown(evidence=value), challenge())
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(("said", "is_really"), [("tdx", "sgx"), ("sgx", "tdx")])
def test_a_quote_of_another_tee_is_refused(said: str, is_really: str) -> None:
    """The guest named its TEE before the challenge: the policy of another TEE must not apply."""
    with pytest.raises(EvidenceFormat, match="of another TEE"):
        read(shown(evidence={"quote": b64(QUOTES[is_really])}), challenge(tee=said))
    assert read(shown(evidence={"quote": b64(QUOTES[said])}), challenge(tee=said))


def test_evidence_without_a_quote_has_the_same_maximum_size() -> None:
    """Evidence of such TEEs stays JSON."""
    found = read(shown(evidence={"svn": "1", "report_data": "é"}), challenge(tee="sample"))
    assert json.loads(found.quote) == {"svn": "1", "report_data": "é"}
    assert found.event_log is None
    with pytest.raises(EvidenceFormat, match="longer than 65536 bytes"):
        read(shown(evidence={"svn": "1" * MAX_QUOTE_BYTES}), challenge(tee="sample"))


@pytest.mark.parametrize(
    "additional",
    [
        *("nvidia", "[]", '["nvidia"]', "null", "{", " ", '{"a":1,"a":2}', '{"a":NaN}', "\ufeff{}"),
        *('{"":{}}', '{" nvidia":{}}', "{\"'nvidia'\":{}}", '{"\\"nvidia\\"":{}}', '{"NVIDIA":1}'),
        *('{"nvidia\\n":{}}', '{"nvid\\u0131a":{}}', json.dumps({"n" * 65: 1})),
        json.dumps({f"device{number}": {} for number in range(MAX_DEVICES + 1)}),
    ],
)
def test_invalid_device_types_are_refused(additional: str) -> None:
    """A name that resembles another one could mislead the author of a policy."""
    with pytest.raises(EvidenceFormat, match=r"additional evidence|the JSON has"):
        read(shown(additional=additional), challenge())


def test_numbers_in_additional_evidence_are_limited() -> None:
    devices = json.dumps({"nvidia": [1] * MAX_VALUES})
    assert read(shown(additional=devices), challenge()).devices == ("nvidia",)
    with pytest.raises(EvidenceFormat, match=f"more than {MAX_VALUES} values"):
        read(shown(additional=devices[:-2] + ",1]}"), challenge())


def test_every_device_is_listed() -> None:
    names = [f"device-{number}" for number in range(MAX_DEVICES)]
    found = read(shown(additional=json.dumps(dict.fromkeys(names))), challenge())
    assert found.devices == tuple(names)
    assert read(shown(additional="{}"), challenge()).devices == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.sampled_from(["quote", "cc_eventlog", "svn"]), each, max_size=3)
    ),
    max_leaves=6,
)
QUOTED = st.binary(max_size=60).map(lambda rest: {"quote": b64(HEADERS["tdx"] + rest)})


@given(
    st.none() | st.just(NONCE) | st.text(max_size=5),
    JSON | st.just(JWK),
    JSON | QUOTED,
    st.just("") | st.text(max_size=20),
    st.sampled_from(Version),
    st.sampled_from([*TEES.names, "none"]),
)
def test_arbitrary_input_raises_documented_errors_only(
    nonce: str | None,
    jwk: JsonValue,
    value: JsonValue,
    additional: str,
    version: Version,
    tee: str,
) -> None:
    try:
        found = read(
            Attestation(challenge(version, tee), nonce, jwk, value, additional),
            challenge(version, tee),
        )
    except AttestationError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert found.tee == tee
        assert found.binding
        assert len(found.quote) <= MAX_QUOTE_BYTES
