"""A guest that is connected when the broker's mind changes, and a guest that says nothing for long.

The real eaa_kbc connects once in its lifetime: it must not keep an acceptance that would be refused
today, and must not be disconnected without need.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import ask, blob, encoded, nothing_stays, rest, store
from tests.support.channel import send_records as send
from tests.support.clock import elapse, until
from tests.support.pccs import running_pccs
from tests.support.refused_guests import HONEST, OTHER
from tests.support.verdict import verdict
from verdictd_py import daemon as app
from verdictd_py.broker.connected import MAX_AGE_SECONDS, RETRY_SECONDS
from verdictd_py.daemon import collateral as collateral_service
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.listeners.link import Link
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.tees.intel.collateral.cache import CollateralCache

DENY_ALL = b"package policy\n\ndefault allow = false\n"
DAY = 86_400.0
POLICY, DATA, SETS = "opa/tdxPolicy.rego", "opa/tdxData", "opa/referenceSets"
RESOURCE = "default/secret/1"


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.forward = timedelta(0)

    def __call__(self) -> datetime:
        return app.utc_now() + self.forward


async def served(guest: GuestConnection) -> None:
    assert (await guest.keks([KID]))[KID].reveal() == KEY


async def disconnected(broker: RunningBroker, guest: GuestConnection, code: str) -> None:
    """Check that the guest receives the code at its next request, and is disconnected."""
    released = len(broker.events.named("secret.released"))
    with pytest.raises(BrokerRefused, match=f"refused: {code}; ask the operator about [0-9a-f]+"):
        await guest.keks([KID])
    assert await rest(guest) == b""
    await nothing_stays(broker)
    (event,) = broker.events.named("guest.disconnected")
    assert event["reason"] == f"refused: {code}"
    refused = {each["appraisal"] for each in broker.events.named("guest.refused")}
    assert event["appraisal"] in refused
    assert len(broker.events.named("secret.released")) == released


async def not_appraised(guest: GuestConnection, code: str) -> None:
    """Check that the guest receives the code, and that nothing else happens."""
    for _ in range(2):
        with pytest.raises(BrokerRefused, match=f"not judged: {code}; try again later"):
            await guest.keks([KID])


async def deny_all_by_command(broker: RunningBroker) -> None:
    (broker.data.parent / "deny.rego").write_bytes(DENY_ALL)
    words = ("policy", "set", "tdxPolicy.rego", str(broker.data.parent / "deny.rego"))
    assert (await verdict(broker, *words)).status == 0


async def deny_all_by_hand(broker: RunningBroker) -> None:
    store(broker, POLICY, DENY_ALL)


async def pin_another_kernel(broker: RunningBroker) -> None:
    """As another broker on the same directory, or a person, does."""
    store(broker, DATA, json.dumps({"rtmr1": [OTHER]}).encode())


async def retire_a_set(broker: RunningBroker) -> None:
    for words in (("add", "old", f"rtmr1={OTHER}"), ("retire", "old")):
        assert (await verdict(broker, "reference", *words)).status == 0


@pytest.mark.parametrize(
    "change", [deny_all_by_command, deny_all_by_hand, pin_another_kernel, retire_a_set]
)
async def test_a_guest_that_is_refused_now_obtains_nothing_more(
    broker: RunningBroker, change: Callable[[RunningBroker], Any]
) -> None:
    async with broker.guest() as guest:
        await served(guest)
        await change(broker)
        await disconnected(broker, guest, "policy-refused")


async def test_of_requests_in_one_record_none_is_answered_after_the_refusal(
    broker: RunningBroker,
) -> None:
    async with broker.guest() as guest:
        await served(guest)
        store(broker, POLICY, DENY_ALL)
        await send(guest, encoded({"command": "Get KEK", "kids": [KID]}) * 3)
        answers = await rest(guest)
    assert json.loads(answers)["status"] == "Fail"


async def test_an_announced_resource_needs_the_release_policy_of_its_release(
    broker: RunningBroker,
) -> None:
    """`Get Resource Info` reads the content; only `Get Resource` releases it."""
    store(broker, f"resources/{RESOURCE}", b"secret")
    async with broker.guest() as guest:
        info = await ask(guest, {"command": "Get Resource Info", "name": RESOURCE})
        assert info["status"] == "OK"
        store(broker, "opa/releasePolicy.rego", DENY_ALL)
        await send(
            guest, encoded({"command": "Get Resource", "optional": {"resource_path": RESOURCE}})
        )
        answer = json.loads(base64.b64decode(await guest._read()))
    assert answer["status"] == "Fail"
    assert not broker.events.named("secret.released")


def write_collateral(broker: RunningBroker, **options: Any) -> None:
    """Write newer collateral into the operator's file."""
    platform = broker.platform.with_options(replace(broker.platform.options, **options))
    later = app.utc_now() + timedelta(hours=1)
    (broker.data.parent / "collateral.json").write_text(collateral_json(platform.collateral(later)))


