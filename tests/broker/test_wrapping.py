"""Wrapping: selection of keys, limits of new keys, and rights."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest

from tests.support.events import RecordedEvents
from tests.support.memory import MemoryKeys
from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.events import (
    ImageKeyUnwrapped,
    ImageKeyWrapped,
    KeyRead,
    WrapRequested,
)
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import (
    AlreadyExists,
    DecryptionFailed,
    NotAuthorized,
    NotFound,
    Overloaded,
    RequestError,
    StorageError,
)
from verdictd_py.protocols.keyprovider.packet import PacketForm
from verdictd_py.protocols.keyprovider.parameter import (
    ExistingKey,
    KbsKey,
    NewKey,
    Parameter,
    parse,
)

ADMIN = Caller("uid 0", ROLES["admin"])
OPERATOR = Caller("certificate build-farm", ROLES["operator"])
NOBODY = Caller("uid 65534", frozenset())
OPTSDATA = SecretBytes(b'{"symkey":"of a layer"}')
KID = KeyId.parse("84688df7-2c0c-40fa-956b-29d8e74d16c0")
GUIDE = ExistingKey(KID)
PATH = KeyId.parse("default/key/1")
KBS = KbsKey(PATH, "kbs:///default/key/1", Algorithm.AES_GCM)


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Setup:
    """A wrapper with its stores and events."""

    def __init__(self, *, allow_a256ctr: bool = False, most: int = 60) -> None:
        self.keys = MemoryKeys({KID: SecretBytes(b"1234567890123456789012345678901\n")})
        self.events = RecordedEvents()
        self.clock = Clock()
        self.wrapper = Wrapper(
            keys=self.keys,
            events=self.events,
            max_new_keys_per_minute=most,
            allow_a256ctr=allow_a256ctr,
            monotonic=self.clock,
        )


@pytest.mark.parametrize(
    ("parameter", "form", "algorithm"),
    [
        (GUIDE, PacketForm.LEGACY, Algorithm.AES_GCM),
        (NewKey(), PacketForm.LEGACY, Algorithm.AES_GCM),
        (KBS, PacketForm.V1, Algorithm.AES_GCM),
        (replace(KBS, algorithm=Algorithm.A256CTR), PacketForm.V1, Algorithm.A256CTR),
    ],
)
async def test_a_wrapped_key_can_be_unwrapped(
    parameter: Parameter, form: PacketForm, algorithm: Algorithm
) -> None:
    setup = Setup(allow_a256ctr=True)
    packet = await setup.wrapper.wrap(OPERATOR, parameter, OPTSDATA)
    assert (packet.form, packet.blob.algorithm) == (form, algorithm)
    assert OPTSDATA.reveal() not in packet.encode()
    assert await setup.wrapper.unwrap(ADMIN, packet) == OPTSDATA
    assert packet.blob.key_id in setup.keys.keys


async def test_each_operation_records_who_did_what_with_which_key() -> None:
    setup = Setup()
    packet = await setup.wrapper.wrap(OPERATOR, GUIDE, OPTSDATA)
    await setup.wrapper.unwrap(ADMIN, packet)
    assert setup.events.events == [
        WrapRequested(caller=OPERATOR.name, parameter="ExistingKey", optsdata=OPTSDATA),
        KeyRead(kid=str(KID), key=setup.keys.keys[KID]),
        ImageKeyWrapped(caller=OPERATOR.name, kid=str(KID), algorithm="A256GCM"),
        ImageKeyUnwrapped(caller=ADMIN.name, kid=str(KID)),
    ]


async def test_ctr_is_off_by_default() -> None:
    setup = Setup(allow_a256ctr=True)
    ctr = replace(KBS, algorithm=Algorithm.A256CTR)
    packet = await setup.wrapper.wrap(OPERATOR, ctr, OPTSDATA)
    tested = Wrapper(keys=setup.keys, events=RecordedEvents())
    with pytest.raises(RequestError, match="A256CTR authenticates nothing and is off"):
        await tested.unwrap(ADMIN, packet)


async def test_every_packet_has_its_own_iv() -> None:
    wrapper = Setup().wrapper
    packets = [await wrapper.wrap(OPERATOR, GUIDE, OPTSDATA) for _ in range(20)]
    assert len({packet.blob.iv for packet in packets}) == 20
    assert len({packet.blob.ciphertext for packet in packets}) == 20


async def test_random_bytes_come_from_the_given_source() -> None:
    taken: list[int] = []

    def random(size: int) -> bytes:
        taken.append(size)
        return bytes([len(taken)]) * size

    keys = MemoryKeys()
    wrapper = Wrapper(keys=keys, events=RecordedEvents(), random=random)
    packet = await wrapper.wrap(OPERATOR, KBS, OPTSDATA)
    assert taken == [32, 12]
    assert keys.keys[PATH] == SecretBytes(b"\1" * 32)
    assert packet.blob.iv == b"\2" * 12


@pytest.mark.parametrize("parameter", [GUIDE, NewKey(), KBS])
async def test_a_caller_without_the_right_to_wrap_creates_no_key(parameter: Parameter) -> None:
    """defects.md 11."""
    setup = Setup()
    with pytest.raises(NotAuthorized):
        await setup.wrapper.wrap(NOBODY, parameter, OPTSDATA)
    assert list(setup.keys.keys) == [KID]
    assert setup.events.events == []
    with pytest.raises(NotAuthorized):
        await setup.wrapper.seal(NOBODY, GUIDE, setup.keys.keys[KID], OPTSDATA)


@pytest.mark.parametrize("role", ["wrap", "operator"])
async def test_the_right_to_wrap_does_not_include_unwrapping(role: str) -> None:
    """defects.md 11: a caller that can unwrap can obtain every key."""
    setup = Setup()
    caller = Caller("x", ROLES[role])
    packet = await setup.wrapper.wrap(caller, GUIDE, OPTSDATA)
    with pytest.raises(NotAuthorized, match="no right to unwrap"):
        await setup.wrapper.unwrap(caller, packet)
    assert setup.events.named("image-key.unwrapped") == []


async def test_a_missing_key_fails_and_is_not_created() -> None:
    """defects.md 3: the original answers OK with the ciphertext `[0]`."""
    setup = Setup()
    with pytest.raises(NotFound, match="there is no key default/key/1"):
        await setup.wrapper.wrap(OPERATOR, ExistingKey(PATH), OPTSDATA)
    assert list(setup.keys.keys) == [KID]
    assert setup.events.named("image-key.wrapped") == []


@pytest.mark.parametrize("parameter", [GUIDE, replace(KBS, key_id=KID)])
async def test_a_broken_key_fails_and_is_not_replaced(parameter: Parameter) -> None:
    """defects.md 3: it panics the original."""
    setup = Setup()
    setup.keys.broken = {KID}
    with pytest.raises(StorageError, match="31 bytes"):
        await setup.wrapper.wrap(OPERATOR, parameter, OPTSDATA)


async def test_a_new_key_is_named_by_a_uuid_and_recorded() -> None:
    setup = Setup()
    packet = await setup.wrapper.wrap(OPERATOR, NewKey(), OPTSDATA)
    assert UUID(packet.kid).version == 4
    assert len(setup.keys.keys[packet.blob.key_id]) == 32
    assert setup.events.named("key.created") == [{"caller": OPERATOR.name, "kid": packet.kid}]


async def test_two_wraps_at_once_use_one_key() -> None:
    """The loser of the race wraps with the winner's key: no layer is lost."""
    setup = Setup()
    packets = await asyncio.gather(*(setup.wrapper.wrap(OPERATOR, KBS, OPTSDATA) for _ in range(4)))
    announced, failed = setup.events.named("key.created"), setup.events.named("change.failed")
    assert len(announced) - len(failed) == 1
    for packet in packets:
        assert await setup.wrapper.unwrap(ADMIN, packet) == OPTSDATA


