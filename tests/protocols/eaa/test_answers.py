"""Golden bytes of every row of wire-eaa.md, and the sizes that clients can read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import from_guide
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import RequestError, StorageError
from verdictd_py.protocols.eaa import answers
from verdictd_py.protocols.eaa.answers import MAX_ANSWER_BYTES, FailureForm

GUIDES_KEY = SecretBytes(b"1234567890123456789012345678901\n")


def test_golden_bytes() -> None:
    assert answers.version() == b'{"status":"OK","version":"v1"}'
    assert answers.echo("Grüße") == b"Gr\xc3\xbc\xc3\x9fe"
    assert (
        answers.encode_plaintexts(
            [("AAEC", SecretBytes(b"\x00\xff")), ("+/8=", SecretBytes(b"\xfb\xff"))]
        )
        == b'{"status":"OK","data":{"AAEC":"AP8=","+/8=":"+/8="}}'
    )
    assert (
        answers.encode_keks([("k1", GUIDES_KEY), ("default/key/1", SecretBytes(bytes(32)))])
        == b'{"status":"OK","data":{"k1":"MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMQo=",'
        b'"default/key/1":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}'
    )
    assert answers.resource_info(452) == b'{"status":"OK","data":{"base64size":"452"}}'
    assert answers.resource(SecretBytes(b"\xfb\xff\n")) == b"+/8K"


def test_golden_failures() -> None:
    assert (
        answers.failure(FailureForm.A, 'no key "k"')
        == b'{"status":"Fail","data":{},"error":"no key \\"k\\""}'
    )
    assert answers.failure(FailureForm.B, "nothing") == b'{"status":"Fail","error":"nothing"}'
    assert (
        answers.failure(FailureForm.B_BASE64, "nothing")
        == b"eyJzdGF0dXMiOiJGYWlsIiwiZXJyb3IiOiJub3RoaW5nIn0="
    )


@pytest.mark.parametrize(
    ("blob", "size"),
    [(r"response: (ewog[A-Za-z0-9+/=]+)", 452), (r"response: (LS0t[A-Za-z0-9+/]+=*)", 240)],
)
def test_the_guides_resources(blob: str, size: int) -> None:
    """The guide's policy and cosign key are sent byte for byte, with the size in its log."""
    text = from_guide(blob)
    assert len(text) == size
    content = base64.b64decode(text, validate=True)
    assert answers.base64_size(len(content)) == size
    assert answers.resource(SecretBytes(content)) == text.encode()
    assert f'"base64size":"{size}"'.encode() in answers.resource_info(size)


@given(st.binary(min_size=1, max_size=300) | st.sampled_from([b"x" * 12_288, b"x" * 12_289]))
def test_announced_size_is_the_size_sent(content: bytes) -> None:
    assert len(answers.resource(SecretBytes(content))) == answers.base64_size(len(content))


def test_nothing_cannot_be_fetched() -> None:
    with pytest.raises(StorageError, match="empty"):
        answers.resource_info(0)
    with pytest.raises(StorageError, match="empty"):
        answers.resource(SecretBytes(b""))


@pytest.mark.parametrize(("length", "fits"), [(16_383, True), (16_384, True), (16_385, False)])
def test_the_clients_buffer(length: int, fits: bool) -> None:
    """An answer longer than the client reads is refused, not sent."""
    name = "n" * (length - len('{"status":"OK","data":{"":"AAAA"}}'))
    pairs = [(name, SecretBytes(bytes(3)))]
    for encode in (answers.encode_plaintexts, answers.encode_keks):
        if fits:
            assert len(encode(pairs)) == length
        else:
            with pytest.raises(RequestError, match=f"{length} bytes"):
                encode(pairs)


@given(text=st.text(max_size=3000), form=st.sampled_from(FailureForm))
def test_every_failure_is_short_ascii(text: str, form: FailureForm) -> None:
    """A failure with any text fits one read of the client and is ASCII."""
    answer = answers.failure(form, text)
    assert answer.isascii()
    assert len(answer) < MAX_ANSWER_BYTES
    assert len(answers.failure(form, "\x01" * 100_000)) < MAX_ANSWER_BYTES
    assert answers.failure(form, "\ud800").isascii()
