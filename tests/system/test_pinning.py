"""Why a guest was refused, and its measurements as reference values, in one command."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import RunningBroker, running_broker
from tests.support.channel import store
from tests.support.command import Ended, environment
from tests.support.refused_guests import HONEST, OTHER, refused_for, seen
from tests.support.verdict import only_remarks, verdict
from verdictd_py import daemon as app
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import Flaw, PlatformOptions, SimulatedPlatform, TdMeasurements


def reference(broker: RunningBroker) -> dict[str, Any]:
    found = json.loads((broker.data / "opa" / "tdxData").read_text())
    assert isinstance(found, dict)
    return found


async def test_a_refusal_is_explained_with_measured_and_expected_values(
    broker: RunningBroker,
) -> None:
    which = await refused_for(broker, rtmr1=[OTHER], rtmr2=[OTHER])
    for words in ((which,), ("--last",)):
        found = (await verdict(broker, "explain", *words, "--json")).json
        assert found["id"] == which
        assert found["verdict"] == "refused"
        assert [(r["rule"], r["measured"], r["expected"]) for r in found["reasons"]] == [
            ("rtmr1", HONEST, OTHER),
            ("rtmr2", TdMeasurements().rtmr2.hex(), OTHER),
        ]
        assert found["claims"]["rtmr1"] == HONEST
    text = (await verdict(broker, "explain", which)).stdout.decode()
    lines = text.splitlines()
    at = lines.index("rtmr1")
    assert lines[at + 1].split() == ["measured", HONEST]  # whole, one below the other
    assert lines[at + 2].split() == ["expected", OTHER]
    differing = next(n for n, digit in enumerate(HONEST) if digit != OTHER[n])
    assert lines[at + 3] == " " * (lines[at + 1].index(HONEST) + differing) + "^"
    assert f"verdict-py reference pin --from {which}" in text
    listed = (await verdict(broker, "guest", "list", "--json")).items
    assert [guest["id"] for guest in listed] == [which]


async def test_a_refusal_of_an_old_platform_names_what_is_behind(tmp_path: Path) -> None:
    options = PlatformOptions(tcb_status="OutOfDate")
    platform = SimulatedPlatform.create(now=app.utc_now(), options=options)
    async with running_broker(tmp_path, platform) as broker:
        with pytest.raises(BrokerRefused):
            async with broker.guest() as guest:
                await guest.version()
        text = (await verdict(broker, "explain", "--last")).stdout.decode()
        found = (await verdict(broker, "explain", "--last", "--json")).json
    (behind,) = found["claims"]["tcbBehind"]
    assert re.fullmatch(r"platform: PCE has SVN (\d+), needs \d+ since 2\d{3}-\d\d-\d\d", behind)
    assert f"behind the newest TCB: {behind}" in text


async def test_a_refused_guest_is_pinned_in_one_command(broker: RunningBroker) -> None:
    which = await refused_for(broker, rtmr1=[OTHER])
    pin = ("reference", "pin", "--from", which, "--yes", "--field", "rtmr1")
    ended = await verdict(broker, *pin)
    only_remarks(ended)
    for shown in (HONEST, OTHER, "FMSPC", "UpToDate"):
        assert shown in ended.stdout.decode()
    assert reference(broker) == {"rtmr1": [OTHER, HONEST]}
    again = await verdict(broker, *pin, "--json")
    assert "accepted already" in again.stderr
    assert again.json["schema"] == "verdictd.v1/error"
    async with broker.guest() as guest:
        assert await guest.version() == "v1"
    (event,) = broker.events.named("reference.pinned")
    assert event["values"] == (f"rtmr1={HONEST}",)
    assert event["appraisal"] == which


async def test_an_accepted_guest_pins_open_measurements(broker: RunningBroker) -> None:
    """By default every measurement is open; a pin of one trusted guest closes them."""
    which = await seen(broker)
    fields = ("mrTd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    pin = ("reference", "pin", "--from", which, "--yes")
    assert (await verdict(broker, *pin, "--field", *fields)).status == 0
    assert reference(broker)["rtmr1"] == [HONEST]
    await seen(broker, broker.attester(measurements=TdMeasurements(rtmr1=b"\xab" * 48)))
    assert broker.events.named("guest.refused")
    await seen(broker)
    assert len(broker.events.named("guest.accepted")) == 2


async def ask_on_terminal(broker: RunningBroker, which: str, answer: bytes) -> Ended:
    ours, theirs = os.openpty()
    try:
        os.write(ours, answer)
        return await verdict(broker, "reference", "pin", "--from", which, stdin=theirs)
    finally:
        os.close(theirs)
        os.close(ours)


async def test_a_pin_is_displayed_and_confirmed_before_it_takes_effect(
    broker: RunningBroker,
) -> None:
    which = await refused_for(broker, rtmr1=[OTHER])
    for answer in (b"n\n", b"\n", b"yesterday\n"):
        ended = await ask_on_terminal(broker, which, answer)
        assert ended.status == 1
        shown = ended.stdout.decode()
        for said in (HONEST, OTHER, which, "time", "peer", "FMSPC", "TCB", "UpToDate"):
            assert said in shown
        assert reference(broker) == {"rtmr1": [OTHER]}
    assert (await ask_on_terminal(broker, which, b"y\n")).status == 0
    assert reference(broker) == {"rtmr1": [OTHER, HONEST]}


@pytest.mark.usefixtures("interruptible")
async def test_an_interrupt_at_the_question_changes_nothing(broker: RunningBroker) -> None:
    """Ctrl-C ends the command at once, not at the next line."""
    which = await refused_for(broker, rtmr1=[OTHER])
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.verdict", "-c", broker.client_api),
        *("reference", "pin", "--from", which),
        stdin=theirs,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        assert process.stderr is not None
        await process.stderr.readuntil(b"[y/N] ")
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        assert await process.stderr.read() == b""
    finally:
        os.close(theirs)
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert reference(broker) == {"rtmr1": [OTHER]}


async def test_a_pin_without_a_terminal_needs_yes(broker: RunningBroker) -> None:
    which = await refused_for(broker, rtmr1=[OTHER])
    ended = await verdict(broker, "reference", "pin", "--from", which)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert "--yes and --field" in ended.stderr
    assert reference(broker) == {"rtmr1": [OTHER]}


async def refusal(broker: RunningBroker, which: str, *fields: str) -> str:
    """Return the error of a pin, after a check that nothing changed."""
    before = (broker.data / "opa" / "tdxData").read_bytes()
    words = ("reference", "pin", "--from", which, "--yes", "--field", *(fields or ("rtmr1",)))
    line = (await verdict(broker, *words)).complaint(1, "verdict-py")
    assert (broker.data / "opa" / "tdxData").read_bytes() == before
    return line


async def test_only_genuine_guests_refused_for_measurements_alone_can_be_pinned(
    broker: RunningBroker,
) -> None:
    debug = await seen(broker, broker.attester(measurements=TdMeasurements().debug()))
    assert "debug" in await refusal(broker, debug)
    tampered = await seen(broker, broker.attester(flaw=Flaw.CHANGED_AFTER_SIGNING))
    assert "did not verify" in await refusal(broker, tampered)
    both = await refused_for(broker, rtmr1=[OTHER], tcbStatus=["OutOfDate"])
    assert "tcbStatus" in await refusal(broker, both)
    elsewhere = await refused_for(broker, fmspc=["00" * 6], rtmr1=[OTHER])
    assert "fmspc" in await refusal(broker, elsewhere)
    for unknown in ("0" * 32, "", "../x"):
        line = await refusal(broker, unknown)
        assert "no guest with this id" in line or "no guest is named" in line


async def test_a_pin_does_not_overrule_the_operators_policy(broker: RunningBroker) -> None:
    policy = 'package policy\nimport rego.v1\ndefault allow := false\nreasons contains "not yet"\n'
    store(broker, "opa/tdxPolicy.rego", policy.encode())
    which = await refused_for(broker, rtmr1=[OTHER])
    assert "but also for policy" in await refusal(broker, which)


@pytest.mark.parametrize("field", ["reportData", "debug", "tcbStatus", "policy", "x\x1b[31m"])
async def test_a_claim_that_is_not_a_measurement_is_never_pinned(
    broker: RunningBroker, field: str
) -> None:
    which = await refused_for(broker, rtmr1=[OTHER])
    line = await refusal(broker, which, field)
    assert "cannot be pinned from this guest" in line
    assert "\x1b" not in line
