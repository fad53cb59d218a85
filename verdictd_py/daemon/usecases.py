"""Construction of the use cases that the listeners offer, on one data directory."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial

from verdictd_py.broker.administration import (
    Administration,
    KeyAdministrator,
    ResourceAdministrator,
)
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.catalogue import Catalogue
from verdictd_py.broker.changes import CheckedDocuments
from verdictd_py.broker.connected import Changes, ConnectedGuests
from verdictd_py.broker.contents import StoredContents
from verdictd_py.broker.documents import DocumentAdministrator
from verdictd_py.broker.explanation import Explainer
from verdictd_py.broker.history import History, JudgementSink
from verdictd_py.broker.ineffective import IneffectiveEntries
from verdictd_py.broker.policytests import PolicyTests
from verdictd_py.broker.references import ReferenceAdministrator
from verdictd_py.broker.referencesets import SetAdministrator
from verdictd_py.broker.release import Releaser
from verdictd_py.broker.revisions import DecidingTexts, Revisions
from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.clock import Clock
from verdictd_py.daemon.stores import Stores
from verdictd_py.daemon.vaultsources import Sources, sources_of
from verdictd_py.errors import NotFound, PolicyInvalid, StorageError
from verdictd_py.formats.openpgp import SequoiaKeyringEditor
from verdictd_py.policy.appraisal import GuestTrust, RegoAppraisalPolicy
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.floor import Pinning
from verdictd_py.policy.release import RegoReleasePolicy
from verdictd_py.policy.report import PolicyReports
from verdictd_py.policy.sets import DocumentsWithSets
from verdictd_py.policy.trial import PolicyTrial
from verdictd_py.ports import AppraisalPolicy, Events, Tees, VerifierContext
from verdictd_py.ports.tees import HttpGet
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.tees.intel.tee import VENDOR, IntelService
from verdictd_py.tees.registry import VerifierSet, select


@dataclass(frozen=True, slots=True)
class UseCases:
    """Use cases of the broker.

    Attributes:
        tees: the known TEEs.
        appraisal: the appraisal policy.
        catalogue: what reads each stored document.
        ineffective: entries of documents that have no effect.
        contents: checks of the contents that guests read.
        digests: digests of the documents when they were last read.
        sources: stores of keys and resources, which are closed at the end.
        prepare: compiles all policies in force before the next guest needs them.
        trusted_root: digest of the root that is trusted instead of the vendors', or None.
    """

    tees: Tees
    verifiers: VerifierSet
    appraisal: RegoAppraisalPolicy
    catalogue: Catalogue
    ineffective: IneffectiveEntries
    contents: StoredContents
    release: RegoReleasePolicy
    digests: DigestLog
    prepare: Callable[[], Awaitable[None]]
    history: History
    explainer: Explainer
    appraiser: Appraiser
    connected: ConnectedGuests
    releaser: Releaser
    wrapper: Wrapper
    administration: Administration
    trusted_root: str | None
    sources: Sources


def _site_get(settings: Settings) -> AbstractAsyncContextManager[HttpGet]:
    """Open the HTTP client of a verifier; its library is imported when it is needed."""
    from verdictd_py.daemon.http import site_get  # noqa: PLC0415

    return site_get(settings)


def build_appraiser(  # noqa: PLR0913  # as those of `Appraiser`, all by keyword
    *,
    verifiers: VerifierSet,
    tees: Tees,
    policy: AppraisalPolicy,
    clock: Clock,
    events: Events,
    history: JudgementSink | None = None,
    allow_unlogged: bool = False,
    seconds: float | None = None,
    trust: GuestTrust | None = None,
) -> Appraiser:
    """Build the appraiser; the listeners and `verdictd-py appraise` both use this function."""
    return Appraiser(
        verifiers=verifiers,
        tees=tees,
        policy=policy,
        clock=clock,
        events=events,
        history=history,
        insecure_accept_anyone=verifiers.accepts_anyone,
        allow_unlogged=allow_unlogged,
        seconds=seconds,
        trust=trust,
    )


def use_cases(  # noqa: PLR0913  # what the use cases are built from, all by keyword
    settings: Settings,
    unsafe: Unsafe,
    directory: Directory,
    *,
    tees: Tees,
    intel: IntelService,
    root_ca_der: bytes | None,
    clock: Clock,
    events: Events,
    changes: Changes | None = None,
    judgements: JudgementSink | None = None,
    stores: Stores | None = None,
) -> UseCases:
    """Build the use cases on one data directory.

    Args:
        intel: what the verifiers of Intel's TEEs share.
        changes: announced changes after which connected guests are appraised again.
        judgements: receives the judgements instead of the history of these use cases.
        stores: what they use instead of plain files in the data directory.

    Raises:
        ConfigError: a verifier cannot be built.
    """
    stores = stores or Stores.on(directory, tees, events)
    verifiers = select(
        settings.verifier or None,
        tees,
        VerifierContext(
            clock=clock,
            events=events,
            store=stores.collateral,
            http=partial(_site_get, settings),
            root_ca_der=root_ca_der,
            services={VENDOR: intel},
        ),
        sections=settings.tee,
        insecure_nullverifier=unsafe.insecure_nullverifier,
        insecure_sample_verifier=unsafe.insecure_sample_verifier,
    )
    sources = sources_of(settings, stores.keys, stores.resources)
    keys, resources, documents = sources.keys, sources.resources, stores.documents
    deciding = DocumentsWithSets(documents, tees, clock)
    compiled = CompiledPolicies()
    pinning = Pinning(verifiers.pinned_only, settings.require_reference_values)
    appraisal = RegoAppraisalPolicy(
        deciding,
        tees,
        compiled,
        pinning=pinning,
    )
    release = RegoReleasePolicy(documents, tees, compiled)
    history = History()
    sink: JudgementSink = history if judgements is None else judgements

    async def prepare() -> None:
        for tee in verifiers:
            with suppress(NotFound, StorageError, PolicyInvalid):  # readiness reports it
                await appraisal.prepare(tee)
        await release.prepare()

    announced = Changes() if changes is None else changes

    async def changed() -> None:
        announced.announce()
        await prepare()

    tester = PolicyTrial(tees, compiled)
    catalogue = Catalogue(documents, tees, verifiers)
    checked = CheckedDocuments(documents, tees, tester, clock, changed, events)
    appraiser = build_appraiser(
        verifiers=verifiers,
        tees=tees,
        policy=appraisal,
        clock=clock,
        events=events,
        history=sink,
        allow_unlogged=settings.allow_unlogged,
        seconds=settings.appraisal_timeout,
        trust=GuestTrust(deciding, tees),
    )
    return UseCases(
        tees=tees,
        verifiers=verifiers,
        appraisal=appraisal,
        catalogue=catalogue,
        ineffective=IneffectiveEntries(documents, tees, keys, resources),
        contents=StoredContents(stores.resources),
        release=release,
        digests=stores.digests,
        prepare=prepare,
        history=history,
        explainer=Explainer(history, appraisal),
        appraiser=appraiser,
        connected=ConnectedGuests(appraiser, deciding, announced, clock, events),
        releaser=Releaser(
            keys=keys,
            resources=resources,
            policy=release,
            events=events,
            allow_a256ctr=settings.allow_a256ctr,
            released=lambda paths: sink.note_release(paths, clock()),
        ),
        wrapper=Wrapper(
            keys=keys,
            events=events,
            max_new_keys_per_minute=settings.max_new_keys_per_minute,
            new_keys_below=settings.wrap_key_segments,
            default_key=settings.default_wrap_parameter,
            allow_a256ctr=settings.allow_a256ctr,
        ),
        administration=Administration(
            keys=KeyAdministrator(keys=keys, events=events),
            resources=ResourceAdministrator(
                resources=resources, keyrings=SequoiaKeyringEditor(), events=events
            ),
            documents=DocumentAdministrator(
                documents=documents,
                changes=checked,
                catalogue=catalogue,
                deciding=deciding,
                tees=tees,
                tester=tester,
            ),
            revisions=Revisions(DecidingTexts(documents, deciding, verifiers), clock),
            references=ReferenceAdministrator(
                documents=documents,
                changes=checked,
                deciding=deciding,
                tees=tees,
                history=history,
            ),
            sets=SetAdministrator(
                documents=documents,
                changes=checked,
                deciding=deciding,
                tees=tees,
                history=history,
                clock=clock,
            ),
            policy_tests=PolicyTests(
                documents=documents,
                changes=checked,
                deciding=deciding,
                tees=tees,
                reporter=PolicyReports(tees, pinning=pinning),
                history=history,
            ),
        ),
        trusted_root=None if root_ca_der is None else hashlib.sha256(root_ca_der).hexdigest(),
        sources=sources,
    )
