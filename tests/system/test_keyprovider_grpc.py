"""ocicrypt's key provider of a running broker, with the bytes of the wire."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.keyprovider_client import (
    LAYER,
    KeyProviderClient,
    b64,
    opened,
    unwrap_input,
    wrap_input,
)
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform

URI = "keyid=kbs:///default/key/1"

NO_PARAMETERS: Final[tuple[object, ...]] = (
    "sample=true",
    "algorithm=A256GCM",
    f"{URI}::algorithm=A128GCM",
    f"{URI}::algorithm=AES",
    f"{URI}::{URI}",
    f"{URI}::colour=red",
    f"{URI}::",
    "keyid=",
    "keyid=kbs:///one",
    "kbs:///default/key/1",
    "x" * 256,
    "x" * 5000,
    "name with blanks",
    [256],
    [True],
    {"kid": KID},
    7,
)

GARBAGE: Final[tuple[bytes, ...]] = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"keywrap"',
    b"\xff\xfe",
    b"{}",
    b'{"op":"keywrap"}',
    b'{"op":"keyunwrap"}',
    b'{"op":"sign"}',
    b'{"op":["keywrap"]}',
    b'{"op":"keywrap","op":"keywrap"}',
    b'{"op":"keywrap","keywrapparams":7}',
    b'{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"a":{}}},"optsdata":""}}',
    b'{"op":"keywrap","keywrapparams":{"ec":{"Parameters":{"a":[]}},"optsdata":""}}',
    b'{"op":"keywrap","keywrapparams":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    b"[" * 500_000,
    b'{"op":"keywrap","n":' + b"9" * 100_000 + b"}",
    b'{"op":"\\ud800"}',
)

NO_PACKETS: Final[tuple[object, ...]] = (
    b64(b""),
    b64(b"{}"),
    b64(b"[0]"),
    "no base64",
    None,
    {"kid": KID},
    {"kid": 5, "wrapped_data": "", "iv": "", "wrap_type": "A256GCM"},
    {"kid": KID, "wrapped_data": "", "iv": "", "wrap_type": "A256GCM"},
    {"kid": KID, "wrapped_data": "", "iv": b64(bytes(12)), "wrap_type": "A256KW"},
    {"kid": KID, "wrapped_data": [], "iv": [0] * 12, "algorithm": "AES", "key_length": 128},
    {"kid": KID, "wrapped_data": "", "iv": b64(bytes(12)), "provider": "aliyun"},
)

NO_OCTETS: Final[tuple[object, ...]] = ("no base64!", "YQ", [256], [-1], [1.5], [None], {}, 5)


@pytest.fixture
async def client(broker: RunningBroker) -> AsyncIterator[KeyProviderClient]:
    async with KeyProviderClient.open(broker.client_api) as found:
        yield found


def keys_in(broker: RunningBroker) -> set[str]:
    top = broker.data / "keys"
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


class TestWrapping:
    async def test_a_plain_kid_creates_a_packet_of_the_first_generation(
        self, client: KeyProviderClient
    ) -> None:
        packet = await client.wrap(KID)
        assert list(packet) == ["kid", "wrapped_data", "iv", "algorithm", "key_length"]
        assert (packet["kid"], packet["algorithm"], packet["key_length"]) == (KID, "AES", 256)
        assert len(packet["iv"]) == 12
        assert len(packet["wrapped_data"]) == len(LAYER) + 16
        assert opened(packet, KEY) == LAYER
        assert await client.unwrap(packet) == LAYER

    async def test_a_uri_creates_a_packet_of_guest_components(
        self, broker: RunningBroker, client: KeyProviderClient
    ) -> None:
        packet = await client.wrap(f"{URI}::algorithm=A256GCM")
        assert list(packet) == ["kid", "wrapped_data", "iv", "wrap_type"]
        assert (packet["kid"], packet["wrap_type"]) == ("kbs:///default/key/1", "A256GCM")
        file = broker.data / "keys/default/key/1"
        assert len(base64.b64decode(packet["iv"])) == 12
        assert file.stat().st_mode & 0o777 == 0o600
        assert opened(packet, file.read_bytes()) == LAYER
        assert await client.unwrap(packet) == LAYER

    async def test_the_missing_key_of_a_uri_is_created_once_and_recorded(
        self, broker: RunningBroker, client: KeyProviderClient
    ) -> None:
        first, second = await client.wrap(URI), await client.wrap(URI)
        key = (broker.data / "keys/default/key/1").read_bytes()
        assert opened(first, key) == opened(second, key) == LAYER
        assert first["iv"] != second["iv"]
        assert [e["kid"] for e in broker.events.named("key.created")] == ["default/key/1"]

    @pytest.mark.parametrize(
        ("keyid", "kid"),
        [
            ("kbs:///default/key/1", "kbs:///default/key/1"),
            ("/default/key/1", "kbs:///default/key/1"),
            ("kbs://kbs.example:8080/default/key/1", "kbs://kbs.example:8080/default/key/1"),
            ("kbs.example:8080/default/key/1", "kbs://kbs.example:8080/default/key/1"),
            ("kbs+vault:///default/key/1", "kbs:///default/key/1"),
        ],
    )
    async def test_every_spelling_of_a_uri_is_normalised_for_guests(
        self, client: KeyProviderClient, broker: RunningBroker, keyid: str, kid: str
    ) -> None:
        packet = await client.wrap(f"keyid={keyid}")
        assert packet["kid"] == kid
        assert keys_in(broker) == {KID, "default/key/1"}
        assert await client.unwrap(packet) == LAYER

    @pytest.mark.parametrize("parameter", ["Enabled", "", None], ids=["Enabled", "empty", "null"])
    async def test_a_key_without_a_name_is_named_by_a_uuid(
        self, client: KeyProviderClient, broker: RunningBroker, parameter: str | None
    ) -> None:
        packets = [await client.wrap(parameter) for _ in range(2)]
        kids = {packet["kid"] for packet in packets}
        assert len(kids) == 2
        assert {UUID(kid).version for kid in kids} == {4}
        assert keys_in(broker) == {KID, *kids}
        for packet in packets:
            assert opened(packet, (broker.data / "keys" / packet["kid"]).read_bytes()) == LAYER
            assert await client.unwrap(packet) == LAYER

    async def test_arrays_of_integers_are_read_as_byte_strings(
        self, client: KeyProviderClient
    ) -> None:
        packet = await client.wrap(list(KID.encode()), list(LAYER))
        assert opened(packet, KEY) == LAYER
        assert await client.unwrap(list(json.dumps(packet).encode())) == LAYER

    async def test_optsdata_is_not_interpreted(self, client: KeyProviderClient) -> None:
        for data in (b"", bytes(range(256)), os.urandom(1024 * 1024)):
            packet = await client.wrap(KID, b64(data))
            assert opened(packet, KEY) == data
            assert await client.unwrap(packet) == data

    async def test_the_largest_optsdata_is_accepted_as_integers(
        self, client: KeyProviderClient
    ) -> None:
        packet = await client.wrap(KID, [255] * 1024 * 1024)
        assert opened(packet, KEY) == b"\xff" * 1024 * 1024

    async def test_version_2_packets_are_read(self, client: KeyProviderClient) -> None:
        packet = await client.wrap(URI)
        more = {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}}
        assert await client.unwrap({**packet, **more}) == LAYER

    async def test_concurrent_calls_create_only_one_key(
        self, client: KeyProviderClient, broker: RunningBroker
    ) -> None:
        packets = await asyncio.gather(*(client.wrap(URI) for _ in range(40)))
        assert keys_in(broker) == {KID, "default/key/1"}
        assert len(broker.events.named("key.created")) == 1
        plain = await asyncio.gather(*(client.unwrap(packet) for packet in packets))
        assert plain == [LAYER] * 40
        assert len({packet["iv"] for packet in packets}) == 40


class TestRefusals:
    """A failure is a gRPC status with a text that names the remedy, never OK (defects.md 3)."""

    async def test_a_missing_key_is_named_and_not_created(
        self, client: KeyProviderClient, broker: RunningBroker
    ) -> None:
        """defects.md 3: the original answers OK, and the image can never be decrypted."""
        status, text = await client.refusal("WrapKey", wrap_input("no-such-key"))
        assert status == "NOT_FOUND"
        assert "no-such-key" in text
        assert keys_in(broker) == {KID}
        (event,) = broker.events.named("request.failed")
        assert (event["doing"], event["status"]) == ("WrapKey", "NOT_FOUND")
        packet = {**(await client.wrap(KID)), "kid": "no-such-key"}
        status, text = await client.refusal("UnWrapKey", unwrap_input(packet))
        assert status == "NOT_FOUND"
        assert "no-such-key" in text

    @pytest.mark.parametrize("size", [0, 31, 33])
    async def test_a_key_of_a_wrong_size_fails_without_affecting_others(
        self, client: KeyProviderClient, broker: RunningBroker, size: int
    ) -> None:
        """defects.md 3: it panics the original."""
        (broker.data / "keys/short").write_bytes(b"k" * size)
        packet = await client.wrap(KID)
        for method, asked in (
            ("WrapKey", wrap_input("short")),
            ("UnWrapKey", unwrap_input({**packet, "kid": "short"})),
        ):
            status, text = await client.refusal(method, asked)
            assert status == "FAILED_PRECONDITION"
            assert f"the key short has {size} bytes" in text
        assert await client.unwrap(packet) == LAYER

    @pytest.mark.parametrize("parameter", [KID, URI])
    async def test_data_that_does_not_authenticate_is_refused(
        self, client: KeyProviderClient, parameter: str
    ) -> None:
        """defects.md 3: the original answers OK with the plaintext `[0]`."""
        packet = await client.wrap(parameter)
        for name in ("wrapped_data", "iv"):
            field = packet[name]
            data = bytearray(field if isinstance(field, list) else base64.b64decode(field))
            data[0] ^= 1
            changed = list(data) if isinstance(field, list) else b64(bytes(data))
            status, text = await client.refusal(
                "UnWrapKey", unwrap_input({**packet, name: changed})
            )
            assert status == "FAILED_PRECONDITION"
            assert "authentication failed" in text
        other = {**packet, "kid": (await client.wrap("Enabled"))["kid"]}
        assert (await client.refusal("UnWrapKey", unwrap_input(other)))[0] == "FAILED_PRECONDITION"

    @pytest.mark.parametrize("name", ["../../../etc/shadow", "..", ".hidden", "a/b", "/etc/shadow"])
    async def test_a_kid_is_never_used_as_a_path(
        self, client: KeyProviderClient, broker: RunningBroker, name: str
    ) -> None:
        """defects.md 1: the original appends it to the directory's name."""
        packet = await client.wrap(KID)
        for method, asked in (
            ("WrapKey", wrap_input(name)),
            ("WrapKey", wrap_input(f"keyid=kbs:///{name}")),
            ("UnWrapKey", unwrap_input({**packet, "kid": name})),
        ):
            assert (await client.refusal(method, asked))[0] == "INVALID_ARGUMENT"
        assert keys_in(broker) == {KID}

    async def test_a_key_file_is_never_opened_for_a_client(
        self, client: KeyProviderClient, tmp_path: Path
    ) -> None:
        present, absent = tmp_path / "kek", tmp_path / "none"
        present.write_bytes(KEY)
        answers = [
            await client.refusal("WrapKey", wrap_input(f"{URI}::keypath={path}"))
            for path in (present, absent)
        ]
        assert answers[0] == answers[1]
        status, text = answers[0]
        assert status == "INVALID_ARGUMENT"
        assert "keypath=" in text
        assert "verdictd-py keyprovider" in text

    @pytest.mark.parametrize("path", ["default/security-policy/test", "default/tls/ca"])
    async def test_the_name_of_a_resource_never_becomes_a_key(
        self, client: KeyProviderClient, broker: RunningBroker, path: str
    ) -> None:
        resource = broker.data / "resources/default/tls/ca"
        resource.parent.mkdir(parents=True)
        resource.write_bytes(KEY)  # 32 bytes, so that only its place says what it is
        status, text = await client.refusal("WrapKey", wrap_input(f"keyid=kbs:///{path}"))
        assert status == "ALREADY_EXISTS"
        assert path in text
        assert (await client.refusal("WrapKey", wrap_input(path)))[0] == "NOT_FOUND"
        packet = {**(await client.wrap(KID)), "kid": path}
        assert (await client.refusal("UnWrapKey", unwrap_input(packet)))[0] == "NOT_FOUND"
        assert keys_in(broker) == {KID}

    async def test_an_invalid_parameter_is_refused(
        self, client: KeyProviderClient, broker: RunningBroker
    ) -> None:
        for parameter in NO_PARAMETERS:
            status, text = await client.refusal("WrapKey", wrap_input(parameter))
            assert (parameter, status) == (parameter, "INVALID_ARGUMENT")
            assert text
        assert keys_in(broker) == {KID}