async def test_the_name_of_a_resource_is_refused_for_a_key() -> None:
    setup = Setup()
    setup.keys.taken = {PATH}
    with pytest.raises(AlreadyExists) as refused:
        await setup.wrapper.wrap(OPERATOR, KBS, OPTSDATA)
    assert str(refused.value) == (
        "the key default/key/1 names a resource, not a key; wrap with another keyid; if this is a "
        "resource of 32 bytes, make it a key: verdict-py key adopt default/key/1"
    )
    assert setup.events.names[-2:] == ["key.created", "change.failed"]


async def test_a_file_of_the_clients_host_is_not_opened() -> None:
    setup = Setup()
    parameter = parse(b"keyid=kbs:///default/key/1::keypath=/etc/shadow")
    with pytest.raises(RequestError, match="file of the client's host"):
        await setup.wrapper.wrap(ADMIN, parameter, OPTSDATA)
    assert list(setup.keys.keys) == [KID]


async def test_new_keys_are_limited_per_minute() -> None:
    """A caller with the right to wrap only must not be able to fill the disk."""
    setup = Setup(most=3)
    wrap = setup.wrapper.wrap
    for second in (0.0, 10.0, 20.0):
        setup.clock.now = 1000.0 + second
        await wrap(OPERATOR, NewKey(), OPTSDATA)
    for second in (20.0, 59.9):
        setup.clock.now = 1000.0 + second
        for parameter in (NewKey(), KBS):
            with pytest.raises(Overloaded, match=r"3 keys .* max_new_keys_per_minute"):
                await wrap(OPERATOR, parameter, OPTSDATA)
    await wrap(OPERATOR, GUIDE, OPTSDATA)  # existing keys are not bounded
    setup.clock.now = 1060.0
    await wrap(OPERATOR, KBS, OPTSDATA)
    await wrap(OPERATOR, KBS, OPTSDATA)  # exists by now
    with pytest.raises(Overloaded):
        await wrap(OPERATOR, NewKey(), OPTSDATA)
    setup.clock.now = 1070.0
    await wrap(OPERATOR, NewKey(), OPTSDATA)
    assert len(setup.keys.keys) == 1 + 5


