"""Messages of a guest in RCAR, compared with bytes written by hand."""

from __future__ import annotations

import base64
import hashlib

import pytest

from tests.guest.seen import SEEN, Seen
from verdictd_py.errors import ConfigError
from verdictd_py.guest.rcar.evidence import SampleEvidence, no_devices
from verdictd_py.guest.rcar.messages import (
    Challenge,
    JsonObject,
    MemberOrder,
    Version,
    attestation,
    auth_request,
    canonical,
    device_digest,
    init_data_digest,
    report_data,
    runtime_digest,
    selected_algorithm,
)

CHALLENGE = Challenge("bm9uY2U=")
EC: JsonObject = {"kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW", "x": "eA", "y": "eQ"}
RSA: JsonObject = {"kty": "RSA", "alg": "RSA1_5", "n": "bg", "e": "AQAB"}
SORTED_EC = '{"alg":"ECDH-ES+A256KW","crv":"P-256","kty":"EC","x":"eA","y":"eQ"}'
SENT_EC = '{"kty":"EC","crv":"P-256","alg":"ECDH-ES+A256KW","x":"eA","y":"eQ"}'
OLDER = (Version.V0_1_1, Version.V0_2_0)

# printf '{"additional-evidence":"","nonce":"bm9uY2U=","tee-pubkey":{"alg":...}}' | sha384sum
KNOWN_0_4_0 = bytes.fromhex(
    "412a2cd46689a873a3606a62cc5dadd837d33a7dfe370653"
    "1ba537d4c21eb3dfb6a4639a2302472555aa3430cee0bc4e"
)
# printf '{"nonce":"bm9uY2U=","tee-pubkey":{"alg":"RSA1_5","e":"AQAB","kty":"RSA","n":"bg"}}' | ...
KNOWN_0_1_1 = bytes.fromhex(
    "39b7582fbb72de1f0f1a6bad4c8e6759fb3a061691c86fc6"
    "c4a6ecbe11e9c70f068986acedcaab97734d527fea2b1bd8"
)


def sha384(text: str) -> bytes:
    return hashlib.sha384(text.encode()).digest()


class TestAuth:
    def test_today(self) -> None:
        assert auth_request(Version.V0_4_0, "tdx") == {
            "version": "0.4.0",
            "tee": "tdx",
            "extra-params": {"supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"]},
        }

    @pytest.mark.parametrize("version", OLDER)
    def test_before(self, version: Version) -> None:
        hashes = ["sha256", "sha384", "sha512"]
        expected: JsonObject = {
            "version": version.value,
            "tee": "sample",
            "extra-params": {"supported-hash-algorithms": [*hashes]},
        }
        assert auth_request(version, "sample") == expected
        expected["extra-params"] = ""
        assert auth_request(version, "sample", offer_hashes=False) == expected

    def test_the_challenge_selects_the_digest(self) -> None:
        assert selected_algorithm("") == "sha384"
        assert selected_algorithm({"other": 1}) == "sha384"
        assert selected_algorithm({"selected-hash-algorithm": "SHA256"}) == "sha256"
        for unknown in ("sm3", "md5", 5, None):
            with pytest.raises(ValueError, match="does not support"):
                selected_algorithm({"selected-hash-algorithm": unknown})


