"""Hostile input: readers raise only their documented error, and without delay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from asn1crypto import x509 as asn1
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.ratstls import (
    DICE,
    FORMS,
    GARBAGE,
    NOW,
    VENDOR,
    collateral,
    make,
    quote_for,
    self_signed,
    with_claims,
)
from tests.support.tees import TEES
from tests.support.work import cost
from verdictd_py.errors import AttestationError, EvidenceFormat
from verdictd_py.formats import cbor, der
from verdictd_py.protocols.ratstls import certificate, dice
from verdictd_py.protocols.ratstls.issue import Form

GENUINE: dict[Form, bytes] = {form: make(form) for form in FORMS}
GENUINE[Form.CURRENT] = make(Form.CURRENT, endorsements=collateral(), garbage=GARBAGE)
FULL = 65_000
MAX_COST = 20.0
"""Of reading one bomb at eight places, in units of `cost`."""


def survives(data: bytes) -> None:
    try:
        certificate.read(data, TEES, now=NOW)
    except AttestationError:
        return


@given(st.binary(max_size=300))
def test_random_bytes_raise_the_documented_error_only(data: bytes) -> None:
    with pytest.raises(EvidenceFormat):
        certificate.read(data, TEES, now=NOW)


@examples(300)
@given(form=st.sampled_from(FORMS), at=st.integers(0, 1 << 16), byte=st.integers(0, 255))
def test_one_changed_byte_raises_the_documented_error_only(form: Form, at: int, byte: int) -> None:
    genuine = GENUINE[form]
    at %= len(genuine)
    survives(genuine[:at] + bytes([byte]) + genuine[at + 1 :])


def test_changes_of_every_byte_of_the_structure_raise_the_documented_error_only() -> None:
    """The first 400 bytes and the last 90 contain all headers; each is changed in eight ways."""
    for form in (Form.LEGACY, Form.CURRENT):
        genuine = GENUINE[form]
        size = len(genuine)
        for at in (*range(400), *range(size - 90, size)):
            for bit in range(8):
                changed = bytes([genuine[at] ^ 1 << bit])
                survives(genuine[:at] + changed + genuine[at + 1 :])


@pytest.mark.parametrize("form", FORMS)
def test_truncated_certificates_are_refused(form: Form) -> None:
    genuine = GENUINE[form]
    for size in range(len(genuine)):
        with pytest.raises(EvidenceFormat):
            certificate.read(genuine[:size], TEES, now=NOW)


@given(st.binary(max_size=200))
def test_random_bytes_as_evidence_are_refused(data: bytes) -> None:
    for value in (data, bytes.fromhex("d9ea60") + data, bytes.fromhex("d9ea6082") + data):
        try:
            dice.read_evidence(value, TEES.tags)
        except EvidenceFormat:
            continue


@given(st.binary(max_size=200))
def test_random_bytes_as_claims_are_refused(data: bytes) -> None:
    for value in (data, b"\xa1\x6bpubkey-hash" + data, b"\xa2" + data):
        try:
            dice.binding_of(value, b"some key")
        except AttestationError:
            continue


NESTED = b"\x81" * FULL
BOMBS = [
    pytest.param(NESTED, id="nested arrays"),
    pytest.param(b"\xa1" * FULL, id="nested maps"),
    pytest.param(b"\xc1" * FULL, id="nested tags"),
    pytest.param(b"\xd9\xea\x60" * (FULL // 3), id="nested tags of ours"),
    pytest.param(b"\xd8\x1c" * (FULL // 2), id="shared references"),
    pytest.param(b"\x9f" * FULL, id="indefinite arrays"),
    pytest.param(b"\x5f" + b"\x40" * FULL, id="indefinite byte string"),
    pytest.param(b"\xdb" + b"\xff" * 8, id="huge tag"),
    pytest.param(b"\xc2\x5a\0\0\xfd\0" + b"\xff" * 64768, id="big number"),
    pytest.param(b"\x9b" + b"\x7f" + b"\xff" * 7, id="huge array"),
    pytest.param(b"\xbb" + b"\x7f" + b"\xff" * 7, id="huge map"),
    pytest.param(b"\x5b" + b"\x7f" + b"\xff" * 7, id="huge byte string"),
    pytest.param(b"\x7b" + b"\xff" * 8, id="huge text"),
    pytest.param(b"\xb9\xff\xff" + b"".join(b"\x62%c%c\x40" % divmod(n, 128) for n in range(9000)),
                 id="many claims"),
]  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.timing
def test_bombs_are_refused_at_every_level(bomb: bytes) -> None:
    tag, quote = b"\xd9\xea\x60", cbor2.dumps(quote_for(bytes(64)))
    room = 60_000
    certificates = [
        self_signed([(DICE, False, bomb[:room])]),
        self_signed([(DICE, False, tag + bomb[:room])]),
        self_signed([(DICE, False, tag + b"\x82" + bomb[:room])]),
        self_signed([(DICE, False, tag + b"\x82" + quote + bomb[: room - 4200])]),
        with_claims(bomb[: room - 4200]),
        with_claims(b"\xa1\x6bpubkey-hash" + bomb[: room - 4200]),
        with_claims(cbor2.dumps({"pubkey-hash": bomb[: room - 4200]})),
        with_claims(cbor2.dumps({"pubkey-hash": b"\x82" + bomb[: room - 4200]})),
    ]

    def read_all() -> None:
        for hostile in certificates:
            with pytest.raises(EvidenceFormat):
                certificate.read(hostile, TEES, now=NOW)

    assert cost(read_all) < MAX_COST


def test_the_number_of_claims_is_limited() -> None:
    claims = {f"claim {number}": b"" for number in range(dice.MAX_CLAIMS + 1)}
    with pytest.raises(EvidenceFormat, match="more than"):
        dice.read_claims(cbor2.dumps(claims))
    claims.popitem()
    assert dice.read_claims(cbor2.dumps(claims)) == claims


@given(st.integers(0, 2**64 - 1))
def test_another_library_writes_the_same_heads(value: int) -> None:
    assert cbor.unsigned(value) == cbor2.dumps(value)
    assert cbor.Reader(cbor2.dumps(value), "it").unsigned() == value
    if value < 2**32:
        assert cbor2.loads(cbor.unsigned32(value)) == value
        assert cbor.Reader(cbor.unsigned32(value), "it").unsigned() == value


@given(st.dictionaries(st.text(max_size=30), st.binary(max_size=300), max_size=30))
def test_another_library_writes_the_same_maps(entries: dict[str, bytes]) -> None:
    assert cbor.mapping(entries) == cbor2.dumps(entries)
    assert dice.read_claims(cbor2.dumps(entries)) == entries


@pytest.mark.parametrize("value", [n + by for n in (24, 2**8, 2**16, 2**32) for by in (-1, 0)])
def test_heads_are_as_short_as_possible(value: int) -> None:
    assert cbor.unsigned(value) == cbor2.dumps(value)


# DER.


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050])  # RFC 5280, 4.1.2.5
def test_times_of_either_form_are_read_to_the_second(year: int) -> None:
    begin = datetime(year, 2, 3, 4, 5, 6, tzinfo=UTC)
    found = der.read_certificate(self_signed([], begin=begin, end=begin + timedelta(seconds=1)))
    assert (found.not_before, found.not_after) == (begin, begin + timedelta(seconds=1))


@pytest.mark.parametrize("form", FORMS)
def test_another_library_reads_the_same_from_certificates(form: Form) -> None:
    found = der.read_certificate(GENUINE[form])
    expected = asn1.Certificate.load(GENUINE[form])
    assert found.spki == expected.public_key.dump()
    assert found.not_before == expected.not_valid_before
    assert found.not_after == expected.not_valid_after
    listed = expected["tbs_certificate"]["extensions"]
    assert {
        der.oid(entry["extn_id"].dotted): (entry["critical"].native, entry["extn_value"].contents)
        for entry in listed
    } == {name: (entry.critical, entry.value) for name, entry in found.extensions.items()}


@pytest.mark.parametrize("length", [0, 127, 128, 255, 256, 65_535, 65_536])
def test_lengths_are_written_as_they_are_read(length: int) -> None:
    element = der.encode(der.OCTET_STRING, bytes(length))
    reader = der.Reader(element, "it")
    assert reader.content(der.OCTET_STRING) == bytes(length)
    reader.end()


@pytest.mark.parametrize(
    "element",
    ["04", "0480", "048100", "04817f" + "00" * 127, "0482007f" + "00" * 127, "0401", "0484ffffffff",
     "04820080" + "00" * 128, "0485000000000100", "04ff" + "00" * 200, "0482", "058000"],
)  # fmt: skip
def test_lengths_that_are_not_der_are_refused(element: str) -> None:
    with pytest.raises(EvidenceFormat):
        der.Reader(bytes.fromhex(element), "it").content(der.OCTET_STRING)


def rewritten(old: str, new: str) -> bytes:
    """Return a certificate with some of its bytes replaced."""
    genuine = self_signed([(VENDOR + "8", True, quote_for(bytes(64)))])
    before, after = bytes.fromhex(old), bytes.fromhex(new)
    assert len(before) == len(after)
    assert before in genuine
    return genuine.replace(before, after)


VERSION = "a003020102"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(VERSION, "a003020101", id="X.509 v2"),
        pytest.param(VERSION, "a003020104", id="X.509 v5"),
        pytest.param(VERSION, "a003020182", id="negative version"),
        pytest.param(VERSION, "a003040102", id="version is no INTEGER"),
        pytest.param(VERSION, "a103020102", id="no version where one must be"),
        pytest.param("0101ff", "010101", id="BOOLEAN of 1"),
        pytest.param("0101ff", "010100", id="FALSE written out"),
        pytest.param(b"261124110000Z".hex(), b"261324110000Z".hex(), id="13th month"),
        pytest.param(b"261124110000Z".hex(), b"2611241100+01".hex(), id="another time zone"),
        pytest.param(b"261124110000Z".hex(), b"26112411 000Z".hex(), id="a space in a time"),
        pytest.param("170d", "180d", id="short time under the tag of the long"),
    ],
)
def test_certificates_that_are_not_der_or_not_x509_are_refused(old: str, new: str) -> None:
    with pytest.raises(EvidenceFormat):
        certificate.read(rewritten(old, new), TEES, now=NOW)


EXTRA = b"\x05\0"
UTC_TIMES = [der.encode(der.UTC_TIME, text) for text in (b"261124110000Z", b"271124110000Z")]


def assembled(place: str) -> bytes:
    """Return a certificate built by hand, with an additional element at the end of `place`."""

    def built(name: str, tag: int, *contents: bytes) -> bytes:
        return der.encode(tag, *contents, *([EXTRA] if name == place else []))

    empty = der.encode(der.SEQUENCE)
    oid = der.encode(der.OBJECT_IDENTIFIER, der.oid(VENDOR + "8"))
    value = der.encode(der.OCTET_STRING, quote_for(bytes(64)))
    extension = built("extension", der.SEQUENCE, oid, value)
    extensions = built("list of extensions", der.SEQUENCE, extension)
    signed = built(
        "tbsCertificate",
        der.SEQUENCE,
        built("version", 0xA0, der.encode(der.INTEGER, b"\x02")),
        der.encode(der.INTEGER, b"\x01"),
        empty,
        empty,
        built("validity", der.SEQUENCE, *UTC_TIMES),
        empty,
        empty,
        built("extensions", 0xA3, extensions),
    )
    signature = der.encode(der.BIT_STRING, b"\0")
    return built("certificate", der.SEQUENCE, signed, empty, signature)


@pytest.mark.parametrize(
    "place",
    [
        "certificate",
        "tbsCertificate",
        "version",
        "validity",
        "extensions",
        "list of extensions",
        "extension",
    ],
)
def test_extra_bytes_are_refused(place: str) -> None:
    assert certificate.read(assembled("nowhere"), TEES, now=NOW).quote == quote_for(bytes(64))
    with pytest.raises(EvidenceFormat, match="unexpected extra bytes"):
        certificate.read(assembled(place), TEES, now=NOW)


@pytest.mark.parametrize("info", [28, 29, 30, 31])
def test_reserved_and_indefinite_heads_are_refused(info: int) -> None:
    with pytest.raises(EvidenceFormat):
        cbor.Reader(bytes([info]) + bytes(200), "it").unsigned()


def test_oids_are_encoded() -> None:
    assert der.oid("2.23.133.5.4.9") == bytes.fromhex("678105050409")
    assert der.oid("1.2.840.113741.1337.14") == bytes.fromhex("2a864886f84d8a390e")
    assert der.oid("2.999.16384") == bytes.fromhex("883781 8000".replace(" ", ""))
