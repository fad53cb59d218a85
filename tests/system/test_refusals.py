"""docs/refusals.md: a running broker gives the reasons of each row."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from OpenSSL import SSL

from tests.support.bad_guests import FixedQuote, anothers_quote, issued
from tests.support.broker import KEY, RunningBroker, running_broker
from tests.support.channel import store
from tests.support.eventlogs import command_line, event, written
from tests.support.measured_boot import BOOT, judged
from tests.support.rcar_guests import Tamper, attest, connected, tdx_guest, with_init_data
from tests.support.vectors import input_file
from tests.tees.sgx_quotes import Enclave, sgx_collateral
from verdictd_py import daemon as app
from verdictd_py.domain.eventtypes import EventValue
from verdictd_py.guest.attesters import Attester, guest_context
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.session import RcarGuest
from verdictd_py.listeners import failures
from verdictd_py.listeners.kbs import connections
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import (
    Flaw,
    PlatformOptions,
    SimulatedPlatform,
    TdMeasurements,
    collateral_json,
)

PAGE: Final = Path(__file__).parents[2] / "docs" / "refusals.md"
ROW: Final = re.compile(r"^\| (?P<case>[^|]+?) \| `(?P<says>[^`]+)` \| (?P<do>[^|]+) \|$", re.M)
OTHER: Final = "ab" * 48
CERTIFIED_BY_ID: Final = input_file("reports/quote-certification-type-3.bin").read_bytes()
MY_RULE: Final = b"""package policy

import rego.v1

default allow := false

in_rack if input.fmspc in data.rack

