"""Requests of all three generations, and every mistake in them."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import RequestError
from verdictd_py.protocols.eaa import messages
from verdictd_py.protocols.eaa.answers import FailureForm
from verdictd_py.protocols.eaa.messages import (
    MAX_BLOBS,
    MAX_KIDS,
    Blob,
    Decrypt,
    Echo,
    GetKek,
    GetResource,
    GetResourceInfo,
    Kid,
    MalformedRequest,
    Request,
    Unknown,
    Version,
)

KID = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
DATA = bytes(range(40))
IV = bytes(12)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def blob(**changes: object) -> dict[str, Any]:
    """Return a valid blob with changed members; `...` removes one."""
    members: dict[str, object] = {
        "kid": KID,
        "encrypted_data": b64(DATA),
        "algorithm": "AES",
        "key_length": 256,
        "iv": b64(IV),
        **changes,
    }
    return {name: value for name, value in members.items() if value is not ...}


def command(name: str, **members: Any) -> dict[str, Any]:
    return {"command": name, **members}


def parse(text: str) -> Request:
    return messages.parse(json.loads(text))


POLICY = ResourcePath(("default", "security-policy", "test"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"command":"version"}', Version()),
        ('{"command":"echo","data":"x"}', Echo("x")),
        ('{"command":"echo","data":""}', Echo("")),
        (
            '{"command":"Get KEK","kids":["k1","default/key/1"]}',
            GetKek(
                (Kid("k1", KeyId(("k1",))), Kid("default/key/1", KeyId(("default", "key", "1"))))
            ),
        ),
        ('{"command":"Get KEK","kids":["k1","k1"]}', GetKek((Kid("k1", KeyId(("k1",))),))),
        ('{"command":"Get Resource Info","name":"Policy"}', GetResourceInfo(POLICY)),
        (
            '{"command":"Get Resource Info","name":"default/security-policy/test"}',
            GetResourceInfo(POLICY),
        ),
        ('{"command":"Get Policy","optional":{}}', GetResource(POLICY)),
        ('{"command":"Get Policy"}', GetResource(POLICY)),
        (
            '{"command":"Get Sigstore Config","optional":{}}',
            GetResource(ResourcePath(("default", "sigstore-config", "test"))),
        ),
        (
            '{"command":"Get GPG Keyring","optional":{}}',
            GetResource(ResourcePath(("default", "gpg-public-config", "test"))),
        ),
        (
            '{"command":"Get Cosign Key","optional":{}}',
            GetResource(ResourcePath(("default", "cosign-public-key", "test"))),
        ),
        (
            '{"command":"Get Credential","optional":{}}',
            GetResource(ResourcePath(("default", "credential", "test"))),
        ),
        (
            '{"command":"Get default/some-type/1.0","optional":{}}',
            GetResource(ResourcePath(("default", "some-type", "1.0"))),
        ),
        (
            '{"command":"Get Resource","optional":{"resource_path":"default/type/tag"}}',
            GetResource(ResourcePath(("default", "type", "tag"))),
        ),
        ('{"command":"Get Nothing"}', Unknown("Get Nothing")),
        ('{"command":"VERSION"}', Unknown("VERSION")),
        ('{"command":""}', Unknown("")),
        ('{"command":"Get "}', Unknown("Get ")),
    ],
)
def test_commands(text: str, expected: Request) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("members", "form"),
    [
        ({"command": "version"}, FailureForm.VERSION),
        ({"command": "echo", "data": "x"}, FailureForm.A),
        ({"command": "Decrypt", "blobs": [blob()]}, FailureForm.A),
        ({"command": "Get KEK", "kids": ["k"]}, FailureForm.A),
        ({"command": "nonsense"}, FailureForm.A),
        ({"command": "Get Resource Info", "name": "Policy"}, FailureForm.B),
        ({"command": "Get Policy"}, FailureForm.B_BASE64),
        ({"command": "Get a/b/c"}, FailureForm.B_BASE64),
        ({"command": "Get Resource", "optional": {"resource_path": "a/b/c"}}, FailureForm.B_BASE64),
    ],
)
def test_failure_form_of_good_requests(members: dict[str, Any], form: FailureForm) -> None:
    assert messages.parse(members).failure_form is form


@pytest.mark.parametrize(
    ("kid", "key_id"),
    [
        (KID, (KID,)),
        ("any file name".replace(" ", "_"), ("any_file_name",)),
        ("default/key/1", ("default", "key", "1")),
        ("kbs:///default/key/1", ("default", "key", "1")),
        ("kbs://broker.example:8080/default/key/1", ("default", "key", "1")),
        ("kbs+pkcs11:///default/key/1", ("default", "key", "1")),
        ("/default/key/1", ("default", "key", "1")),
    ],
)
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("AES", Algorithm.AES_GCM), ("A256GCM", Algorithm.AES_GCM), ("A256CTR", Algorithm.A256CTR)],
)
def test_every_algorithm_with_every_kid(
    kid: str, key_id: tuple[str, ...], name: str, algorithm: Algorithm
) -> None:
    request = messages.parse(command("Decrypt", blobs=[blob(kid=kid, algorithm=name)]))
    wrapped = WrappedBlob(KeyId(key_id), algorithm, IV, DATA)
    assert request == Decrypt((Blob(kid, b64(DATA), wrapped),))


@pytest.mark.parametrize("key_length", [256, None, ...])
def test_key_length_may_be_missing(key_length: object) -> None:
    members = command("Decrypt", blobs=[blob(key_length=key_length)])
    assert isinstance(messages.parse(members), Decrypt)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "'blobs' is missing"),
        ({"blobs": None}, "'blobs' is missing"),
        ({"blobs": {}}, "not an array"),
        ({"blobs": []}, "empty"),
        ({"blobs": ["x"]}, "blob 0 is not an object"),
        ({"blobs": [blob(), blob(kid=...)]}, "blob 1: kid: 'kid' is missing"),
        ({"blobs": [blob(kid=1)]}, "blob 0: kid"),
        ({"blobs": [blob(kid="../../../etc/shadow")]}, "blob 0: kid: a"),
        ({"blobs": [blob(kid="kbs:///../../x")]}, "blob 0: kid: a segment"),
        ({"blobs": [blob(encrypted_data=...)]}, f"{KID}: 'encrypted_data' is missing"),
        ({"blobs": [blob(encrypted_data="***")]}, f"{KID}: 'encrypted_data' is not padded"),
        ({"blobs": [blob(encrypted_data="AAA")]}, f"{KID}: 'encrypted_data' is not padded"),
        ({"blobs": [blob(encrypted_data="AA==\n")]}, f"{KID}: 'encrypted_data' is not padded"),
        ({"blobs": [blob(encrypted_data="ÄÄÄÄ")]}, f"{KID}: 'encrypted_data' is not padded"),
        ({"blobs": [blob(encrypted_data="__--")]}, f"{KID}: 'encrypted_data' is not padded"),
        ({"blobs": [blob(iv="A")]}, f"{KID}: 'iv' is not padded"),
        ({"blobs": [blob(iv=[0] * 12)]}, f"{KID}: 'iv' is missing or not a string"),
        ({"blobs": [blob(algorithm="ROT13")]}, f"{KID}: unsupported algorithm 'ROT13'"),
        ({"blobs": [blob(algorithm=...)]}, f"{KID}: 'algorithm' is missing"),
        ({"blobs": [blob(key_length=128)]}, f"{KID}: 'key_length' is not 256"),
        ({"blobs": [blob(key_length="256")]}, f"{KID}: 'key_length' is not 256"),
        ({"blobs": [blob(key_length=256.0)]}, f"{KID}: 'key_length' is not 256"),
        ({"blobs": [blob()] * (MAX_BLOBS + 1)}, "at most 64"),
        ({"blobs": [blob(), blob(kid="other")]}, "other': another blob"),
        ({"blobs": [blob(), blob(iv=b64(b"x" * 12))]}, "another blob"),
    ],
)
def test_malformed_decrypt(members: dict[str, Any], message: str) -> None:
    """Malformed parameters are answered in form A and say what is wrong (defects.md 1, 4)."""
    with pytest.raises(MalformedRequest) as caught:
        messages.parse({"command": "Decrypt", **members})
    assert message in str(caught.value)
    assert caught.value.failure_form is FailureForm.A


def test_blobs_sent_twice_are_one() -> None:
    request = messages.parse({"command": "Decrypt", "blobs": [blob(), blob()]})
    assert isinstance(request, Decrypt)
    assert len(request.blobs) == 1


@pytest.mark.parametrize(
    ("members", "form", "message"),
    [
        ({"command": "echo"}, FailureForm.A, "'data'"),
        ({"command": "echo", "data": 1}, FailureForm.A, "'data'"),
        ({"command": "Get KEK"}, FailureForm.A, "'kids'"),
        ({"command": "Get KEK", "kids": "k1"}, FailureForm.A, "'kids'"),
        ({"command": "Get KEK", "kids": []}, FailureForm.A, "'kids'"),
        ({"command": "Get KEK", "kids": ["k", 1]}, FailureForm.A, "kid 1 is not a string"),
        ({"command": "Get KEK", "kids": ["../x"]}, FailureForm.A, "kid 0: "),
        ({"command": "Get KEK", "kids": ["k"] * (MAX_KIDS + 1)}, FailureForm.A, "at most 256"),
        ({"command": "Get Resource Info"}, FailureForm.B, "'name'"),
        ({"command": "Get Resource Info", "name": "x"}, FailureForm.B, "<repository>"),
        ({"command": "Get Resource Info", "name": "a/../c"}, FailureForm.B, "segment"),
        ({"command": "Get Resource"}, FailureForm.B_BASE64, "'optional'"),
        ({"command": "Get Resource", "optional": []}, FailureForm.B_BASE64, "'optional'"),
        ({"command": "Get Resource", "optional": {}}, FailureForm.B_BASE64, "'resource_path'"),
        (
            {"command": "Get Resource", "optional": {"resource_path": "../../etc"}},
            FailureForm.B_BASE64,
            "segment",
        ),
        ({"command": "Get ../../etc/shadow"}, FailureForm.B_BASE64, "one segment, or three"),
        ({"command": "Get a/b"}, FailureForm.B_BASE64, "one segment, or three"),
    ],
)
def test_malformed_parameters(members: dict[str, Any], form: FailureForm, message: str) -> None:
    """Each known command fails in the form that its client reads (defects.md 1, 4)."""
    with pytest.raises(MalformedRequest) as caught:
        messages.parse(members)
    assert caught.value.failure_form is form
    assert message in str(caught.value)
    assert "etc" not in str(caught.value)


@pytest.mark.parametrize("members", [{}, {"command": None}, {"command": 1}, {"command": ["x"]}])
def test_missing_command(members: dict[str, Any]) -> None:
    """A request without a string `command` closes the connection (defects.md 4)."""
    with pytest.raises(RequestError) as caught:
        messages.parse(members)
    assert not isinstance(caught.value, MalformedRequest)


def test_unknown_commands_are_named_briefly() -> None:
    text = Unknown("no\nsuch" + "x" * 1000).text
    assert text.startswith("unknown command 'no\\nsuch")
    assert len(text) < 120


def decrypt_answer_of(size: int) -> dict[str, Any]:
    """Return a `Decrypt` with one CTR blob whose answer has `size` bytes, or as many as fit."""
    frame = len('{"status":"OK","data":{"":""}}')
    half, odd = divmod(size - frame, 2)
    assert not odd
    assert half % 4 == 0
    data = bytes(half // 4 * 3)
    return {"command": "Decrypt", "blobs": [blob(algorithm="A256CTR", encrypted_data=b64(data))]}


def test_decrypt_whose_answer_cannot_be_read_is_refused_before_anything_is_opened() -> None:
    """The client reads 16384 bytes: an answer of that size fits, and a longer one does not."""
    assert isinstance(messages.parse(decrypt_answer_of(16_382)), Decrypt)
    with pytest.raises(MalformedRequest, match="16390 bytes"):
        messages.parse(decrypt_answer_of(16_390))
    short_tag = blob(encrypted_data=b64(b"short"))
    assert isinstance(messages.parse({"command": "Decrypt", "blobs": [short_tag]}), Decrypt)


@pytest.mark.parametrize(("length", "fits"), [(16_383, True), (16_384, True), (16_385, False)])
def test_keks_whose_answer_cannot_be_read(length: int, fits: bool) -> None:
    frame = len('{"status":"OK","data":{}}') - 1  # the last pair has no comma
    entry_bytes = len('"":"",') + 44
    kids = [f"{n:0120d}" for n in range(93)]
    left = length - frame - sum(len(kid) + entry_bytes for kid in kids)
    kids += ["k" * (left // 2 - entry_bytes), "l" * (left - left // 2 - entry_bytes)]
    members = command("Get KEK", kids=kids)
    if fits:
        assert isinstance(messages.parse(members), GetKek)
    else:
        with pytest.raises(MalformedRequest, match=f"{length} bytes"):
            messages.parse(members)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
_COMMANDS = st.sampled_from(
    ["version", "echo", "Decrypt", "Get KEK", "Get Resource Info", "Get Resource", "Get Policy"]
) | st.text(max_size=10)


@given(
    named=_COMMANDS | _JSON,
    members=st.fixed_dictionaries(
        {},
        optional={
            "data": _JSON,
            "name": _JSON,
            "kids": _JSON,
            "optional": _JSON,
            "blobs": st.lists(
                st.fixed_dictionaries(
                    {},
                    optional={name: _JSON | st.just(value) for name, value in blob().items()},
                )
            ),
        },
    ),
)
def test_arbitrary_members_raise_only_request_errors(named: Any, members: dict[str, Any]) -> None:
    expected = MalformedRequest if isinstance(named, str) else RequestError
    with suppress(expected):
        assert isinstance(messages.parse({"command": named, **members}), Request)
