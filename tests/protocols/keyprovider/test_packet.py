"""Golden bytes of both packet forms, and decoding of packets from other tools."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider import packet
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket, PacketForm

IV = bytes(range(12))
DATA = b"\x00\xfb\xff"
LEGACY = (
    b'{"kid":"k1","wrapped_data":[0,251,255],"iv":[0,1,2,3,4,5,6,7,8,9,10,11],'
    b'"algorithm":"AES","key_length":256}'
)
V1 = (
    b'{"kid":"kbs:///default/key/1","wrapped_data":"APv/","iv":"AAECAwQFBgcICQoL",'
    b'"wrap_type":"A256GCM"}'
)
PATH = KeyId(("default", "key", "1"))


def blob(key_id: KeyId = PATH, algorithm: Algorithm = Algorithm.AES_GCM) -> WrappedBlob:
    return WrappedBlob(key_id, algorithm, IV, DATA)


LEGACY_PACKET = AnnotationPacket(PacketForm.LEGACY, "k1", blob(KeyId(("k1",))))
V1_PACKET = AnnotationPacket(PacketForm.V1, "kbs:///default/key/1", blob())


@pytest.mark.parametrize(("data", "expected"), [(LEGACY, LEGACY_PACKET), (V1, V1_PACKET)])
def test_golden_bytes(data: bytes, expected: AnnotationPacket) -> None:
    """Packets are compact JSON in the expected order, without escapes in the kid."""
    assert expected.encode() == data
    assert AnnotationPacket.decode(data) == expected


def test_ctr_is_written_by_its_name() -> None:
    ctr = AnnotationPacket(PacketForm.V1, "kbs:///default/key/1", blob(PATH, Algorithm.A256CTR))
    assert ctr.encode() == V1.replace(b"GCM", b"CTR")
    assert AnnotationPacket.decode(ctr.encode()) == ctr


def changed(data: bytes, **changes: object) -> bytes:
    """Return the packet with changed members; `...` removes one."""
    members = {**json.loads(data), **changes}
    return json.dumps({k: v for k, v in members.items() if v is not ...}, indent=1).encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (changed(LEGACY, iv="AAECAwQFBgcICQoL", wrapped_data="APv/"), LEGACY_PACKET),
        (changed(V1, iv=list(IV), wrapped_data=list(DATA)), V1_PACKET),
        (changed(LEGACY, key_length=...), LEGACY_PACKET),
        (changed(V1, algorithm="AES", key_length=256), V1_PACKET),
        (changed(V1, wrap_type="AES"), V1_PACKET),
        (changed(V1, kid="/default/key/1"), V1_PACKET),
        (changed(V1, kid="default/key/1"), V1_PACKET),
        (changed(V1, kid="kbs+pkcs11:///default/key/1"), V1_PACKET),
        (
            changed(V1, kid="h:1/default/key/1"),
            AnnotationPacket(PacketForm.V1, "kbs://h:1/default/key/1", blob()),
        ),
        (changed(V1, kid="k1"), AnnotationPacket(PacketForm.V1, "k1", blob(KeyId(("k1",))))),
        (
            changed(LEGACY, kid="default/key/1"),
            AnnotationPacket(PacketForm.LEGACY, "default/key/1", blob()),
        ),
        (
            changed(
                V1, version="0.1.0", provider="kbs", provider_settings={}, annotations={"a": [1]}
            ),
            V1_PACKET,
        ),
        (changed(V1, provider=None, more=True), V1_PACKET),
    ],
)
def test_tolerated(data: bytes, expected: AnnotationPacket) -> None:
    assert AnnotationPacket.decode(data) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b"\xff", "not UTF-8"),
        (V1 + b"x", "not valid JSON"),
        (changed(V1, kid=...), "kid is missing"),
        (changed(V1, kid=1), "kid is missing"),
        (changed(V1, kid="../../../etc/shadow"), "segment"),
        (changed(V1, kid="a\nb"), "segment"),
        (changed(V1, iv=...), "iv is missing"),
        (changed(V1, iv="A"), "iv is not padded"),
        (changed(V1, iv=list(range(65))), "iv is 65 bytes"),
        (changed(V1, wrapped_data=None), "wrapped_data is missing"),
        (changed(V1, wrapped_data={}), "wrapped_data is missing"),
        (changed(LEGACY, wrapped_data=[256]), "not bytes"),
        (changed(LEGACY, wrapped_data=[-1]), "not bytes"),
        (changed(LEGACY, wrapped_data=[True]), "not bytes"),
        (changed(LEGACY, wrapped_data=[1.0]), "not bytes"),
        (changed(LEGACY, wrapped_data=["1"]), "not bytes"),
        (changed(LEGACY, key_length=128), "key_length"),
        (changed(LEGACY, key_length=True), "key_length"),
        (changed(LEGACY, algorithm=...), "algorithm is missing"),
        (changed(V1, wrap_type="A128GCM"), "unsupported algorithm 'A128GCM'"),
        (changed(V1, wrap_type=7), "wrap_type is missing"),
        (changed(V1, algorithm="A256CTR"), "differ"),
        (changed(V1, provider="aliyun"), "provider 'aliyun'"),
        (changed(V1, provider=["kbs"]), "not a string"),
        (b" " * (packet.MAX_PACKET_BYTES + 1), "longer than"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """Malformed packets and kids outside the alphabet are refused (defects.md 1, 4)."""
    with pytest.raises(RequestError) as caught:
        AnnotationPacket.decode(data)
    assert message in str(caught.value)
    assert "etc" not in str(caught.value)


def test_largest() -> None:
    """The largest plaintext fits a packet of either form, one byte more does not."""
    for form, kid in ((PacketForm.LEGACY, "default/key/1"), (PacketForm.V1, "/default/key/1")):
        for size, fits in ((packet.MAX_WRAPPED_BYTES, True), (packet.MAX_WRAPPED_BYTES + 1, False)):
            big = WrappedBlob(PATH, Algorithm.AES_GCM, IV, b"\xff" * size)
            data = AnnotationPacket(form, kid, big).encode()
            if fits:
                assert AnnotationPacket.decode(data).blob == big
            else:
                with pytest.raises(RequestError, match="at most"):
                    AnnotationPacket.decode(data)


def test_kid_and_key_are_the_same_key() -> None:
    with pytest.raises(ValueError, match="another key"):
        AnnotationPacket(PacketForm.LEGACY, "k2", blob(KeyId(("k1",))))


_VALUES: Any = (
    st.none()
    | st.integers()
    | st.text(max_size=6)
    | st.binary(max_size=20).map(lambda b: base64.b64encode(b).decode())
    | st.lists(st.integers(-1, 256), max_size=5)
    | st.sampled_from(["AES", "A256CTR", "kbs", "k1", "/a/b/c"])
)


@given(
    data=st.binary(max_size=80)
    | st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["kid", "wrapped_data", "iv", "algorithm", "wrap_type", "key_length", "provider"],
            _VALUES,
        ),
    ).map(lambda members: json.dumps(members).encode())
)
def test_arbitrary_bytes_raise_only_request_errors(data: bytes) -> None:
    with suppress(RequestError):
        packet = AnnotationPacket.decode(data)
        assert AnnotationPacket.decode(packet.encode()) == packet


@given(
    algorithm=st.sampled_from(Algorithm),
    form=st.sampled_from(PacketForm),
    ciphertext=st.binary(max_size=50),
    iv=st.binary(max_size=16),
)
def test_round_trip(algorithm: Algorithm, form: PacketForm, ciphertext: bytes, iv: bytes) -> None:
    sent = AnnotationPacket(
        form, "kbs:///a/b/c", WrappedBlob(KeyId(("a", "b", "c")), algorithm, iv, ciphertext)
    )
    assert AnnotationPacket.decode(sent.encode()) == sent