reasons contains "only machines of the first rack" if not in_rack
"""


def rows() -> dict[str, str]:
    """Return the reasons on the page by case."""
    text, _, _ = PAGE.read_text().partition("## Connections that fail")
    return {found["case"]: found["says"] for found in ROW.finditer(text)}


def reasons(event: dict[str, EventValue]) -> list[str]:
    found = event["reasons"]
    assert isinstance(found, tuple)
    return list(found)


async def shown(broker: RunningBroker, context: SSL.Context) -> list[str]:
    """Return the reasons that are logged for a guest with this context."""
    with pytest.raises(BrokerRefused):
        async with GuestConnection.open(*broker.address, context, timeout_seconds=60) as guest:
            await guest.version()
    refused = broker.events.named("guest.refused")
    if refused:
        return reasons(refused[-1])
    return [str(broker.events.named("guest.not-judged")[-1]["reason"])]


async def of_guest(broker: RunningBroker, attester: Attester | None = None) -> list[str]:
    return await shown(broker, broker.context(attester or broker.attester()))


async def with_quote(broker: RunningBroker, quote: bytes) -> list[str]:
    context = guest_context(FixedQuote(quote), Form.CURRENT, now=broker.now)
    return await shown(broker, context)


async def with_data(broker: RunningBroker, **data: Any) -> list[str]:
    store(broker, "opa/tdxData", json.dumps(data).encode())
    return await of_guest(broker)


async def with_policy(broker: RunningBroker, policy: bytes) -> list[str]:
    store(broker, "opa/tdxPolicy.rego", policy)
    return await of_guest(broker)


async def after_a_boot(broker: RunningBroker) -> list[str]:
    appraisal = await judged(broker, written(*BOOT, event(2, 0x4, b"one more")))
    return [reason.text for reason in appraisal.reasons]


async def of_another_kernel(broker: RunningBroker) -> list[str]:
    lie = dataclasses.replace(command_line(b"quiet"), data=b"kernel_cmdline: other\0")
    appraisal = await judged(broker, written(lie, BOOT[1]))
    return [reason.text for reason in appraisal.reasons]


async def over_http(broker: RunningBroker, guest: RcarGuest, *tampers: Tamper) -> list[str]:
    async with connected(broker.kbs.endpoint, guest) as session:
        with pytest.raises(KbsRefused):
            await attest(session, *tampers)
    return reasons(broker.events.named("guest.refused")[-1])


async def with_a_device(broker: RunningBroker) -> list[str]:
    guest = tdx_guest(broker.platform, additional=lambda _: '{"nvidia":{}}')
    return await over_http(broker, guest)


async def with_other_init_data(broker: RunningBroker) -> list[str]:
    text = 'version = "0.1.0"\nalgorithm = "sha384"\n'
    guest = tdx_guest(broker.platform, init_data=text)
    return await over_http(broker, guest, with_init_data(text + "[data]\n"))


async def of_an_enclave(broker: RunningBroker) -> list[str]:
    collateral = collateral_json(sgx_collateral(of=broker.platform, now=broker.now))
    (broker.data.parent / "collateral.json").write_text(collateral)
    return await of_guest(broker, Enclave(broker.platform))


async def not_released(broker: RunningBroker) -> list[str]:
    store(broker, "opa/releasePolicies", b'{"keys/team-a/": "teamA.rego"}')
    store(
        broker,
        "opa/teamA.rego",
        MY_RULE.replace(b"only machines of the first rack", b"not team A's guest"),
    )
    store(broker, "keys/team-a/key/1", KEY)
    async with broker.guest() as guest:
        with pytest.raises(BrokerRefused):
            await guest.resource("team-a/key/1")
    (refused,) = broker.events.named("release.refused")
    return reasons(refused)


@dataclasses.dataclass(frozen=True)
class Case:
    """A broker on a platform, and a guest that it refuses."""

    refuse: Callable[[RunningBroker], Awaitable[list[str]]]
    platform: PlatformOptions = dataclasses.field(default_factory=PlatformOptions)
    settings: tuple[tuple[str, Any], ...] = ()


def options(**changes: Any) -> PlatformOptions:
    return dataclasses.replace(PlatformOptions(), **changes)


HTTP: Final = (("kbs_http", "127.0.0.1:0"),)
ENDED: Final = timedelta(seconds=-1)
CASES: Final = {
    "another kernel": Case(lambda broker: with_data(broker, rtmr1=[OTHER])),
    "a debug TD": Case(
        lambda broker: of_guest(broker, broker.attester(measurements=TdMeasurements().debug()))
    ),
    "an old platform": Case(of_guest, options(tcb_status="OutOfDate")),
    "an advisory that is not accepted": Case(
        lambda broker: with_data(broker, advisoryIds=["INTEL-SA-00615"]),
        options(tcb_status="SWHardeningNeeded", advisory_ids=("INTEL-SA-00837",)),
    ),
    "a revoked platform": Case(of_guest, options(pck_revoked=True)),
    "a revoked TCB": Case(of_guest, options(tcb_status="Revoked")),
    "a changed quote": Case(
        lambda broker: of_guest(broker, broker.attester(flaw=Flaw.CHANGED_AFTER_SIGNING))
    ),
    "another guest's quote": Case(
        lambda broker: shown(broker, anothers_quote(Form.CURRENT)(broker))
    ),
    "no evidence": Case(lambda broker: shown(broker, broker.context(None))),
    "an old certificate": Case(lambda broker: shown(broker, issued(timedelta(days=-400))(broker))),
    "a guest whose clock is ahead": Case(
        lambda broker: shown(broker, issued(timedelta(days=2))(broker))
    ),
    "a host that gave no quote": Case(lambda broker: with_quote(broker, b"")),
    "a host without a PCK certificate": Case(lambda broker: with_quote(broker, CERTIFIED_BY_ID)),
    "your own rule": Case(lambda broker: with_policy(broker, MY_RULE)),
    "nothing is pinned, and must be": Case(
        of_guest, settings=(("require_reference_values", True),)
    ),
    "an enclave where none is pinned": Case(of_an_enclave),
    "an event log that lacks an event": Case(after_a_boot),
    "a log with another command line": Case(of_another_kernel),
    "other init-data": Case(with_other_init_data, settings=HTTP),
    "a device without a verifier": Case(with_a_device, settings=HTTP),
    "another team's secret": Case(not_released),
    "no collateral": Case(of_guest, settings=(("collateral", None),)),
    "expired collateral": Case(of_guest, options(collateral_lifetime=ENDED)),
    "collateral older than the required TCB recovery": Case(
        of_guest, settings=(("min_tcb_evaluation", 18),)
    ),
    "a policy that is broken": Case(
        lambda broker: with_policy(broker, b"package policy\nallow if { true\n")
    ),
    "a misspelled name in reference data": Case(lambda broker: with_data(broker, mrtd=[OTHER])),
}


def test_the_page_has_every_case() -> None:
    assert list(rows()) == list(CASES)
    assert len(CASES) >= 10


@pytest.mark.parametrize(
    "reason",
    [
        *(f": {hint}" for hint in failures.HINTS.values()),
        connections.HTTPS_TO_HTTP,
        connections.HTTP_TO_HTTPS,
    ],
)
def test_the_page_has_the_reasons_of_failed_connections(reason: str) -> None:
    """The tests of the listeners show when each is logged."""
    _, _, text = PAGE.read_text().partition("## Connections that fail")
    assert re.split("[;,]", reason.removeprefix(": "))[0] in text


@pytest.mark.parametrize("name", CASES)
async def test_the_reasons_are_those_on_the_page(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    platform = SimulatedPlatform.create(now=app.utc_now()).with_options(case.platform)
    async with running_broker(tmp_path, platform, **dict(case.settings)) as broker:
        said = await case.refuse(broker)
    # Digits and dates are cut on the page.
    pattern = r"\S+".join(re.escape(part) for part in rows()[name].split("..."))
    assert any(re.fullmatch(pattern, text) for text in said), said
