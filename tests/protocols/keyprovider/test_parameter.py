"""The text after `provider:<name>:`: every form, and every mistake."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.wrapping import Algorithm, KbsUri, parse_key_name
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider import parameter
from verdictd_py.protocols.keyprovider.packet import PacketForm
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, KbsKey, NewKey, Parameter

PATH = KeyId(("default", "key", "1"))
GCM, CTR = Algorithm.AES_GCM, Algorithm.A256CTR


def kbs(
    uri: str = "kbs:///default/key/1", algorithm: Algorithm = GCM, keypath: str | None = None
) -> KbsKey:
    return KbsKey(PATH, uri, algorithm, keypath)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NewKey()),
        ("Enabled", NewKey()),
        (
            "84688df7-2c0c-40fa-956b-29d8e74d16c0",
            ExistingKey(KeyId(("84688df7-2c0c-40fa-956b-29d8e74d16c0",))),
        ),
        ("enabled", ExistingKey(KeyId(("enabled",)))),
        ("default/key/1", ExistingKey(PATH)),
        ("keyid=kbs:///default/key/1::algorithm=A256GCM", kbs()),
        ("keyid=kbs:///default/key/1", kbs()),
        ("algorithm=A256CTR::keyid=kbs:///default/key/1", kbs(algorithm=CTR)),
        ("keyid=kbs://h.example/default/key/1", kbs("kbs://h.example/default/key/1")),
        ("keyid=kbs://h:8080/default/key/1", kbs("kbs://h:8080/default/key/1")),
        ("keyid=/default/key/1", kbs()),
        ("keyid=h.example/default/key/1", kbs("kbs://h.example/default/key/1")),
        ("keyid=kbs+pkcs11:///default/key/1", kbs()),
        ("keyid=kbs+my-plugin://h/default/key/1", kbs("kbs://h/default/key/1")),
        ("keyid=/default/key/1::keypath=/k=1", kbs(keypath="/k=1")),
    ],
)
def test_forms(text: str, expected: Parameter) -> None:
    assert parameter.parse(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample=true::keyid=/default/key/1", "sample="),
        ("keyid=/default/key/1::sample=false", "sample="),
        ("keyid=/default/key/1::color=red", "unknown field 'color'"),
        ("=x", "unknown field ''"),
        ("Keyid=/default/key/1", "unknown field 'Keyid'"),
        ("keyid=/default/key/1::", "name=value"),
        ("keyid=/default/key/1::Enabled", "name=value"),
        ("keyid=/default/key/1::keyid=/default/key/2", "'keyid' twice"),
        ("algorithm=A256GCM", "no keyid="),
        ("keyid=", "URI"),
        ("keyid=k1", "URI"),
        ("keyid=default/key/1", "URI"),
        ("keyid=http://h/default/key/1", "URI"),
        ("keyid=kbs://default/key/1", "URI"),
        ("keyid=kbs://u@h/default/key/1", "URI"),
        ("keyid=kbs://h:123456/default/key/1", "URI"),
        ("keyid=kbs:///default/key/1/2", "URI"),
        ("keyid=kbs:///default/../1", "segment"),
        ("keyid=kbs:///default/key/", "segment"),
        ("keyid=kbs:///default/key/1?a", "segment"),
        ("keyid=kbs:///default/key/1#a", "segment"),
        ("keyid=kbs:///default/key/%31", "segment"),
        ("keyid=/default/key/1::algorithm=AES", "unsupported algorithm 'AES'"),
        ("keyid=/default/key/1::algorithm=", "unsupported algorithm ''"),
        ("keyid=/default/key/1::keypath=", "keypath="),
        ("keyid=/default/key/1::keypath=/a\0b", "keypath="),
        ("../../../etc/shadow", "not the name of a key"),
        ("kbs:///default/key/1", "write a URI as keyid="),
        ("a b", "not the name of a key"),
        ("x" * 256, "not the name of a key"),
        ("x" * 4097, "longer than 4096"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """The error names the mistake; names outside the alphabet are refused (defects.md 1)."""
    with pytest.raises(RequestError) as caught:
        parameter.parse(text.encode())
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_a_parameter_means_for_the_packet() -> None:
    plain = ExistingKey(KeyId(("k1",)))
    assert (plain.form, plain.kid, plain.algorithm) == (PacketForm.LEGACY, "k1", GCM)
    uri = kbs("kbs://h/default/key/1", CTR)
    assert (uri.form, uri.kid, uri.algorithm) == (PacketForm.V1, "kbs://h/default/key/1", CTR)


@given(st.binary(max_size=60) | st.text(alphabet="keyidkbs=:/.[]1 ", max_size=40).map(str.encode))
def test_arbitrary_bytes_raise_only_request_errors(data: bytes) -> None:
    for prefix in (b"", b"keyid=", b"keyid=kbs://", b"keyid=/a/b/c::"):
        with suppress(RequestError):
            parsed = parameter.parse(prefix + data)
            if isinstance(parsed, KbsKey):
                assert parsed.kid.isascii()
                assert '"' not in parsed.kid
                assert "\\" not in parsed.kid
                assert parse_key_name(parsed.kid) == parsed.key_id


_SEGMENT = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,20}", fullmatch=True)
_HOST = st.sampled_from(["", "h", "broker.example:8080", "10.0.0.1", "[fe80::1]:443"])


@given(host=_HOST, segments=st.tuples(_SEGMENT, _SEGMENT, _SEGMENT))
def test_uris_keep_their_key_and_host(host: str, segments: tuple[str, str, str]) -> None:
    uri = KbsUri(host, KeyId(segments))
    path = "/".join(segments)
    spellings = (f"kbs://{host}/{path}", f"kbs+p://{host}/{path}", f"{host}/{path}")
    for text in spellings:
        assert KbsUri.parse(text) == uri
        assert parse_key_name(text) == uri.key_id
    assert str(uri) == spellings[0]
    assert parse_key_name(path) == uri.key_id
