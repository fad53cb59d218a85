"""Answers of real PCCSs: other forms of JSON and CRLs, and other spellings of URLs."""

from __future__ import annotations

import json
import time
from base64 import encodebytes
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from tests.support.collateral import CRL, NOW, QE, REQUEST, ROOT, TCB, Place, running_place
from tests.support.vectors import vector
from verdictd_py.errors import CollateralUnavailable
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.answers import MAX_JSON_BYTES, crl, signed
from verdictd_py.tees.intel.collateral.check import check_collateral
from verdictd_py.tees.intel.collateral.http import bounded_get
from verdictd_py.tees.intel.collateral.pcs import Pcs

DER = vector("pcs-2023/pck-crl-platform.der").read_bytes()
Form = Callable[[bytes], bytes]


def pem(der: bytes) -> bytes:
    return b"-----BEGIN X509 CRL-----\n" + encodebytes(der) + b"-----END X509 CRL-----\n"


CRL_FORMS: dict[str, Form] = {
    "der": lambda der: der,
    "hex": lambda der: der.hex().encode(),
    "upper-case hex": lambda der: der.hex().upper().encode() + b"\r\n",
    "quoted hex": lambda der: b' "' + der.hex().encode() + b'"\n',
    "pem": pem,
    "pem with CRLF": lambda der: b"\xef\xbb\xbf" + pem(der).replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("form", CRL_FORMS)
def test_a_crl_is_read_in_every_form(form: str) -> None:
    assert crl(CRL_FORMS[form](DER)) == DER


@pytest.mark.timing
def test_a_crl_with_many_beginnings_takes_little_time() -> None:
    """A service can send one. Each beginning was searched for an end: 38 s for this one."""
    body = b"-----BEGIN X509 CRL-----" * 10_000
    began = time.process_time()
    assert crl(body) == body
    assert time.process_time() - began < 2


def test_a_crl_in_broken_pem_is_refused() -> None:
    with pytest.raises(CollateralUnavailable, match="not valid PEM"):
        crl(b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n")


INNER = '{"id":"TDX","text":"a b \\" , \\u00e9 { é","list":[1,2,{"x":null}]}'
SIGNATURE = "ab" * 64


@pytest.mark.parametrize(
    "envelope",
    [
        '{"tcbInfo":%s,"signature":"%s"}',
        '{ "tcbInfo" : %s ,\n\t"signature" : "%s" }\n',
        '{"signature":"<s>","tcbInfo":<t>}',
        '\ufeff{"version":3,"signature":"<s>","more":[{"tcbInfo":{}}],"tcbInfo":<t>,"x":"\\"}"}\r\n',
    ],
)
def test_the_signed_text_is_found_in_every_envelope(envelope: str) -> None:
    body = envelope.replace("<t>", INNER).replace("<s>", SIGNATURE)
    body = body % (INNER, SIGNATURE) if "%s" in body else body
    assert signed(body.encode(), "tcbInfo") == (INNER, bytes.fromhex(SIGNATURE))


def test_white_space_that_was_added_to_the_signed_text_is_cut_out() -> None:
    """Intel signs the text without it; space in strings is part of the text."""
    inner = INNER.replace('"list":[1,2,', '"list" : [ 1 ,\n\t2,\r\n')
    body = f'{{"tcbInfo":{inner},"signature":"{SIGNATURE}"}}'
    assert signed(body.encode(), "tcbInfo")[0] == INNER


@pytest.mark.parametrize(
    "body",
    [
        *("", "[]", "{}", "{", '{"tcbInfo"}', '{"tcbInfo":1}', '{"tcbInfo":{},"signature":1}'),
        '{"tcbInfo":{},"signature":"zz"}',
        '{"tcbInfo":{},"signature":"ab"}x',
        '{"tcbInfo":{},"tcbInfo":{},"signature":"ab"}',
        '{"tcbInfo":{},"signature":"ab","signature":"cd"}',
        '{"a":{"tcbInfo":{},"signature":"ab"}}',
        '{1:2,"tcbInfo":{},"signature":"ab"}',
        '{"tcbInfo":' + "[" * 100_000,
        '{"tcbInfo":{},"signature":"ab"' + " " * MAX_JSON_BYTES + "}",
    ],
)
def test_an_answer_without_a_signed_text_is_refused(body: str) -> None:
    with pytest.raises(CollateralUnavailable):
        signed(body.encode(), "tcbInfo")
    with pytest.raises(CollateralUnavailable):
        signed(b"\xff" + body.encode(), "tcbInfo")


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    async with running_place() as running:
        yield running


def service(place: Place, url: str) -> Pcs:
    root_key = root_key_digest(place.pccs.platform.root_ca_der)
    return Pcs(bounded_get(place.client), (url,), root_key=root_key)


async def fetched(place: Place, url: str) -> Any:
    root_key = root_key_digest(place.pccs.platform.root_ca_der)
    found, _ = await service(place, url).fetch(
        REQUEST, lambda each: check_collateral(each, REQUEST, root_key=root_key, now=NOW)
    )
    return found


@pytest.mark.parametrize(
    "suffix",
    [
        *("", "/", "/sgx/certification/v4", "/sgx/certification/v4/", "/tdx/certification/v4/"),
        "//",
    ],
)
async def test_the_url_may_end_in_the_common_path(place: Place, suffix: str) -> None:
    await fetched(place, place.pccs.url + suffix)
    assert set(place.pccs.asked) == {CRL, TCB, QE, ROOT}


@pytest.mark.parametrize("form", CRL_FORMS)
async def test_collateral_with_crls_in_every_form_verifies(place: Place, form: str) -> None:
    def change(path: str, answer: PcsAnswer) -> PcsAnswer:
        if path not in {CRL, ROOT}:
            return answer
        return PcsAnswer(answer.status, answer.headers, CRL_FORMS[form](crl(answer.body)))

    place.pccs.change = change
    await fetched(place, place.pccs.url)


async def test_collateral_in_indented_json_verifies(place: Place) -> None:
    def change(path: str, answer: PcsAnswer) -> PcsAnswer:
        if path not in {TCB, QE}:
            return answer
        members = dict(reversed(json.loads(answer.body).items()))
        body = json.dumps(members, indent=2, ensure_ascii=False).encode()
        return PcsAnswer(answer.status, answer.headers, body)

    place.pccs.change = change
    await fetched(place, place.pccs.url)


@pytest.mark.parametrize(
    ("path", "document"),
    [(TCB, "TCB info"), (QE, "QE identity"), (CRL, "PCK CRL"), (ROOT, "PCK CRL")],
)
async def test_an_error_names_document_url_and_cause(
    place: Place, path: str, document: str
) -> None:
    """A root CRL that the PCCS lacks is at an address in the PCK CRL's chain, which is broken."""

    def change(asked: str, answer: PcsAnswer) -> PcsAnswer:
        if path == ROOT and asked == CRL:
            return PcsAnswer(200, {"SGX-PCK-CRL-Issuer-Chain": "junk"}, answer.body)
        return PcsAnswer(404) if asked == path else answer

    place.pccs.change = change
    with pytest.raises(CollateralUnavailable) as caught:
        await fetched(place, place.pccs.url)
    text = str(caught.value)
    assert text.startswith(f"{document} from {place.pccs.url}{CRL if path == ROOT else path}")
    cause = "its root certificate cannot be read" if path == ROOT else "HTTP status 404"
    assert text.endswith(f": {cause}")


async def test_an_answer_that_cannot_be_read_is_named(place: Place) -> None:
    place.pccs.change = lambda path, answer: (
        PcsAnswer(200, answer.headers, b"<html>") if path == QE else answer
    )
    with pytest.raises(CollateralUnavailable) as caught:
        await fetched(place, place.pccs.url)
    assert str(caught.value) == (
        f"QE identity from {place.pccs.url}{QE}: the answer has no enclaveIdentity with a signature"
    )
