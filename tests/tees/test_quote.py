"""Parsing of quotes: real ones, truncated ones, and kinds that are not served."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from sys import intern

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import input_file, vector
from tests.tees.support import REPORT_DATA, good_quote, platform
from verdictd_py.domain.evidence import MAX_QUOTE_BYTES
from verdictd_py.errors import EvidenceFormat
from verdictd_py.simulator import TdBody
from verdictd_py.tees.intel.quote import BodyKind, parse_quote
from verdictd_py.tees.tdx.verifier import body_claims


@pytest.mark.parametrize(
    ("name", "version", "tee", "kind"),
    [
        ("quotes/tdx-v4-up-to-date/quote.bin", 4, "tdx", BodyKind.TD10),
        ("quotes/tdx-v4-spr/quote.bin", 4, "tdx", BodyKind.TD10),
        ("quotes/tdx-v5/quote.bin", 5, "tdx", BodyKind.TD15),
        ("quotes/sgx-v3/quote.bin", 3, "sgx", BodyKind.SGX),
        ("eventlog/quote.bin", 4, "tdx", BodyKind.TD10),
    ],
)
def test_real_quotes(name: str, version: int, tee: str, kind: BodyKind) -> None:
    data = vector(name).read_bytes()
    quote = parse_quote(data)
    assert (quote.version, quote.tee, quote.kind) == (version, tee, kind)
    assert data.startswith(quote.raw)
    assert quote.raw.startswith(quote.signed)
    assert quote.pck_chain.startswith(b"-----BEGIN CERTIFICATE-----")
    assert parse_quote(quote.raw + b"padding") == quote
    if tee == "tdx":
        claims = body_claims(quote)
        assert claims["debug"] is False
        assert str(claims["mrTd"]) in data.hex()
        assert ("mrServiceTd" in claims) is (kind is BodyKind.TD15)


def test_offsets_of_version_4() -> None:
    """Every claim is at the offset in tdx.md, from the beginning of the quote."""
    data = bytearray(good_quote())
    offsets = {
        "teeTcbSvn": (48, 16),
        "mrSeam": (64, 48),
        "mrSignerSeam": (112, 48),
        "tdAttributes": (168, 8),
        "xfam": (176, 8),
        "mrTd": (184, 48),
        "mrConfigId": (232, 48),
        "mrOwner": (280, 48),
        "mrOwnerConfig": (328, 48),
        "rtmr0": (376, 48),
        "rtmr1": (424, 48),
        "rtmr2": (472, 48),
        "rtmr3": (520, 48),
        "reportData": (568, 64),
    }
    for number, (at, size) in enumerate(offsets.values(), start=1):
        data[at : at + size] = bytes([2 * number]) * size
    claims = body_claims(parse_quote(bytes(data)))
    assert claims.pop("debug") is False
    assert claims == {
        name: bytes([2 * number]).hex() * size
        for number, (name, (_, size)) in enumerate(offsets.items(), start=1)
    }


def test_guests_of_one_image_share_their_measurements() -> None:
    """Otherwise each connected guest occupies almost two KiB for values that all have."""
    first, second = (body_claims(parse_quote(good_quote())) for _ in range(2))
    assert all(first[name] is second[name] for name in first if name != "reportData")


def test_values_of_unverified_quotes_are_not_interned() -> None:
    """Early releases of Python 3.12 never free them, and any client can send new values."""
    claims = body_claims(parse_quote(_changed(568, os.urandom(64))))
    copy = "".join(list(str(claims["reportData"])))
    assert intern(copy) is copy


def _changed(at: int, replacement: bytes, data: bytes | None = None) -> bytes:
    quote = data or good_quote()
    return quote[:at] + replacement + quote[at + len(replacement) :]


V5 = platform().quote(REPORT_DATA, version=5, body=TdBody.TD15)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "shorter than its header"),
        (good_quote()[:47], "shorter than its header"),
        (_changed(0, b"\x06"), "version 6"),
        (_changed(0, b"\x00"), "version 0"),
        (_changed(0, b"\x03"), "cannot carry"),  # version 3 is for SGX
        (_changed(2, b"\x03"), "type 3"),  # P-384
        (_changed(4, bytes(4)), "quote"),  # SGX in version 4, of another size
        (_changed(4, b"\x82"), "unknown TEE type 0x82"),
        (_changed(12, b"\x00"), "quoting enclave"),
        (_changed(48, b"\x01\x00", V5), "cannot have"),
        (_changed(48, b"\x01\x00" + struct.pack("<I", 384), V5), "cannot carry"),
        (_changed(48, b"\x05", V5), "type 5"),
        (_changed(50, b"\x00", V5), "cannot have"),
        (good_quote()[:-1], "ends inside"),
        (_changed(632, b"\xff\xff\xff\xff"), "ends inside"),
        (_changed(764, b"\x05"), "type 5"),  # certification data of the quote
        (good_quote() + bytes(MAX_QUOTE_BYTES), "longer than"),
    ],
)
def test_quotes_that_are_not_served(data: bytes, message: str) -> None:
    with pytest.raises(EvidenceFormat, match=message):
        parse_quote(data)


def _signed_with(signature_data: bytes) -> bytes:
    """Return a version 4 quote with other signature data of the correct length."""
    return good_quote()[:632] + len(signature_data).to_bytes(4, "little") + signature_data


def _certified_with(inner: bytes) -> bytes:
    """Return a version 4 quote with another nested QE report of the correct length."""
    size = len(inner).to_bytes(4, "little")
    return _signed_with(good_quote()[636:764] + b"\x06\0" + size + inner)


SIGNATURE_DATA = good_quote()[636:]
NESTED = parse_quote(good_quote()).raw[770:]


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (good_quote()[:48], "report body"),
        (good_quote()[:631], "report body"),
        (good_quote()[:635], "signature length"),
        (good_quote()[:1000], "signature data"),
        (_signed_with(SIGNATURE_DATA[:63]), "signature"),
        (_signed_with(SIGNATURE_DATA[:127]), "attestation key"),
        (_signed_with(SIGNATURE_DATA[:129]), "certification data"),
        (_signed_with(SIGNATURE_DATA[:133]), "certification data"),
        (_signed_with(SIGNATURE_DATA[:200]), "certification data"),
        (_certified_with(NESTED[:383]), "QE report"),
        (_certified_with(NESTED[:447]), "QE report signature"),
        (_certified_with(NESTED[:449]), "QE authentication data"),
        (_certified_with(NESTED[:481]), "QE authentication"),
        (_certified_with(NESTED[:483]), "certification data"),
        (_certified_with(NESTED[:487]), "certification data"),
        (_certified_with(NESTED[:-1]), "certification data"),
        (V5[:49], "body descriptor"),
        (V5[:53], "body descriptor"),
    ],
)
def test_the_error_names_the_truncated_part(data: bytes, part: str) -> None:
    with pytest.raises(EvidenceFormat, match=f"the quote ends inside its {part}$"):
        parse_quote(data)


def test_the_parts_of_the_signature_data() -> None:
    quote, data = parse_quote(good_quote()), good_quote()
    assert quote.signed == data[:632]
    assert (quote.signature, quote.attestation_key) == (data[636:700], data[700:764])
    assert (quote.qe_report, quote.qe_report_signature) == (data[770:1154], data[1154:1218])
    assert quote.qe_auth_data == data[1220:1252]


def test_the_largest_quote() -> None:
    padded = good_quote().ljust(MAX_QUOTE_BYTES, b"\0")
    assert parse_quote(padded).digest == parse_quote(good_quote()).digest
    with pytest.raises(EvidenceFormat, match="longer than"):
        parse_quote(padded + b"\0")


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_host_without_a_pck_certificate_is_named(kind: int) -> None:
    problem = rf"had no PCK certificate \(certification data of type {kind}\): its PCCS is not"
    at = 764 + 6 + 384 + 64 + 2 + 32
    with pytest.raises(EvidenceFormat, match=problem):
        parse_quote(_changed(at, bytes([kind])))


def test_the_quote_of_a_reported_host_has_no_pck_certificate() -> None:
    data = input_file("reports/quote-certification-type-3.bin").read_bytes()
    with pytest.raises(EvidenceFormat, match="the machine is not registered"):
        parse_quote(data)


@pytest.mark.parametrize("kind", [4, 6, 7])
def test_only_pck_chains_certify(kind: int) -> None:
    """The error about certification data of another type than 5 names the type."""
    at = 764 + 6 + 384 + 64 + 2 + 32
    assert good_quote()[at : at + 2] == b"\x05\x00"
    with pytest.raises(EvidenceFormat, match=rf"type {kind} is not served.*PCK certificate chain"):
        parse_quote(_changed(at, bytes([kind])))


@given(st.binary(max_size=2000))
def test_garbage(data: bytes) -> None:
    with pytest.raises(EvidenceFormat):
        parse_quote(data)


@given(st.integers(0, 5000), st.binary(min_size=1, max_size=64))
def test_overwritten(at: int, garbage: bytes) -> None:
    with suppress(EvidenceFormat):
        parse_quote(_changed(at % len(V5), garbage, V5))
