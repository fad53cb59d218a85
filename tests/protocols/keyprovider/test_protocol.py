"""ocicrypt's input and output: golden bytes, tolerances, refusals, and redacted secrets."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import from_guide
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.packet import (
    MAX_OPTSDATA_BYTES,
    AnnotationPacket,
    PacketForm,
)
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, NewKey
from verdictd_py.protocols.keyprovider.protocol import UnwrapRequest, WrapRequest

K1 = ExistingKey(KeyId(("k1",)))
OPTSDATA = b'{"symkey":"c2VjcmV0"}'


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def wrap_json(parameters: object, optsdata: object = b64(OPTSDATA)) -> bytes:
    return json.dumps(
        {
            "op": "keywrap",
            "keywrapparams": {
                "ec": {"Parameters": parameters, "DecryptConfig": {"Parameters": {}}},
                "optsdata": optsdata,
            },
            "keyunwrapparams": {"dc": None, "annotation": None},
        }
    ).encode()


def unwrap_json(parameters: object, annotation: object = b64(b"packet")) -> bytes:
    return json.dumps(
        {
            "op": "keyunwrap",
            "keywrapparams": {"ec": None, "optsdata": None},
            "keyunwrapparams": {"dc": {"Parameters": parameters}, "annotation": annotation},
        }
    ).encode()


def test_golden_inputs() -> None:
    wrap = (
        b'{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"attestation-agent":["azE="]},'
        b'"DecryptConfig":{"Parameters":{}}},"optsdata":"AAEC"},'
        b'"keyunwrapparams":{"dc":null,"annotation":null}}'
    )
    expected = WrapRequest(K1, SecretBytes(b"\0\1\2"))
    assert protocol.decode(wrap, provider=None) == expected
    assert protocol.decode_wrap(wrap, provider="attestation-agent") == expected
    unwrap = (
        b'{"op":"keyunwrap","keywrapparams":{"ec":null,"optsdata":null},"keyunwrapparams":'
        b'{"dc":{"Parameters":{"attestation-agent":["RW5hYmxlZA=="]}},"annotation":"e30="}}'
    )
    opened = UnwrapRequest(b"{}")
    assert protocol.decode(unwrap, provider=None) == opened
    assert protocol.decode_unwrap(unwrap) == opened


def test_golden_outputs() -> None:
    blob = WrappedBlob(KeyId(("k1",)), Algorithm.AES_GCM, b"\1", b"\2")
    packet = AnnotationPacket(PacketForm.LEGACY, "k1", blob)
    written = '{"kid":"k1","wrapped_data":[2],"iv":[1],"algorithm":"AES","key_length":256}'
    assert (
        protocol.encode_wrapped(packet)
        == b'{"keywrapresults":{"annotation":"' + b64(written).encode() + b'"}}'
    )
    assert (
        protocol.encode_unwrapped(SecretBytes(b"\xfb\xff\n"))
        == b'{"keyunwrapresults":{"optsdata":"+/8K"}}'
    )


def test_the_guides_wrap() -> None:
    """The request in the guide's log, as ocicrypt sends it, is decoded."""
    parameter = from_guide(r'"attestation-agent": \["([A-Za-z0-9+/=]+)"\]')
    optsdata = from_guide(r'optsdata: Some\("([A-Za-z0-9+/=]+)"\)')
    assert parameter.startswith("ODQ2ODhk")
    request = protocol.decode_wrap(
        wrap_json({"attestation-agent": [parameter]}, optsdata), provider=None
    )
    assert request.parameter == ExistingKey(KeyId(("84688df7-2c0c-40fa-956b-29d8e74d16c0",)))
    assert request.optsdata.reveal() == base64.b64decode(optsdata)
    assert json.loads(request.optsdata.reveal()).keys() == {"symkey", "digest", "cipheroptions"}