class TestInput:
    """Invalid input is answered with a status at once, and the broker continues."""

    async def test_garbage_is_refused(self, client: KeyProviderClient) -> None:
        """defects.md 4: malformed input panics the original."""
        for data in GARBAGE:
            for method in ("WrapKey", "UnWrapKey"):
                status, _ = await client.refusal(method, data)
                assert (data[:50], status) == (data[:50], "INVALID_ARGUMENT")

    async def test_bytes_that_are_not_a_message_are_refused(
        self, client: KeyProviderClient
    ) -> None:
        for message in (b"\x0a\xff", b"\xff" * 10, b"\x10\x05"):
            with pytest.raises(grpc.aio.AioRpcError):
                await client.raw("WrapKey", message)
        await client.wrap(KID)

    async def test_optsdata_is_base64_or_octets(self, client: KeyProviderClient) -> None:
        for optsdata in NO_OCTETS:
            status, text = await client.refusal("WrapKey", wrap_input(KID, optsdata))
            assert (optsdata, status) == (optsdata, "INVALID_ARGUMENT")
            assert "optsdata" in text

    async def test_sizes_are_limited(self, client: KeyProviderClient) -> None:
        large = wrap_input(KID, b64(bytes(1024 * 1024 + 1)))
        assert (await client.refusal("WrapKey", large))[0] == "INVALID_ARGUMENT"
        assert (await client.refusal("WrapKey", bytes(9 << 20)))[0] == "RESOURCE_EXHAUSTED"
        packet = await client.wrap(KID)
        padded = unwrap_input(b64(json.dumps(packet).encode() + b" " * (5 << 20)))
        assert (await client.refusal("UnWrapKey", padded))[0] == "INVALID_ARGUMENT"
        assert await client.unwrap(packet) == LAYER

    async def test_an_invalid_packet_is_refused(self, client: KeyProviderClient) -> None:
        for packet in NO_PACKETS:
            status, _ = await client.refusal("UnWrapKey", unwrap_input(packet))
            assert (packet, status) == (packet, "INVALID_ARGUMENT")

    async def test_a_ciphertext_shorter_than_its_tag_is_refused(
        self, client: KeyProviderClient
    ) -> None:
        """The original's own broken packet: ciphertext `[0]` (defects.md 3)."""
        packet = {**(await client.wrap(KID)), "wrapped_data": [0]}
        answer = await client.refusal("UnWrapKey", unwrap_input(packet))
        assert answer[0] == "FAILED_PRECONDITION"

    async def test_the_operation_must_be_that_of_the_method(
        self, client: KeyProviderClient
    ) -> None:
        packet = await client.wrap(KID)
        status, text = await client.refusal("WrapKey", unwrap_input(packet))
        assert (status, "'keywrap'" in text) == ("INVALID_ARGUMENT", True)
        status, text = await client.refusal("UnWrapKey", wrap_input(KID))
        assert (status, "'keyunwrap'" in text) == ("INVALID_ARGUMENT", True)

    async def test_optional_members_may_be_missing(self, client: KeyProviderClient) -> None:
        asked = {
            "op": "keywrap",
            "keywrapparams": {
                "ec": {"Parameters": {"eaa": [b64(KID.encode())]}},
                "optsdata": b64(LAYER),
            },
        }
        assert "keywrapresults" in await client.call("WrapKey", asked)
        packet = b64(json.dumps(await client.wrap(KID)).encode())
        asked = {"op": "keyunwrap", "keyunwrapparams": {"annotation": packet}}
        assert "keyunwrapresults" in await client.call("UnWrapKey", asked)


