"""Construction of the listener of the web console, with its pages.

`console` imports this module only if the settings have a console: the pages and their library take
a tenth of the start.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from functools import partial

from verdictd_py.config import Address, Settings
from verdictd_py.console.auditproof import Export, Proof, export, verify
from verdictd_py.console.audittrail import AuditSearch, AuditView, search
from verdictd_py.console.identity import Identity
from verdictd_py.console.operations import Operations, Register
from verdictd_py.console.pages import CHANGES, FORMS, PAGES
from verdictd_py.console.server import ConsoleListener
from verdictd_py.console.sessions import Sessions
from verdictd_py.console.signin import SignIn
from verdictd_py.console.site import Site
from verdictd_py.console.sources import CollateralPart, Sources
from verdictd_py.console.views.ending import End
from verdictd_py.console.views.load import Load
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.measuring import BrokerMetrics
from verdictd_py.events.heads import HeadSigner
from verdictd_py.listeners.protection import Protection
from verdictd_py.offload import LARGE, offload
from verdictd_py.ports import Events, Tees
from verdictd_py.tees.intel.collateral.periods import periods


def build(
    settings: Settings,
    protected: Protection,
    register: Register,
    tees: Tees,
    *,
    events: Events,
    sessions: Sessions,
    collateral: CollateralService,
    metrics: BrokerMetrics,
) -> tuple[ConsoleListener, bool]:
    """Build the listener at `settings.console`; return it, and whether certificates sign in.

    Args:
        register: adds the services of the management API to a server.
        metrics: numbers of the broker.

    Raises:
        ConfigError: the address needs TLS.
    """
    address = Address.parse(settings.console or "")
    identity = Identity.at(address, protected)
    site = Site(
        broker=socket.gethostname(),
        pages=PAGES,
        changes=CHANGES,
        forms=FORMS,
        read_only=settings.console_read_only,
        signs_out=identity.context is None,
        meanings=_meanings(tees),
        tees=tees.names,
        measurements=_measurements(tees),
        policy=tees.default.documents.policy,
        sources=_sources(collateral, settings, metrics),
    )
    people = SignIn(site, Operations(register), sessions, identity, events)
    listener = ConsoleListener(address, site=site, people=people, events=events)
    return listener, identity.context is not None


def _meanings(tees: Tees) -> Callable[[str], Mapping[str, str]]:
    def of(tee: str) -> Mapping[str, str]:
        known = tees.get(tee)
        return {} if known is None else {n: claim.meaning for n, claim in known.claims.items()}

    return of


def _measurements(tees: Tees) -> Callable[[str], Mapping[str, str]]:
    return lambda tee: {n: tees.named(tee).claims[n].meaning for n in tees.named(tee).measurements}


def _sources(collateral: CollateralService, settings: Settings, metrics: BrokerMetrics) -> Sources:
    """Return the data of pages that the management API has no method for."""
    audit, key = settings.data_dir / "audit", settings.audit_key
    keys = () if key is None else (HeadSigner.read(key).public,)

    async def parts() -> tuple[CollateralPart, ...]:
        found = periods(await collateral.sets())
        return tuple(
            CollateralPart(each.platform, each.part, each.since, each.until, each.number)
            for each in found
        )

    async def ends() -> tuple[End, ...]:
        own = (
            End("Certificate of %(name)s", name, at.isoformat())
            for name, at in metrics.certificates().items()
        )
        renewed = bool(collateral.background)
        return *own, *(_end(each, renewed=renewed) for each in await parts())

    searching = asyncio.Lock()

    async def records(wanted: AuditSearch) -> AuditView:
        async with searching:  # each search has some 100 MB for a moment
            return await offload(LARGE, partial(search, audit, wanted))

    async def proof() -> Proof:
        async with searching:  # not with the threads for large inputs of guests
            return await asyncio.to_thread(verify, audit, keys)

    async def exported(wanted: AuditSearch, form: str) -> Export:
        async with searching:
            return await asyncio.to_thread(export, audit, wanted, form)

    async def load() -> Load:
        return metrics.load()

    days = collateral.grace.total_seconds() / 86_400
    return Sources(parts, ends, records, proof, exported, load, days)


def _end(part: CollateralPart, *, renewed: bool) -> End:
    name = f"{part.platform}, {part.part}"
    until = part.until.isoformat()
    return End("Collateral %(name)s", name, until, "/collateral", renewed=renewed)