@pytest.mark.parametrize(
    ("parameters", "configured"),
    [
        ({"attestation-agent": [b64("k1")]}, None),
        ({"eaa": [b64("k1")]}, None),
        ({"eaa": [b64("k1")]}, "eaa"),
        ({"eaa": [b64("other")], "attestation-agent": [b64("k1")]}, None),
        ({"eaa": [b64("k1")], "attestation-agent": [b64("other")]}, "eaa"),
        ({"eaa": [b64("k1")], "pubkeys": ["!"], "x509s": []}, None),
        ({"eaa": [b64("k1"), b64("k2")]}, None),
        ({"eaa": [list(b"k1")]}, None),
    ],
)
def test_which_provider(parameters: object, configured: str | None) -> None:
    request = protocol.decode_wrap(wrap_json(parameters), provider=configured)
    assert request.parameter == K1


@pytest.mark.parametrize("value", ["", None, b64("Enabled"), []])
def test_no_parameter_is_a_new_key(value: object) -> None:
    request = protocol.decode_wrap(wrap_json({"attestation-agent": [value]}), provider=None)
    assert request.parameter == NewKey()


@pytest.mark.parametrize("optsdata", [b64(OPTSDATA), list(OPTSDATA)])
def test_optsdata_as_text_or_integers(optsdata: object) -> None:
    request = protocol.decode_wrap(wrap_json({"a": [b64("k1")]}, optsdata), provider=None)
    assert request.optsdata == SecretBytes(OPTSDATA)


@pytest.mark.parametrize(
    ("data", "configured", "message"),
    [
        (b"", None, "not valid JSON"),
        (b"{", None, "not valid JSON"),
        (b"\xff", None, "not UTF-8"),
        (b"[]", None, "is not a JSON object"),
        (b"{}", None, "op is neither"),
        (b'{"op":"KeyWrap"}', None, "op is neither"),
        (b'{"op":"keywrap"}', None, "named: none"),
        (b'{"op":"keywrap","keywrapparams":[]}', None, "keywrapparams is not an object"),
        (b'{"op":"keywrap","keywrapparams":{"ec":null,"optsdata":"AA=="}}', None, "named: none"),
        (b'{"op":"keywrap","keywrapparams":{"ec":7}}', None, "ec is not an object"),
        (wrap_json([]), None, "Parameters is not an object"),
        (wrap_json({"pubkeys": [""]}), None, "named: none"),
        (wrap_json({"a": [""], "b": [""]}), None, "(named: 'a', 'b')"),
        (wrap_json({"a": [""]}), "eaa", "does not name the provider 'eaa' (named: 'a')"),
        (wrap_json({"a": []}), None, "'a' has no parameter"),
        (wrap_json({"a": None}), None, "'a' has no parameter"),
        (wrap_json({"a": "azE="}), None, "'a' has no parameter"),
        (wrap_json({"a": ["%"]}), None, "parameter is not padded"),
        (wrap_json({"a": [{}]}), None, "parameter is missing"),
        (wrap_json({"a": [b64(b"\xff")]}), None, "parameter is not UTF-8"),
        (wrap_json({"a": [b64("x" * 5000)]}), None, "5000 bytes"),
        (wrap_json({"a": [""]}, None), None, "optsdata is missing"),
        (wrap_json({"a": [""]}, 7), None, "optsdata is missing"),
        (wrap_json({"a": [""]}, "A"), None, "optsdata is not padded"),
        (wrap_json({"a": [""]}, [256]), None, "optsdata has elements"),
        (unwrap_json({"a": [""]}), None, "wrapping needs"),
        (b" " * (protocol.MAX_INPUT_BYTES + 1), None, "longer than"),
    ],
)
def test_refused_wraps(data: bytes, configured: str | None, message: str) -> None:
    """Malformed and ambiguous input is refused with the cause (defects.md 3, 4)."""
    with pytest.raises(RequestError) as caught:
        protocol.decode_wrap(data, provider=configured)
    assert message in str(caught.value)