class TestProviders:
    """ocicrypt sends all providers the parameters of all, without naming the receiver."""

    @staticmethod
    def asked(**parameters: str) -> dict[str, Any]:
        asked = wrap_input("")
        asked["keywrapparams"]["ec"]["Parameters"] = {
            name.replace("_", "-"): [b64(value.encode())] for name, value in parameters.items()
        }
        return asked

    async def test_the_only_provider_or_that_of_the_guide_is_served(
        self, client: KeyProviderClient
    ) -> None:
        await client.call("WrapKey", self.asked(eaa=KID))
        await client.call("WrapKey", self.asked(attestation_agent=KID, other="none"))
        await client.call("WrapKey", self.asked(eaa=KID, pkcs11_config="x", pubkeys="y"))
        status, text = await client.refusal("WrapKey", self.asked(eaa=KID, other="none"))
        assert status == "INVALID_ARGUMENT"
        assert "eaa" in text
        assert (await client.refusal("WrapKey", self.asked()))[0] == "INVALID_ARGUMENT"

    async def test_only_the_configured_provider_is_served(self, tmp_path: Path) -> None:
        platform = SimulatedPlatform.create(now=app.utc_now())
        async with (
            running_broker(tmp_path, platform, keyprovider_name="eaa") as broker,
            KeyProviderClient.open(broker.client_api) as client,
        ):
            await client.call("WrapKey", self.asked(eaa=KID, attestation_agent="none"))
            status, text = await client.refusal("WrapKey", self.asked(attestation_agent=KID))
            assert status == "INVALID_ARGUMENT"
            assert "'eaa'" in text
            assert "provider:eaa:" in text


