"""Attack: a caller who may only wrap takes the name of a secret, or explores which names exist."""

from __future__ import annotations

import grpc
import pytest

from tests.broker.test_wrapping import KID
from tests.support.broker import KEY, RunningBroker
from tests.support.channel import store
from tests.support.events import RecordedEvents
from tests.support.keyprovider_client import KeyProviderClient
from tests.support.memory import MemoryKeys
from tests.support.verdict import verdict
from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.config import Settings, load
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.events import WrapRefused
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm
from verdictd_py.errors import AlreadyExists, ConfigError, NotAuthorized, NotFound, Overloaded
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, KbsKey, NewKey, Parameter

USER = Caller("uid 1000", ROLES["wrap"])
OTHER = Caller("uid 1001", ROLES["wrap"])
OPERATOR = Caller("certificate ops", ROLES["operator"])
OPTSDATA = SecretBytes(b"layer")
BELOW = ("images",)


def named(name: str) -> KbsKey:
    return KbsKey(KeyId.parse(name), f"kbs:///{name}", Algorithm.AES_GCM)


class Setup:
    def __init__(self, below: tuple[str, ...] | None = BELOW, most: int = 60) -> None:
        self.keys = MemoryKeys({KID: SecretBytes(bytes(32))})
        self.events = RecordedEvents()
        self.wrapper = Wrapper(
            keys=self.keys,
            events=self.events,
            new_keys_below=below,
            max_new_keys_per_minute=most,
            monotonic=lambda: 0.0,
        )

    async def refusal(self, parameter: Parameter, caller: Caller = USER) -> str:
        with pytest.raises(NotAuthorized) as refused:
            await self.wrapper.wrap(caller, parameter, OPTSDATA)
        return str(refused.value)


async def test_no_key_is_created_outside_the_prefix() -> None:
    setup = Setup()
    for name in ("prod/database/password", "imagesX/a/b", "images"):
        await setup.refusal(named(name))
    assert list(setup.keys.keys) == [KID]


async def test_keys_are_created_below_the_prefix() -> None:
    setup = Setup()
    packet = await setup.wrapper.wrap(USER, named("images/app/1"), OPTSDATA)
    assert str(packet.blob.key_id) == "images/app/1"
    generated = await setup.wrapper.wrap(USER, NewKey(), OPTSDATA)
    assert generated.blob.key_id.segments[:2] == ("images", "image")
    assert set(setup.keys.keys) == {KID, packet.blob.key_id, generated.blob.key_id}


@pytest.mark.broker(wrap_key_prefix="images/")
async def test_a_broker_creates_keys_below_the_prefix_of_its_settings(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CallerRules, "caller", lambda rules, context: USER)
    async with KeyProviderClient.open(broker.client_api) as client:
        packet = await client.wrap("keyid=kbs:///images/app/1")
        assert packet["kid"] == "kbs:///images/app/1"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.wrap("keyid=kbs:///prod/database/password")
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert [fields["kid"] for fields in broker.events.named("key.created")] == ["images/app/1"]


@pytest.mark.parametrize("parameter", [NewKey(), named("images/app/1")])
async def test_without_a_prefix_no_key_is_created(parameter: Parameter) -> None:
    setup = Setup(below=None)
    await setup.refusal(parameter)
    assert list(setup.keys.keys) == [KID]


async def test_an_operator_creates_keys_anywhere() -> None:
    setup = Setup(below=None)
    await setup.wrapper.wrap(OPERATOR, named("prod/database/password"), OPTSDATA)
    await setup.wrapper.wrap(OPERATOR, NewKey(), OPTSDATA)
    assert len(setup.keys.keys) == 3


async def test_existing_keys_wrap_without_a_prefix() -> None:
    setup = Setup(below=None)
    assert (await setup.wrapper.wrap(USER, ExistingKey(KID), OPTSDATA)).kid == str(KID)


async def test_the_refusal_is_the_same_for_all_reasons() -> None:
    setup = Setup(most=1)
    setup.keys.taken = {KeyId.parse("images/a/taken")}
    damaged = KeyId.parse("images/a/damaged")
    setup.keys.broken = {damaged}
    refusals = {
        "a name that something else has": await setup.refusal(named("images/a/taken")),
        "the quota": await setup.refusal(named("images/a/2")),
        "a name outside the prefix": await setup.refusal(named("prod/database/password")),
        "no such key": await setup.refusal(ExistingKey(KeyId.parse("none"))),
        "a key that cannot be read": await setup.refusal(ExistingKey(damaged)),
    }
    assert len(set(refusals.values())) == 1
    assert "images" not in refusals["the quota"]
    reasons = [event for event in setup.events.events if isinstance(event, WrapRefused)]
    assert [event.code for event in reasons] == [
        "already-exists",
        "overloaded",
        "not-authorized",
        "not-found",
        "storage",
    ]
    assert len({event.reason for event in reasons}) == len(refusals)