@pytest.mark.parametrize("form", [list, b64])
def test_largest_optsdata(form: Any) -> None:
    fits = wrap_json({"a": [""]}, form(b"\xff" * MAX_OPTSDATA_BYTES))
    assert len(protocol.decode_wrap(fits, provider=None).optsdata) == MAX_OPTSDATA_BYTES
    with pytest.raises(RequestError, match="at most 1048576"):
        protocol.decode_wrap(
            wrap_json({"a": [""]}, form(b"\xff" * (MAX_OPTSDATA_BYTES + 1))), provider=None
        )


@pytest.mark.parametrize(
    "data",
    [
        unwrap_json({"eaa": ["RW5hYmxlZA=="]}),
        unwrap_json({"eaa": ["RW5hYmxlZA=="]}, list(b"packet")),
        unwrap_json({"eaa": [""], "attestation-agent": [""]}),
        unwrap_json({"eaa": [""], "b": [""]}),
        unwrap_json({"privkeys": ["!"]}),
        unwrap_json(None),
        b'{"op":"keyunwrap","keyunwrapparams":{"dc":null,"annotation":"cGFja2V0"}}',
    ],
)
def test_unwraps(data: bytes) -> None:
    """The packet decides, so a decryption tool may name any provider or none."""
    request = protocol.decode_unwrap(data)
    assert request.annotation == b"packet"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"op":"keyunwrap"}', "annotation is missing"),
        (unwrap_json({}, None), "annotation is missing"),
        (unwrap_json({}, ""), "annotation is empty"),
        (unwrap_json({}, "%%%%"), "annotation is not padded"),
        (unwrap_json({}, [0, 999]), "annotation has elements"),
        (wrap_json({"a": [""]}), "unwrapping needs"),
    ],
)
def test_refused_unwraps(data: bytes, message: str) -> None:
    """Malformed input is refused with the cause (defects.md 3, 4)."""
    with pytest.raises(RequestError) as caught:
        protocol.decode_unwrap(data)
    assert message in str(caught.value)


@pytest.mark.parametrize("secret", ["c2VjcmV0LWtleQ", "secret-key\n", "geheim\x00"])
def test_no_error_and_no_repr_shows_the_layer_key(secret: str) -> None:
    """No error about the input discloses optsdata (defects.md 2)."""
    good = wrap_json({"a": [b64("k1")]}, b64(secret))
    assert secret.strip() not in repr(protocol.decode(good, provider=None))
    assert b64(secret) not in repr(protocol.decode(good, provider=None))
    spoiled = [
        wrap_json({"a": [b64("k1")]}, secret + "!"),
        wrap_json({"a": ["%"]}, b64(secret)),
        good[:-1],
        good[:-60],
        good + b"}",
        good.replace(b'"keywrap"', b'"other"'),
        good.replace(b'"ec"', b'"\xff"'),
    ]
    for data in spoiled:
        with pytest.raises(RequestError) as caught:
            protocol.decode(data, provider=None)
        message = str(caught.value) + repr(caught.value)
        assert secret.strip() not in message
        assert b64(secret)[:8] not in message
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("azE="),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["op", "ec", "dc", "Parameters", "optsdata", "annotation", "attestation-agent"]
            ),
            inner,
        )
    ),
    max_leaves=8,
)


@given(
    data=st.binary(max_size=60)
    | st.fixed_dictionaries(
        {"op": st.sampled_from(["keywrap", "keyunwrap"]) | _JSON},
        optional={"keywrapparams": _JSON, "keyunwrapparams": _JSON},
    ).map(lambda members: json.dumps(members).encode()),
    configured=st.sampled_from([None, "eaa"]),
)
def test_arbitrary_bytes_raise_only_request_errors(data: bytes, configured: str | None) -> None:
    with suppress(RequestError):
        protocol.decode(data, provider=configured)