class TestReportData:
    def test_known_digests(self) -> None:
        assert runtime_digest(Version.V0_4_0, CHALLENGE, EC) == KNOWN_0_4_0
        assert runtime_digest(Version.V0_1_1, CHALLENGE, RSA) == KNOWN_0_1_1

    def test_0_4_0_is_rfc_8785_with_additional_evidence(self) -> None:
        additional = '{"gpu":"\\u20ac\u20ac\x7f\t\x01"}'
        escaped = '"{\\"gpu\\":\\"\\\\u20ac\u20ac\x7f\\t\\u0001\\"}"'
        text = '{"additional-evidence":' + escaped + ',"nonce":"bm9uY2U=","tee-pubkey":'
        for order in MemberOrder:  # of no account
            digest = runtime_digest(
                Version.V0_4_0, CHALLENGE, EC, additional_evidence=additional, order=order
            )
            assert digest == sha384(text + SORTED_EC + "}")

    def test_0_4_0_uses_the_digest_that_was_selected(self) -> None:
        text = '{"additional-evidence":"","nonce":"n","tee-pubkey":' + SORTED_EC + "}"
        for name, size in (("sha256", 32), ("sha512", 64)):
            digest = runtime_digest(Version.V0_4_0, Challenge("n", name), EC)
            assert digest == hashlib.new(name, text.encode()).digest()
            assert len(digest) == size

    @pytest.mark.parametrize("version", OLDER)
    def test_before_each_order_has_its_digest(self, version: Version) -> None:
        texts = {
            MemberOrder.SORTED: '{"nonce":"bm9uY2U=","tee-pubkey":' + SORTED_EC + "}",
            MemberOrder.INSERTION: '{"tee-pubkey":' + SENT_EC + ',"nonce":"bm9uY2U="}',
        }
        for order, text in texts.items():
            assert runtime_digest(version, CHALLENGE, EC, order=order) == sha384(text)

    @pytest.mark.parametrize("seen", SEEN, ids=lambda seen: seen.name)
    def test_what_upstreams_guests_were_seen_to_send(self, seen: Seen) -> None:
        if seen.additional:
            devices = device_digest(Challenge(seen.nonce), seen.jwk)
            assert base64.b64encode(devices).decode() in seen.additional
        digest = runtime_digest(
            seen.version, Challenge(seen.nonce), seen.jwk, additional_evidence=seen.additional
        )
        assert base64.b64encode(digest).decode() == seen.report_data

    def test_it_is_padded_with_zeros(self) -> None:
        assert report_data(b"\x01" * 48) == b"\x01" * 48 + b"\0" * 16
        assert report_data(b"\x01" * 64) == b"\x01" * 64

    def test_devices_cover_nonce_and_key(self) -> None:
        text = '{"nonce":"bm9uY2U=","tee-pubkey":' + SORTED_EC + "}"
        assert device_digest(CHALLENGE, EC) == sha384(text)


class TestAttest:
    def test_today(self) -> None:
        body = attestation(Version.V0_4_0, CHALLENGE, EC, {"quote": "cQ=="})
        assert body == {
            "init-data": None,
            "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": EC},
            "tee-evidence": {"primary_evidence": {"quote": "cQ=="}, "additional_evidence": ""},
        }

    def test_today_with_everything(self) -> None:
        body = attestation(
            Version.V0_4_0, CHALLENGE, EC, {}, additional_evidence="{}", init_data="a = 1\n"
        )
        assert body["init-data"] == {"format": "toml", "body": "a = 1\n"}
        assert body["tee-evidence"] == {"primary_evidence": {}, "additional_evidence": "{}"}

    @pytest.mark.parametrize("version", OLDER)
    def test_before(self, version: Version) -> None:
        """Versions before 0.4.0 do not send the nonce."""
        body = attestation(version, CHALLENGE, RSA, {"quote": "cQ=="})
        assert body == {"tee-pubkey": RSA, "tee-evidence": {"quote": "cQ=="}}
        for arguments in ({"init_data": "a = 1"}, {"additional_evidence": "{}"}):
            with pytest.raises(ConfigError, match=r"use 0\.4\.0"):
                attestation(version, CHALLENGE, RSA, {}, **arguments)


class TestInitData:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("sha256", lambda data: hashlib.sha256(data).digest() + bytes(16)),
            ("sha384", lambda data: hashlib.sha384(data).digest()),
            ("sha512", lambda data: hashlib.sha512(data).digest()[:48]),
        ],
    )
    def test_its_own_algorithm_over_the_text_as_it_stands(
        self, name: str, expected: object
    ) -> None:
        text = f'version = "0.1.0"\nalgorithm = "{name}"  \n\n[data]\n"a.toml" = "\u20ac"\n'
        assert callable(expected)
        assert init_data_digest(text) == expected(text.encode())

    @pytest.mark.parametrize("text", ["", "{", "algorithm = 5", 'algorithm = "sm3"'])
    def test_init_data_without_algorithm_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError, match="init-data"):
            init_data_digest(text)


def test_sample_evidence_is_that_of_guest_components() -> None:
    digest = bytes(range(48))
    b64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"
    assert SampleEvidence().collect(digest) == {"svn": "1", "report_data": b64}
    assert no_devices(digest) == ""


def test_canonical_json_is_compact_and_sorted_at_each_level() -> None:
    value: JsonObject = {"b": {"z": "\u00e9", "a": None}, "a": ["/", True]}
    assert canonical(value) == '{"a":["/",true],"b":{"a":null,"z":"\u00e9"}}'.encode()