async def test_without_a_parameter_the_limit_is_named() -> None:
    """One key a layer: an image of many layers reaches the limit. No name is disclosed."""
    setup = Setup(most=2)
    for _ in range(2):
        await setup.wrapper.wrap(USER, NewKey(), OPTSDATA)
    with pytest.raises(Overloaded, match=r"one key a layer .*default_wrap_key"):
        await setup.wrapper.wrap(USER, NewKey(), OPTSDATA)


@pytest.mark.broker(max_new_keys_per_minute=1)
async def test_the_limit_has_a_status_of_its_own(broker: RunningBroker) -> None:
    async with KeyProviderClient.open(broker.client_api) as client:
        await client.wrap("Enabled")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.wrap("Enabled")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("caller", [USER, OPERATOR])
async def test_the_default_key_wraps_without_a_parameter(caller: Caller) -> None:
    setup = Setup(below=None)
    setup.wrapper = Wrapper(keys=setup.keys, events=setup.events, default_key=ExistingKey(KID))
    packet = await setup.wrapper.wrap(caller, NewKey(), OPTSDATA)
    assert packet.kid == str(KID)
    assert list(setup.keys.keys) == [KID]


@pytest.mark.broker(default_wrap_key="keyid=kbs:///default/key/1")
async def test_a_broker_wraps_with_the_default_key_of_its_settings(broker: RunningBroker) -> None:
    async with KeyProviderClient.open(broker.client_api) as client:
        assert (await client.wrap("Enabled"))["kid"] == "kbs:///default/key/1"
        assert (await client.wrap(""))["kid"] == "kbs:///default/key/1"
    assert len(broker.events.named("key.created")) == 1


@pytest.mark.parametrize("text", ["", "Enabled", "a/b", "keyid=x::keypath=/y", "sample=true"])
def test_a_default_key_names_a_key(text: str) -> None:
    with pytest.raises(ConfigError, match="default-wrap-key"):
        load({"default_wrap_key": text}, file=None)


async def test_every_refusal_names_the_command_that_adopts_a_resource() -> None:
    """The same for a caller who may only wrap; an operator reads whether it would help."""
    setup = Setup()
    path = KeyId.parse("default/key/1")
    setup.keys.taken = {path}
    adopt = f"verdict-py key adopt {path}"
    assert "verdict-py key adopt PATH" in await setup.refusal(ExistingKey(KeyId.parse("none")))
    assert adopt not in await setup.refusal(named(str(path)))
    with pytest.raises(AlreadyExists, match=adopt):
        await setup.wrapper.wrap(OPERATOR, named(str(path)), OPTSDATA)
    with pytest.raises(NotFound, match=adopt):
        await setup.wrapper.wrap(OPERATOR, ExistingKey(path), OPTSDATA)


async def test_each_caller_has_a_quota_of_its_own() -> None:
    setup = Setup(most=2)
    for number in range(2):
        await setup.wrapper.wrap(USER, named(f"images/a/{number}"), OPTSDATA)
    await setup.refusal(named("images/a/2"))
    await setup.wrapper.wrap(OTHER, named("images/a/2"), OPTSDATA)
    await setup.wrapper.wrap(OPERATOR, named("images/a/3"), OPTSDATA)
    await setup.wrapper.wrap(OPERATOR, named("images/a/4"), OPTSDATA)
    with pytest.raises(Overloaded, match="2 keys were created"):
        await setup.wrapper.wrap(OPERATOR, named("images/a/5"), OPTSDATA)


@pytest.mark.parametrize(
    ("text", "segments"), [("images/", ("images",)), ("images/keys", ("images", "keys"))]
)
def test_the_prefix_has_one_or_two_segments(text: str, segments: tuple[str, ...]) -> None:
    assert Settings(wrap_key_prefix=text).wrap_key_segments == segments


@pytest.mark.parametrize("text", ["", "/", "../keys", "a/b/c", "a//", ".hidden"])
def test_other_prefixes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"wrap-key-prefix.*beginning of a key's name"):
        load({"wrap_key_prefix": text}, file=None)


async def test_a_32_byte_resource_is_adopted_by_command(broker: RunningBroker) -> None:
    """As sites have it that move from trustee: guests then get the same bytes, and it wraps."""
    path = "default/key/1"
    store(broker, f"resources/{path}", KEY)
    async with KeyProviderClient.open(broker.client_api) as client:
        with pytest.raises(grpc.aio.AioRpcError, match=f"verdict-py key adopt {path}"):
            await client.wrap(f"keyid=kbs:///{path}")
        done = await verdict(broker, "key", "adopt", path)
        assert (done.status, done.stdout.decode()) == (0, f"{path} is a key now\n")
        await client.wrap(f"keyid=kbs:///{path}")
    async with broker.guest() as guest:
        assert (await guest.resource(path)).reveal() == KEY
    assert [fields["kid"] for fields in broker.events.named("key.registered")] == [path]
    assert len(broker.events.named("resource.deleted")) == 1
    again = await verdict(broker, "key", "adopt", path)
    assert again.status != 0
    assert "there is no resource" in again.stderr
