"""The management services, with bytes written by hand from upstream's field numbers."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator

import grpc
import pytest
from pysequoia import Tsk

from tests.support.broker import KEY, KID, RunningBroker

POLICY = (
    "package policy\n\nimport rego.v1\n\ndefault allow := false\n\nallow if input.debug == false\n"
)
BOMB = (
    "package policy\nimport rego.v1\n\ndefault allow := false\n\n"
    "allow if count([1 | some a in n; some b in n; some c in n; a * b == c + 0.5]) > 1\n"
    f"n := [{','.join(map(str, range(1000)))}]\n"
)


def field(number: int, value: bytes | str | bool) -> bytes:
    """Return a field as protobuf encodes it: bytes and text length-delimited, bool as varint."""
    if isinstance(value, bool):
        return bytes([number << 3, int(value)])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def fields(message: bytes) -> dict[int, bytes]:
    """Return the length-delimited fields of an answer by number."""
    return dict(_fields(message))


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(message):
        number, kind = message[at] >> 3, message[at] & 7
        assert kind == 2
        length, shift = 0, 0
        while True:
            at += 1
            length |= (message[at] & 0x7F) << shift
            shift += 7
            if message[at] < 0x80:
                break
        at += 1
        yield number, message[at : at + length]
        at += length


async def call(broker: RunningBroker, method: str, *parts: bytes) -> dict[int, bytes]:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        answer = await channel.unary_unary(f"/clientapi.{method}", None, None)(b"".join(parts))
    assert isinstance(answer, bytes)
    return fields(answer)


async def refused(broker: RunningBroker, method: str, *parts: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(broker, method, *parts)
    return caught.value.code(), caught.value.details() or ""


async def test_keys_are_created_read_and_deleted(broker: RunningBroker) -> None:
    """defects.md 12: DeleteKey deletes."""
    made = await call(broker, "KeyManagerService/CreateKey")
    assert made[1] == b"OK"
    kid = made[2].decode()
    stored = (broker.data / "keys" / kid).read_bytes()
    got = await call(broker, "KeyManagerService/GetKey", field(1, kid))
    assert got == {1: b"OK", 2: base64.b64encode(stored)}
    assert await call(broker, "KeyManagerService/DeleteKey", field(1, kid)) == {1: b"OK"}
    assert not (broker.data / "keys" / kid).exists()
    code, _ = await refused(broker, "KeyManagerService/DeleteKey", field(1, kid))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_key_of_a_given_name_is_never_overwritten(broker: RunningBroker) -> None:
    made = await call(broker, "KeyManagerService/CreateKey", field(1, "default/key/1"))
    assert made == {1: b"OK", 2: b"default/key/1"}
    code, _ = await refused(broker, "KeyManagerService/CreateKey", field(1, KID))
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert (broker.data / "keys" / KID).read_bytes() == KEY


@pytest.mark.parametrize("name", ["../x", "", "a/b", "\xff"])
async def test_a_bad_name_is_refused(broker: RunningBroker, name: str) -> None:
    code, _ = await refused(broker, "KeyManagerService/GetKey", field(1, name.encode("latin-1")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_resources_are_set_and_read_and_keys_are_not_among_them(
    broker: RunningBroker,
) -> None:
    path = field(1, "default/secret/1")
    assert await call(broker, "ResourceService/SetResource", path, field(2, b"\x00x")) == {}
    assert await call(broker, "ResourceService/GetResource", path) == {1: b"\x00x"}
    await call(broker, "KeyManagerService/CreateKey", field(1, "default/key/1"))
    code, _ = await refused(broker, "ResourceService/GetResource", field(1, "default/key/1"))
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("path", ["a", "a/b", "../a/b", "a/b/..", ""])
async def test_a_bad_path_is_refused(broker: RunningBroker, path: str) -> None:
    for method, more in (("GetResource", b""), ("SetResource", field(2, b"x"))):
        code, _ = await refused(broker, f"ResourceService/{method}", field(1, path), more)
        assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_alias_writes_the_file_of_its_resource(broker: RunningBroker) -> None:
    path = field(1, "default/security-policy/test")
    policy = b'{"default":[{"type":"insecureAcceptAnything"}],"transports":{}}'
    assert await call(broker, "ResourceService/SetResource", path, field(2, policy)) == {}
    assert (broker.data / "image" / "policy.json").read_bytes() == policy
    async with broker.guest() as guest:
        assert (await guest.resource("Policy")).reveal() == policy


async def test_an_invalid_image_file_is_not_stored(broker: RunningBroker) -> None:
    path = field(1, "default/cosign-public-key/test")
    cut_off = b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\n", b"no key", cut_off):
        code, _ = await refused(broker, "ResourceService/SetResource", path, field(2, content))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    secret = Tsk.generate("Ann <ann@example.org>")
    path = field(1, "default/gpg-public-config/test")
    for content in (bytes(secret), bytes(secret.extract_certificate())[:-9]):
        code, _ = await refused(broker, "ResourceService/SetResource", path, field(2, content))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert not (broker.data / "gpg" / "keyring.gpg").exists()


async def test_a_policy_is_set_and_exported(broker: RunningBroker) -> None:
    name = field(1, "tdxPolicy.rego")
    answer = await call(broker, "OpaService/SetOpaPolicy", name, field(2, POLICY))
    assert answer == {1: b"OK"}
    exported = await call(broker, "OpaService/exportOpaPolicy", name)
    assert exported == {1: b"OK", 2: POLICY.encode()}
    async with broker.guest() as guest:
        assert await guest.version() == "v1"


@pytest.mark.parametrize(
    "policy",
    [
        "garbage",
        "package policy\nallow {",
        "package other\nallow := true\n",
        "package policy\nimport rego.v1\nallow if opa.runtime().env.HOME\n",
        "package policy\nx := 1\n",
        "",
    ],
)
async def test_an_invalid_policy_leaves_the_previous_one_in_force(
    broker: RunningBroker, policy: str
) -> None:
    """defects.md 13: a broken policy is never stored."""
    file = broker.data / "opa" / "tdxPolicy.rego"
    before = file.read_bytes()
    code, text = await refused(
        broker, "OpaService/SetOpaPolicy", field(1, "tdxPolicy.rego"), field(2, policy)
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text
    assert file.read_bytes() == before


async def test_reference_data_is_set_and_decides(broker: RunningBroker) -> None:
    name = field(1, "tdxData")
    data = json.dumps({"rtmr1": ["ab" * 48]})
    assert await call(broker, "OpaService/setOpaReference", name, field(2, data)) == {1: b"OK"}
    exported = await call(broker, "OpaService/exportOpaReference", name)
    assert exported == {1: b"OK", 2: data.encode()}


@pytest.mark.parametrize("data", ["[]", "{", '{"policy":{"allow":true}}', ""])
async def test_invalid_reference_data_leaves_the_previous_data_in_force(
    broker: RunningBroker, data: str
) -> None:
    """defects.md 15: data with a top-level `policy` would override the verdict."""
    file = broker.data / "opa" / "tdxData"
    before = file.read_bytes()
    code, _ = await refused(
        broker, "OpaService/setOpaReference", field(1, "tdxData"), field(2, data)
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert file.read_bytes() == before


async def test_a_policy_is_tested_without_being_stored(broker: RunningBroker) -> None:
    answer = await call(
        broker,
        "OpaService/TestOpa",
        field(2, POLICY),
        field(3, True),
        field(5, '{"debug":[false]}'),
        field(6, True),
        field(7, '{"debug":false,"more":1}'),
    )
    assert json.loads(answer[1]) == {
        "allow": True,
        "parseInfo": {"debug": [False, [False]], "more": [1, None]},
    }


STORED = "package policy\n\ndefault allow = false\n\nallow { input.svn >= data.svn[_] }\n"


@pytest.mark.parametrize("policy_local", [False, True])
@pytest.mark.parametrize("reference_local", [False, True])
async def test_the_four_forms_of_a_test_match_upstream_byte_for_byte(
    broker: RunningBroker, policy_local: bool, reference_local: bool
) -> None:
    """The text is that of serde_json; a member that the booleans do not select is ignored."""
    for method, name, content in (
        ("SetOpaPolicy", "mine.rego", STORED),
        ("setOpaReference", "mine", '{"svn":[2],"z":null}'),
    ):
        await call(broker, f"OpaService/{method}", field(1, name), field(2, content))
    answer = await call(
        broker,
        "OpaService/TestOpa",
        field(1, "mine.rego"),
        field(2, POLICY),
        field(3, policy_local),
        field(4, "mine"),
        field(5, '{"svn":[9],"debug":[false]}'),
        field(6, reference_local),
        field(7, '{"svn":3,"debug":false,"n\u00e4me":["<"]}'),
    )
    allow = b"true" if policy_local or not reference_local else b"false"
    debug = b"[false,[false]]" if reference_local else b"[false,null]"
    svn = b"[3,[9]]" if reference_local else b"[3,[2]]"
    info = b'{"debug":%s,"n\xc3\xa4me":[["<"],null],"svn":%s}' % (debug, svn)
    assert answer == {1: b'{"allow":%s,"parseInfo":%s}' % (allow, info)}


async def guests_during_an_endless_policy(broker: RunningBroker) -> int:
    """Set and test a policy that exceeds its budget; return how many guests it leaves time for."""
    setting = refused(broker, "OpaService/SetOpaPolicy", field(1, "tdxPolicy.rego"), field(2, BOMB))
    parts = (field(2, BOMB), field(3, True), field(5, "{}"), field(6, True), field(7, "{}"))
    bombs = asyncio.gather(setting, refused(broker, "OpaService/TestOpa", *parts))
    guests = 0
    while not bombs.done():
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
        guests += 1
    for code, text in await bombs:
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "its budget is 1,000,000,000 units of fuel" in text
    return guests


async def test_no_guest_waits_for_the_check_of_an_endless_policy(broker: RunningBroker) -> None:
    """The policy is evaluated outside of the event loop, and does not replace the stored one.

    On the event loop it would leave time for the guests before and after it. A busy machine can
    delay the guests of one attempt, not of all.
    """
    before = (broker.data / "opa" / "tdxPolicy.rego").read_bytes()
    for _ in range(20):
        if (guests := await guests_during_an_endless_policy(broker)) > 5:
            break
    assert guests > 5
    assert (broker.data / "opa" / "tdxPolicy.rego").read_bytes() == before


@pytest.mark.parametrize("name", ["referenceSets", "releaseData", "releasePolicies", "tdxData"])
async def test_a_policy_cannot_have_the_name_of_a_data_document(
    broker: RunningBroker, name: str
) -> None:
    """A policy stored as `referenceSets` would refuse every guest."""
    code, text = await refused(broker, "OpaService/SetOpaPolicy", field(1, name), field(2, POLICY))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{name} is the name of" in text
    async with broker.guest() as guest:
        assert await guest.version() == "v1"


@pytest.mark.parametrize("content", [b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05ab"])
@pytest.mark.parametrize(
    "method", ["clientapi.KeyManagerService/GetKey", "keyprovider.KeyProviderService/WrapKey"]
)
async def test_bytes_that_are_not_a_message_are_an_error_of_the_caller(
    broker: RunningBroker, method: str, content: bytes
) -> None:
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{method}", None, None)(content)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith(
        f"the request cannot be decoded as the message of /{method}; "
    )


async def test_the_image_policy_is_checked(broker: RunningBroker) -> None:
    """The guide's own policy, with its leading space, is reported to the caller."""
    bad = '{"default":[{"type":" insecureAcceptAnything"}]}'
    code, text = await refused(broker, "ImageService/setImagePolicy", field(1, bad))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "insecureAcceptAnything" in text
    good = '{"default":[{"type":"reject"}],"transports":{}}'
    assert await call(broker, "ImageService/setImagePolicy", field(1, good)) == {1: b"OK"}
    exported = await call(broker, "ImageService/exportImagePolicy")
    assert exported == {1: b"OK", 2: good.encode()}