class TestCounterMode:
    """A256CTR has no tag, so that an attacker with the image can relabel and change the key."""

    async def test_counter_mode_is_refused_by_default(self, client: KeyProviderClient) -> None:
        packet = await client.wrap(URI)
        relabelled = {**packet, "wrap_type": "A256CTR", "iv": b64(bytes(16))}
        own = await client.wrap(f"{URI}::algorithm=A256CTR")
        for each in (relabelled, own):
            status, text = await client.refusal("UnWrapKey", unwrap_input(each))
            assert status == "INVALID_ARGUMENT"
            assert "allow_a256ctr" in text

    async def test_counter_mode_is_decrypted_if_allowed(self, tmp_path: Path) -> None:
        platform = SimulatedPlatform.create(now=app.utc_now())
        async with (
            running_broker(tmp_path, platform, allow_a256ctr=True) as broker,
            KeyProviderClient.open(broker.client_api) as client,
        ):
            packet = await client.wrap(f"{URI}::algorithm=A256CTR")
            assert packet["wrap_type"] == "A256CTR"
            key = (broker.data / "keys/default/key/1").read_bytes()
            iv = base64.b64decode(packet["iv"])
            assert len(iv) == 16
            decryptor = Cipher(algorithms.AES(key), modes.CTR(iv)).decryptor()
            assert decryptor.update(base64.b64decode(packet["wrapped_data"])) == LAYER
            assert await client.unwrap(packet) == LAYER