async def test_the_limit_applies_to_concurrent_wraps() -> None:
    setup = Setup(most=3)
    results = await asyncio.gather(
        *(setup.wrapper.wrap(OPERATOR, NewKey(), OPTSDATA) for _ in range(10)),
        return_exceptions=True,
    )
    assert [type(result) for result in results].count(Overloaded) == 7
    assert len(setup.keys.keys) == 1 + 3


async def test_ctr_is_wrapped_but_unwrapped_only_if_allowed() -> None:
    setup = Setup()
    packet = await setup.wrapper.wrap(OPERATOR, replace(KBS, algorithm=Algorithm.A256CTR), OPTSDATA)
    with pytest.raises(RequestError, match="default/key/1: A256CTR authenticates nothing"):
        await setup.wrapper.unwrap(ADMIN, packet)


async def test_a_changed_packet_is_refused() -> None:
    """defects.md 3: the original answers OK with `[0]`."""
    setup = Setup()
    packet = await setup.wrapper.wrap(OPERATOR, GUIDE, OPTSDATA)
    changed = bytes([packet.blob.ciphertext[0] ^ 1]) + packet.blob.ciphertext[1:]
    blob = WrappedBlob(KID, Algorithm.AES_GCM, packet.blob.iv, changed)
    with pytest.raises(DecryptionFailed, match=str(KID)):
        await setup.wrapper.unwrap(ADMIN, replace(packet, blob=blob))
    assert setup.events.named("image-key.unwrapped") == []


async def test_no_event_has_a_secret() -> None:
    """defects.md 2."""
    setup = Setup()
    packet = await setup.wrapper.wrap(OPERATOR, GUIDE, OPTSDATA)
    await setup.wrapper.unwrap(ADMIN, packet)
    text = setup.events.text
    assert "23 secret bytes" in text
    assert "symkey" not in text
    assert "1234567890" not in text