async def test_sighup_makes_a_revocation_in_new_collateral_effective(
    broker: RunningBroker,
) -> None:
    async with broker.guest() as guest:
        await served(guest)
        write_collateral(broker, pck_revoked=True)
        await broker.daemon.reload()
        await disconnected(broker, guest, "quote-invalid")


async def test_a_revocation_that_another_guest_brings_to_light_is_effective_at_once(
    broker: RunningBroker,
) -> None:
    async with broker.guest() as guest:
        await served(guest)
        write_collateral(broker, pck_revoked=True)
        with pytest.raises(BrokerRefused):
            async with broker.guest() as other:
                await other.version()
        await disconnected(broker, guest, "quote-invalid")


async def test_a_revocation_is_effective_after_five_minutes_without_any_signal(
    broker: RunningBroker,
) -> None:
    async with broker.guest() as guest:
        await served(guest)
        write_collateral(broker, pck_revoked=True)
        await elapse(MAX_AGE_SECONDS)
        await disconnected(broker, guest, "quote-invalid")


async def test_a_refusal_is_recorded_although_the_guest_is_silent(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        await served(guest)
        write_collateral(broker, pck_revoked=True)
        await broker.daemon.reload()
        await until(lambda: broker.events.named("guest.refused"))
        await disconnected(broker, guest, "quote-invalid")
    assert len(broker.events.named("guest.refused")) == 1


async def test_a_guest_is_refused_when_the_set_that_accepts_it_expires(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    clock = Clock()
    async with running_broker(tmp_path, platform, clock=clock) as broker:
        soon = (app.utc_now() + timedelta(hours=1)).isoformat()
        words = ("reference", "add", "now", f"rtmr1={HONEST}", "--expires", soon)
        assert (await verdict(broker, *words)).status == 0
        async with broker.guest() as guest:
            await served(guest)
            clock.forward = timedelta(hours=2)
            await disconnected(broker, guest, "policy-refused")


async def test_a_guest_without_current_collateral_is_not_appraised_and_stays(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    """The operator's file expires; the guest is served again once it is replaced."""
    clock = Clock()
    async with running_broker(tmp_path, platform, clock=clock) as broker, broker.guest() as guest:
        await served(guest)
        clock.forward = timedelta(days=31)
        await not_appraised(guest, "collateral-unavailable")
        fresh = collateral_json(platform.collateral(clock()))
        (tmp_path / "collateral.json").write_text(fresh)
        await elapse(RETRY_SECONDS)
        await served(guest)


async def test_a_guest_survives_a_service_that_does_not_respond(
    tmp_path: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The PCCS is down when its collateral expires, and the guest never reconnects."""
    clock, loop = Clock(), asyncio.get_running_loop()
    timed = partial(CollateralCache, monotonic=loop.time)
    monkeypatch.setattr(collateral_service, "CollateralCache", timed)
    async with running_pccs(platform) as pccs:
        pccs.clock = clock
        settings: dict[str, Any] = {"collateral": None, "collateral_url": (pccs.url,)}
        async with running_broker(tmp_path, platform, clock=clock, **settings) as broker:
            async with broker.guest() as guest:
                await served(guest)
                pccs.change = lambda path, answer: PcsAnswer(500)
                clock.forward = timedelta(days=31)
                await not_appraised(guest, "collateral-unavailable")
                pccs.change = lambda path, answer: answer
                await elapse(MAX_AGE_SECONDS)
                await served(guest)
            assert not broker.events.named("guest.refused", "guest.disconnected")


def remove(broker: RunningBroker) -> None:
    (broker.data / POLICY).unlink()


def put_a_directory_in_its_place(broker: RunningBroker) -> None:
    (broker.data / POLICY).unlink()
    (broker.data / POLICY).mkdir()


def break_it(broker: RunningBroker) -> None:
    (broker.data / POLICY).write_text("package policy\n\nallow if {")


@pytest.mark.parametrize("damage", [remove, put_a_directory_in_its_place, break_it])
async def test_a_guest_survives_a_policy_that_cannot_be_used(
    broker: RunningBroker, damage: Callable[[RunningBroker], None]
) -> None:
    policy = (broker.data / POLICY).read_bytes()
    async with broker.guest() as guest:
        await served(guest)
        damage(broker)
        await not_appraised(guest, "policy-unavailable")
        if (broker.data / POLICY).is_dir():
            (broker.data / POLICY).rmdir()
        (broker.data / POLICY).write_bytes(policy)
        await served(guest)
    assert not broker.events.named("guest.refused", "guest.disconnected")


REQUESTS: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "version": ({"command": "version"}, "json", {"status", "version"}),
    "decrypt": (
        {"command": "Decrypt", "blobs": [blob(KID, bytes(32), bytes(12), "A256GCM")]},
        "json",
        {"status", "error"},
    ),
    "kek": ({"command": "Get KEK", "kids": [KID]}, "json", {"status", "error"}),
    "info": ({"command": "Get Resource Info", "name": RESOURCE}, "json", {"status", "error"}),
    "resource": (
        {"command": "Get Resource", "optional": {"resource_path": RESOURCE}},
        "base64",
        {"status", "error"},
    ),
    "policy": ({"command": "Get Policy", "optional": {}}, "base64", {"status", "error"}),
}
"""Requests, how their answer is encoded, and the members without which eaa_kbc cannot read it.

Source: guest-components 4b7049c, `eaa_kbc/protocol.rs` and `mod.rs`: `error` is unwrapped, so that
the client panics without it; `data` of `Get Resource Info` has a member `base64size`, or is absent.
"""


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("refused", [True, False])
async def test_eaa_kbc_can_read_the_failure_of_each_command(
    broker: RunningBroker, name: str, refused: bool
) -> None:
    request, form, members = REQUESTS[name]
    async with broker.guest() as guest:
        await served(guest)
        if refused:
            store(broker, POLICY, DENY_ALL)
        else:
            remove(broker)
        await send(guest, encoded(request))
        answer = await guest._read()
    if form == "base64":
        answer = base64.b64decode(answer, validate=True)
    found = json.loads(answer)
    assert found["status"] == "Fail"
    assert members <= set(found)
    assert all(isinstance(found[member], str) for member in members)
    if name == "info":
        assert "data" not in found


async def test_a_guest_may_be_silent_for_a_day(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        await served(guest)
        await until(lambda: broker.attested._idle)
        for _ in range(24):
            await elapse(DAY / 24)
        await served(guest)
    assert not broker.events.named("connection.timeout", "guest.disconnected")


def server_side(broker: RunningBroker) -> socket.socket:
    """Return the broker's socket of the only connection."""
    (found,) = (
        link._wire.socket
        for link in gc.get_objects()
        if type(link) is Link and link._wire.socket.fileno() >= 0
        if link._wire.socket.getsockname() == broker.address
    )
    return found


async def test_the_kernel_notices_that_a_silent_guest_has_vanished(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        await served(guest)
        connection = server_side(broker)
        options = {
            name: connection.getsockopt(level, option)
            for name, level, option in (
                ("keepalive", socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                ("idle", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                ("interval", socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                ("probes", socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                ("milliseconds", socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            )
        }
    assert options == {
        "keepalive": 1,
        "idle": 60,
        "interval": 15,
        "probes": 8,
        "milliseconds": 180_000,
    }


async def test_a_peer_that_is_not_accepted_keeps_its_limit(broker: RunningBroker) -> None:
    reader, writer = await asyncio.open_connection(*broker.address)
    await until(lambda: broker.attested._tasks)
    await elapse(60)
    assert await reader.read() == b""
    writer.close()


async def test_an_operator_lists_and_disconnects_guests(broker: RunningBroker) -> None:
    async with AsyncExitStack() as stack:
        guest = await stack.enter_async_context(broker.guest())
        await served(guest)  # otherwise the second one could be accepted first
        await served(await stack.enter_async_context(broker.guest()))
        ended = await verdict(broker, "guest", "list", "connected", "--json")
        first, second = ended.items
        assert {first["id"], second["id"]} == {
            str(event["appraisal"]) for event in broker.events.named("guest.accepted")
        }
        assert (first["standing"], first["code"], first["tee"]) == ("accepted", "ok", "tdx")
        store(broker, POLICY, DENY_ALL)
        await broker.daemon.reload()
        await until(lambda: len(broker.events.named("guest.refused")) == 2)
        table = (await verdict(broker, "guest", "list", "connected")).stdout.decode()
        assert table.count("policy-refused") == 2
        ended = await verdict(broker, "guest", "disconnect", first["id"])
        assert ended.status == 0
        assert f"first appraised as {first['id']}" in ended.stdout.decode()
        await elapse(0)
        assert len(broker.attested._tasks) == 1
        assert await rest(guest) == b""
        listed = await verdict(broker, "guest", "list", "connected", "--json")
        assert [each["id"] for each in listed.items] == [second["id"]]
        again = await verdict(broker, "guest", "disconnect", first["id"])
        assert again.status == 1
        assert "no guest with this id is connected" in again.stderr
    (event,) = broker.events.named("guest.disconnected")
    assert event["caller"]
    assert "guest.disconnected" in "".join(
        file.read_text() for file in (broker.data / "audit").glob("*.jsonl") if file.is_file()
    )


async def test_a_new_release_policy_has_guests_appraised_again(broker: RunningBroker) -> None:
    """It decides at each release anyway; the claims that it sees are those of the new appraisal."""
    (broker.data.parent / "release.rego").write_bytes(DENY_ALL)
    async with broker.guest() as guest:
        await served(guest)
        (before,) = broker.attested._guests._guests.values()
        appraised = before.began
        words = ("policy", "set", "releasePolicy.rego", str(broker.data.parent / "release.rego"))
        assert (await verdict(broker, *words)).status == 0
        await until(lambda: before.began > appraised)
        with pytest.raises(BrokerRefused, match="not released to this guest"):
            await guest.keks([KID])