class TestLimits:
    async def test_new_keys_per_minute_are_limited(self, tmp_path: Path) -> None:
        platform = SimulatedPlatform.create(now=app.utc_now())
        async with (
            running_broker(tmp_path, platform, max_new_keys_per_minute=2) as broker,
            KeyProviderClient.open(broker.client_api) as client,
        ):
            await client.wrap("Enabled")
            await client.wrap(URI)
            before = keys_in(broker)
            for parameter in ("Enabled", "keyid=kbs:///default/key/2"):
                status, text = await client.refusal("WrapKey", wrap_input(parameter))
                assert status == "RESOURCE_EXHAUSTED"
                assert "2 keys were created within a minute" in text
            assert keys_in(broker) == before
            await client.wrap(KID)
            await client.wrap(URI)


async def test_no_secret_is_in_any_event(broker: RunningBroker, client: KeyProviderClient) -> None:
    """defects.md 2: the original logs keys and every answer."""
    packets = [await client.wrap(p) for p in (KID, URI, "Enabled")]
    for packet in packets:
        await client.unwrap(packet)
    (broker.data / "keys/long").write_bytes(KEY * 2)
    await client.refusal("WrapKey", wrap_input("long"))
    await client.refusal("WrapKey", wrap_input("none"))
    await client.refusal("WrapKey", wrap_input(KID, LAYER.decode()))
    await client.refusal("WrapKey", LAYER + b"{" + KEY)
    await client.refusal("WrapKey", wrap_input(KEY.decode()))
    await client.refusal("UnWrapKey", unwrap_input({**packets[0], "wrapped_data": list(LAYER)}))
    await client.refusal("UnWrapKey", unwrap_input({**packets[0], "kid": KEY.decode()}))
    names = set(broker.events.names)
    assert {"image-key.wrapped", "image-key.unwrapped", "key.created", "request.failed"} <= names
    stored = [path.read_bytes() for path in (broker.data / "keys").rglob("*") if path.is_file()]
    assert len(stored) == 4
    text = re.sub(r"\s", "", broker.events.text)
    for secret in (*stored, KEY, KEY[:-1], LAYER):
        for form in (
            repr(secret)[2:-1],
            b64(secret),
            b64(secret).rstrip("=")[:-1],
            secret.hex(),
            str(list(secret))[1:-1],
        ):
            assert re.sub(r"\s", "", form) not in text
