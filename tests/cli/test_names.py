"""Beginnings of names: accepted where they are unique, never followed silently by a change."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import pytest
from pysequoia import Tsk

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import store
from tests.support.command import Ended
from tests.support.refused_guests import OTHER, refused_for, seen
from tests.support.verdict import verdict

MANY = 1500


def with_keys(broker: RunningBroker, *names: str) -> None:
    for name in names:
        (broker.data / "keys" / name).write_bytes(KEY)


async def on_terminal(broker: RunningBroker, *words: str, answer: bytes) -> Ended:
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer)
        return await verdict(broker, *words, stdin=theirs)
    finally:
        os.close(theirs)
        os.close(ours)


async def test_a_key_is_read_by_a_unique_beginning_among_thousands(broker: RunningBroker) -> None:
    with_keys(broker, *(f"k{number:04}" for number in range(MANY)), "k", "zeta")
    described = await verdict(broker, "key", "describe", "z", "--json")
    assert described.json["name"] == "zeta"
    assert described.stderr == "'z' stands for zeta\n"
    exact = await verdict(broker, "key", "describe", "k", "--json")  # an exact name wins
    assert (exact.json["name"], exact.stderr) == ("k", "")
    ambiguous = await verdict(broker, "key", "describe", "k1")
    line = ambiguous.complaint(1, "verdict-py")
    assert line.startswith("several keys begin with 'k1': k1000, k1001, ")
    assert "k1007, ...; write" in line
    for words in (("describe", "k9"), ("show", "K"), ("describe", "é"), ("describe", "")):
        missing = await verdict(broker, "key", *words)
        assert missing.status == 1
        assert "stands for" not in missing.stderr


async def test_a_key_is_never_deleted_by_the_beginning_of_its_name_without_a_question(
    broker: RunningBroker,
) -> None:
    with_keys(broker, "zeta")
    for more in ((), ("--yes",)):
        ended = await verdict(broker, "key", "delete", "ze", *more)
        assert "'ze' is the beginning of zeta" in ended.complaint(2, "verdict-py")
    declined = await on_terminal(broker, "key", "delete", "ze", answer=b"n\n")
    assert declined.status == 1
    assert "Delete the key zeta?" in declined.stderr
    forced = await on_terminal(broker, "key", "delete", "ze", "--yes", answer=b"y\n")
    assert forced.status == 2
    assert (broker.data / "keys" / "zeta").exists()
    assert (await on_terminal(broker, "key", "delete", "ze", answer=b"y\n")).status == 0
    assert not (broker.data / "keys" / "zeta").exists()
    assert (await verdict(broker, "key", "delete", KID)).status == 0  # a whole name, in a script


async def test_resources_documents_sets_and_certificates(broker: RunningBroker) -> None:
    store(broker, "resources/team/signing/one", b"content")
    shown = await verdict(broker, "resource", "show", "team/sig")
    assert (shown.stdout, shown.stderr) == (b"content", "'team/sig' stands for team/signing/one\n")
    assert (await verdict(broker, "resource", "delete", "team/sig")).status == 2
    policy = await verdict(broker, "policy", "show", "tdxP")
    assert policy.stdout.startswith(b"#")
    ambiguous = await verdict(broker, "policy", "show", "tdx")
    assert "tdxData, tdxPolicy.rego" in ambiguous.complaint(1, "verdict-py")
    for name, value in (("spring", "ab"), ("summer", "cd")):
        added = ("reference", "add", name, f"rtmr1={value * 48}")
        assert (await verdict(broker, *added)).status == 0
    differ = await verdict(broker, "reference", "diff", "sp", "su", "--json")
    assert (differ.json["first"], differ.json["second"]) == ("spring", "summer")
    assert (await verdict(broker, "reference", "retire", "sp")).status == 2
    certificate = Tsk.generate("Ann <ann@example.org>").extract_certificate()
    file = broker.data / "ann.asc"
    file.write_text(str(certificate))
    assert (await verdict(broker, "keyring", "import", str(file))).status == 0
    fingerprint = certificate.fingerprint.lower()
    refused = await verdict(broker, "keyring", "delete", fingerprint[:9])
    assert f"is the beginning of {fingerprint}" in refused.complaint(2, "verdict-py")
    assert (await verdict(broker, "keyring", "delete", fingerprint)).status == 0


async def test_guests_are_found_by_a_beginning_and_pinned_by_the_whole_id(
    broker: RunningBroker,
) -> None:
    which = await refused_for(broker, rtmr1=[OTHER])
    explained = (await verdict(broker, "explain", which[:6], "--json")).json
    assert explained["id"] == which
    by_evidence = (await verdict(broker, "explain", explained["evidence"][:12], "--json")).json
    assert by_evidence["id"] == which
    tested = await verdict(broker, "policy", "test", "--id", which[:6])
    assert (tested.status, b"refused" in tested.stdout) == (1, True)
    pin = ("reference", "pin", "--from", which[:6])
    refused = await verdict(broker, *pin, "--yes", "--field", "rtmr1")
    assert f"needs the whole id: '{which[:6]}' stands for {which}" in refused.complaint(
        2, "verdict-py"
    )
    assert (await on_terminal(broker, *pin, answer=b"y\n")).status == 0
    await seen(broker)
    assert broker.events.named("guest.accepted")


@pytest.mark.broker(workers=2)
async def test_a_connected_guest_of_any_worker_is_disconnected_after_a_question(
    broker: RunningBroker,
) -> None:
    async with AsyncExitStack() as stack:
        for guest in [await stack.enter_async_context(broker.guest()) for _ in range(4)]:
            await guest.version()
        listed = (await verdict(broker, "guest", "list", "connected", "--json")).items
        assert len(listed) == 4
        beginnings = [each["id"][:8] for each in listed]
        refused = await verdict(broker, "guest", "disconnect", beginnings[0], "--yes")
        assert refused.status == 2
        ended = await asyncio.gather(
            *(
                on_terminal(broker, "guest", "disconnect", beginning, answer=b"y\n")
                for beginning in beginnings
            )
        )
        assert [each.status for each in ended] == [0] * 4