async def test_the_lookaside_is_set_and_exported(broker: RunningBroker) -> None:
    text = "default-docker:\n    sigstore: file:///srv/sigstore\n"
    assert await call(broker, "ImageService/setImageSigstore", field(1, text)) == {1: b"OK"}
    exported = await call(broker, "ImageService/exportImageSigstore")
    assert exported == {1: b"OK", 2: text.encode()}


async def test_the_keyring_is_managed(broker: RunningBroker) -> None:
    certificate = Tsk.generate("Ann <ann@example.org>").extract_certificate()
    armoured = str(certificate).encode()
    assert await call(broker, "GpgService/importGpgKey", field(1, armoured)) == {1: b"OK"}
    listed = await call(broker, "GpgService/listGpgKeys")
    assert certificate.fingerprint.upper() in listed[1].decode().upper().replace(" ", "")
    exported = await call(broker, "GpgService/exportGpgKeyring")
    assert base64.b64decode(exported[2]) == (broker.data / "gpg" / "keyring.gpg").read_bytes()
    which = field(1, certificate.fingerprint)
    assert await call(broker, "GpgService/deleteGpgKey", which) == {1: b"OK"}
    assert (await call(broker, "GpgService/exportGpgKeyring")).get(2, b"") == b""
    code, _ = await refused(broker, "GpgService/importGpgKey", field(1, b"no certificate"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_no_key_is_in_any_event(broker: RunningBroker) -> None:
    """defects.md 2: upstream logged keys and answers."""
    await call(broker, "KeyManagerService/GetKey", field(1, KID))
    await call(broker, "ResourceService/SetResource", field(1, "a/b/c"), field(2, KEY))
    await call(broker, "ResourceService/GetResource", field(1, "a/b/c"))
    for form in (KEY.decode().strip(), base64.b64encode(KEY).decode(), str(list(KEY))):
        assert form not in broker.events.text
    assert broker.events.named("key.exported")
    assert broker.events.named("resource.exported")
