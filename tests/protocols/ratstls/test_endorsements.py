"""Endorsements: three encodings, tolerated variants, refusals."""

from __future__ import annotations

import base64
from collections.abc import Callable

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.ratstls import GARBAGE, collateral
from tests.support.work import cost
from verdictd_py.errors import AttestationError, EvidenceFormat
from verdictd_py.formats import collateral as endorsements

TAG = 60000
MAX_COST = 20.0
"""In units of `cost`."""


def pem(crl: bytes) -> bytes:
    body = base64.encodebytes(crl).decode()
    return f"-----BEGIN X509 CRL-----\n{body}-----END X509 CRL-----\n".encode()


def answer(name: str, text: str, signature: bytes) -> bytes:
    return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'.encode()


def entries(version: object, crl: Callable[[bytes], bytes] = bytes) -> list[object]:
    """The eight entries of `collateral()`, encoded by hand."""
    known = collateral()
    return [
        version,
        answer("tcbInfo", known.tcb_info, known.tcb_info_signature),
        known.tcb_info_issuer_chain.encode(),
        crl(known.pck_crl),
        crl(known.root_ca_crl),
        known.pck_crl_issuer_chain.encode(),
        answer("enclaveIdentity", known.qe_identity, known.qe_identity_signature),
        known.qe_identity_issuer_chain.encode(),
    ]


def item(values: object, tag: int = TAG) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, values))


def changed(at: int, value: object, version: int = 0x10003) -> bytes:
    values = entries(version)
    values[at] = value
    return item(values)


@pytest.mark.parametrize(
    ("version", "crl"),
    [
        (0x10003, bytes),
        (3, lambda crl: crl.hex().encode()),
        (3, lambda crl: crl.hex().upper().encode()),
        (1, pem),
    ],
    ids=["DER", "hex", "HEX", "PEM"],
)
@pytest.mark.parametrize("nul", [b"", b"\0"], ids=["plain", "NUL"])
@pytest.mark.parametrize("more", [[], [b"2026-11-24"]], ids=["8", "9"])
@pytest.mark.parametrize("behind", [b"", GARBAGE], ids=["exact", "padded"])
def test_all_encodings_are_read_alike(
    version: int, crl: Callable[[bytes], bytes], nul: bytes, more: list[bytes], behind: bytes
) -> None:
    first, *values = entries(version, crl)
    values = [value + nul for value in values if isinstance(value, bytes)]
    found = endorsements.read(item([first, *values, *more]) + behind, tag=TAG)
    assert found == collateral()


def test_written_endorsements_are_read() -> None:
    written = endorsements.write(collateral(), tag=0x1A7501)
    assert endorsements.read(written, tag=0x1A7501) == collateral()
    # The C library's verifier insists on 32 bits for the version.
    assert written[:11] == bytes.fromhex("da001a7501 88 1a00010003")


def test_the_signed_text_is_not_changed() -> None:
    inner = '{ "b" : 1.0,\n "a":"\u00e9", "b":2 }'
    text = f' {{ "tcbInfo" : {inner} , "signature" : "{"aB" * 64}" }}\n'
    found = endorsements.read(changed(1, text.encode()), tag=TAG)
    assert found.tcb_info == inner
    assert found.tcb_info_signature == b"\xab" * 64


KNOWN = collateral()
CRL = KNOWN.pck_crl
SIGNATURE = bytes(64)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(item(entries(0x10003), 0x1A7501), id="another tag"),
        pytest.param(cbor2.dumps(entries(0x10003)), id="no tag"),
        pytest.param(item(entries(0x10003)[:7]), id="seven entries"),
        pytest.param(item([*entries(0x10003), b"", b""]), id="ten entries"),
        pytest.param(item([*entries(0x10003), 1]), id="ninth is a number"),
        pytest.param(item(entries(2)), id="unknown version"),
        pytest.param(item(entries(0x30001)), id="version the other way round"),
        pytest.param(item(entries(b"\x03")), id="version as bytes"),
        pytest.param(item(entries(3)), id="DER where hex is said"),
        pytest.param(item(entries(1)), id="DER where PEM is said"),
        pytest.param(item(entries(0x10003, lambda crl: crl.hex().encode())), id="hex, DER said"),
        pytest.param(item(entries(3, lambda crl: crl.hex().encode()[:-1])), id="odd hex"),
        pytest.param(item(entries(1, lambda _: pem(b"\x05\0"))), id="PEM of no CRL"),
        pytest.param(
            item(entries(1, lambda crl: pem(crl).replace(b"X509 CRL", b"CERTIFICATE"))),
            id="PEM of something else",
        ),
        pytest.param(
            item(entries(1, lambda crl: pem(crl).replace(b"MI", b"M=I", 1))), id="PEM, broken"
        ),
        pytest.param(changed(3, CRL[:-1]), id="CRL cut off"),
        pytest.param(changed(3, CRL + b"x"), id="something behind a CRL"),
        pytest.param(changed(3, b""), id="no CRL"),
        pytest.param(changed(4, "text"), id="CRL as text"),
        pytest.param(changed(2, b"\xff"), id="chain is not UTF-8"),
        pytest.param(changed(1, b'{"tcbInfo":{}}'), id="no signature"),
        pytest.param(changed(1, answer("tcbInfo", "{}", SIGNATURE[:63])), id="short signature"),
        pytest.param(changed(1, answer("tcbInfo", "[]", SIGNATURE)), id="no object"),
        pytest.param(changed(1, answer("enclaveIdentity", "{}", SIGNATURE)), id="other answer"),
        pytest.param(changed(6, answer("tcbInfo", "{}", SIGNATURE)), id="answers exchanged"),
        pytest.param(changed(1, answer("tcbInfo", "{}", SIGNATURE) + b"{"), id="text behind"),
        pytest.param(item(entries(0x10003))[:-1], id="cut off"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_malformed_endorsements_are_refused(value: bytes) -> None:
    with pytest.raises(EvidenceFormat):
        endorsements.read(value, tag=TAG)


@pytest.mark.parametrize("unit", ["}", "} ", '},"signature":"', "}," + " " * 60, " ", "[", "{"])
@pytest.mark.timing
def test_answers_that_would_take_long_to_match_are_refused_at_once(unit: str) -> None:
    text = '{"tcbInfo":{' + unit * (60_000 // len(unit))
    value = changed(1, text.encode())

    def read() -> None:
        with pytest.raises(EvidenceFormat):
            endorsements.read(value, tag=TAG)

    assert cost(read) < MAX_COST


GENUINE = endorsements.write(collateral(), tag=TAG)


@given(at=st.integers(0, len(GENUINE) - 1), byte=st.integers(0, 255))
def test_one_changed_byte_raises_the_documented_error_only(at: int, byte: int) -> None:
    value = GENUINE[:at] + bytes([byte]) + GENUINE[at + 1 :]
    try:
        endorsements.read(value, tag=TAG)
    except AttestationError:
        return
