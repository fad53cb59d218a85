"""Older collateral that replaces newer: each part, from each source, in memory and on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.broker import running_broker
from tests.support.events import RecordedEvents
from tests.support.pccs import Pccs, running_pccs
from tests.support.verifiers import verified_by
from tests.tees.ages import (
    DAY,
    HOUR,
    OLDER,
    REQUEST,
    ROOT_KEY,
    applied,
    crl,
    newer_and_older,
    text_of,
    variant,
)
from tests.tees.support import (
    NOW,
    Source,
    good_quote,
    platform,
    signed_again,
    tdx_evidence,
)
from verdictd_py.errors import CollateralUnavailable, ConfigError, QuoteInvalid
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform, pki
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.memory import MemoryCollateralStore
from verdictd_py.storage.stores import DirectoryCollateralStore
from verdictd_py.tees.intel.collateral.cache import CollateralCache
from verdictd_py.tees.intel.collateral.forms import collateral_from_json
from verdictd_py.tees.intel.collateral.http import bounded_get
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.parts import PARTS
from verdictd_py.tees.intel.collateral.pcs import Pcs
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly
from verdictd_py.tees.tdx.verifier import TdxVerifier

MEMBERS = [part.members[0] for part in PARTS]
every_part = pytest.mark.parametrize("part", MEMBERS)
every_age = pytest.mark.parametrize("age", OLDER)


@every_part
@every_age
@pytest.mark.parametrize("by_guest", [False, True])
async def test_an_older_part_is_replaced_by_the_newest_known(
    part: str, age: str, by_guest: bool
) -> None:
    newer, older = newer_and_older(part, age)
    newest = NewestCollateral(ROOT_KEY)
    assert await applied(newest, newer) is newer
    found = await applied(newest, older, by_guest=by_guest)
    assert getattr(found, part) == getattr(newer, part)


@every_part
@every_age
async def test_an_older_part_stays_replaced_after_a_restart(
    part: str, age: str, directory: Directory
) -> None:
    newer, older = newer_and_older(part, age)
    for collateral in (newer, older, older):
        newest = NewestCollateral(ROOT_KEY, store=DirectoryCollateralStore(directory))
        found = await applied(newest, collateral)
        assert getattr(found, part) == getattr(newer, part)


@every_part
async def test_another_process_does_not_replace_a_newer_part_on_disk(part: str) -> None:
    """Both have read the directory while it was empty."""
    newer, older = newer_and_older(part, "earlier date")
    store = MemoryCollateralStore()
    first, second = (NewestCollateral(ROOT_KEY, store=store) for _ in range(2))
    oldest = variant(part, number=19, issued=NOW - DAY - 2 * HOUR)
    await applied(first, oldest)
    await applied(second, oldest)
    await applied(first, newer)
    await applied(second, older)
    third = NewestCollateral(ROOT_KEY, store=store)
    assert getattr(await applied(third, older), part) == getattr(newer, part)


@every_part
async def test_a_newer_part_of_another_process_counts_for_the_next_guest(
    part: str, directory: Directory
) -> None:
    """Both have read the directory before, for example before a CRL revoked a certificate."""
    newer, older = newer_and_older(part, "earlier date")
    first, second = (
        NewestCollateral(ROOT_KEY, store=DirectoryCollateralStore(directory)) for _ in range(2)
    )
    for newest in (first, second):
        assert await applied(newest, older) is older
    await applied(first, newer)
    assert getattr(await applied(second, older), part) == getattr(newer, part)


async def test_a_changed_file_is_not_used_and_is_replaced(directory: Directory) -> None:
    newer, older = newer_and_older("pck_crl", "lower number")
    store, events = DirectoryCollateralStore(directory), RecordedEvents()
    await applied(NewestCollateral(ROOT_KEY, store=store), newer)
    name = "intel-newest-pck-crl-platform.json"
    text = await store.load(name)
    assert text is not None
    await store.save(
        name,
        text.replace(
            newer.pck_crl.hex().encode(), bytes(older.pck_crl.hex()[:-2], "ascii") + b"00"
        ),
    )
    newest = NewestCollateral(ROOT_KEY, store=store, events=events)
    assert await applied(newest, older) is older
    assert events.named("collateral.unreadable")
    stored = await store.load(name)
    assert stored is not None
    assert collateral_from_json(stored).pck_crl == older.pck_crl


class TestRevokedPlatform:
    """A platform that Intel has revoked, whose owner keeps the collateral of before."""

    revoking = replace(
        platform().collateral(NOW),
        pck_crl=crl(platform().pck_ca, number=2, revoked=(platform().pck.certificate,)),
    )
    kept = platform().collateral(NOW)

    async def test_its_own_endorsements_do_not_hide_the_revocation(self) -> None:
        """Another guest of any platform type brought the newer CRL."""
        verifier = TdxVerifier(EndorsementsOnly(), root_ca_der=platform().root_ca_der)
        for brought in (self.revoking, self.kept):
            with pytest.raises(QuoteInvalid) as caught:
                await verified_by(verifier, tdx_evidence(good_quote(), brought), now=NOW)
            assert caught.value.reasons[0].rule == "revocation"

    async def test_an_older_file_does_not_hide_the_revocation(self) -> None:
        source = Source(self.revoking)
        verifier = TdxVerifier(source, root_ca_der=platform().root_ca_der)
        for collateral in (self.revoking, self.kept):
            source.collateral = (collateral,)
            with pytest.raises(QuoteInvalid):
                await verified_by(verifier, tdx_evidence(good_quote()), now=NOW)


async def test_a_revoked_signer_stays_revoked() -> None:
    """The root CRL of the refused set counts for every later set."""
    revoked = (platform().tcb_signer.certificate,)
    revoking = replace(
        platform().collateral(NOW), root_ca_crl=crl(platform().root, number=2, revoked=revoked)
    )
    newest = NewestCollateral(ROOT_KEY)
    for collateral in (revoking, platform().collateral(NOW)):
        with pytest.raises(QuoteInvalid, match="revoked a certificate"):
            await applied(newest, collateral)


async def test_texts_with_a_revoked_signer_are_not_recorded() -> None:
    """A stolen signing key could otherwise replace the texts of its successor for ever."""
    stolen = pki.new_tcb_signer(
        platform().root, pki.Validity(NOW - DAY, NOW + DAY), "https://pcs.test/root.der"
    )
    info = text_of("tcb_info", number=99)
    forged = replace(
        platform().collateral(NOW),
        tcb_info=info,
        tcb_info_signature=pki.sign_raw(stolen.key, info.encode()),
        tcb_info_issuer_chain=stolen.pem + platform().root.pem,
        root_ca_crl=crl(platform().root, number=2, revoked=(stolen.certificate,)),
    )
    newest = NewestCollateral(ROOT_KEY)
    with pytest.raises(QuoteInvalid, match="revoked a certificate"):
        await applied(newest, forged)
    good = platform().collateral(NOW)
    assert (await applied(newest, good)).tcb_info == good.tcb_info


async def test_a_guest_does_not_choose_the_tcb_levels_of_others() -> None:
    """It sends the `early` TCB recovery to a broker whose operator chose `standard`."""
    early = signed_again(
        platform().collateral(NOW), tcb_info=text_of("tcb_info", number=18, old=True)
    )
    good = platform().collateral(NOW)
    newest = NewestCollateral(ROOT_KEY)
    await applied(newest, early, by_guest=True)
    assert (await applied(newest, good)).tcb_info == good.tcb_info
    assert (await applied(newest, good, by_guest=True)).tcb_info == early.tcb_info


async def test_collateral_of_another_platform_type_is_not_recorded() -> None:
    """It is signed and newer, and would make every guest of this type unverifiable."""
    other = SimulatedPlatform(
        **{
            **{name: getattr(platform(), name) for name in ("root", "pck_ca", "pck", "tcb_signer")},
            "attestation_key": platform().attestation_key,
            "identity": replace(platform().identity, fmspc=bytes.fromhex("00906ed10000")),
            "options": platform().options,
        }
    ).collateral(NOW + HOUR)
    newest = NewestCollateral(ROOT_KEY)
    with pytest.raises(QuoteInvalid, match="another FMSPC"):
        await applied(newest, other, by_guest=True)
    good = platform().collateral(NOW)
    assert await applied(newest, good, by_guest=True) is good


class TestService:
    """A PCCS that returns older parts than before."""

    @pytest_asyncio.fixture
    async def pccs(self) -> AsyncIterator[Pccs]:
        async with running_pccs(platform()) as running:
            running.clock = lambda: NOW
            yield running

    def cache(self, pccs: Pccs, client: httpx.AsyncClient, store: Any) -> CollateralCache:
        service = Pcs(bounded_get(client), (pccs.url,), root_key=ROOT_KEY)
        return CollateralCache(
            service.fetch,
            store,
            clock=lambda: NOW,
            events=RecordedEvents(),
            root_ca_der=platform().root_ca_der,
            chance=lambda low, high: low,
        )

    def serve(self, monkeypatch: pytest.MonkeyPatch, collateral: Collateral) -> None:
        monkeypatch.setattr(SimulatedPlatform, "collateral", lambda self, now: collateral)

    @every_part
    @every_age
    async def test_it_is_refused_in_memory_and_on_disk(
        self, pccs: Pccs, part: str, age: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newer, older = newer_and_older(part, age)
        store = MemoryCollateralStore()
        async with httpx.AsyncClient(trust_env=False) as client:
            for restarted in (False, True):
                self.serve(monkeypatch, newer)
                cache = self.cache(pccs, client, store)
                await cache.candidates(REQUEST, None)
                self.serve(monkeypatch, older)
                if restarted:
                    cache = self.cache(pccs, client, store)
                    await cache.restore()
                cache._cached[REQUEST].renew_at = NOW
                with pytest.raises(CollateralUnavailable, match="is older than the cached one"):
                    await cache._fetch_and_store(REQUEST)
                (found,) = await cache.candidates(REQUEST, None)
                assert getattr(found, part) == getattr(newer, part)
                (text,) = store.contents.values()
                assert getattr(collateral_from_json(text), part) == getattr(newer, part)

    async def test_a_process_uses_what_another_one_has_stored(
        self, pccs: Pccs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It would otherwise fetch, and use, older collateral from another service."""
        newer, older = newer_and_older("pck_crl", "earlier date")
        oldest = variant("pck_crl", number=19, issued=NOW - 2 * DAY)
        store = MemoryCollateralStore()
        async with httpx.AsyncClient(trust_env=False) as client:
            first, second = (self.cache(pccs, client, store) for _ in range(2))
            self.serve(monkeypatch, oldest)
            for cache in (first, second):
                await cache.candidates(REQUEST, None)
                cache._cached[REQUEST].renew_at = NOW
            self.serve(monkeypatch, newer)
            await first._fetch_and_store(REQUEST)
            self.serve(monkeypatch, older)
            found = await second._fetch_and_store(REQUEST)
            assert found.collateral.pck_crl == newer.pck_crl

    async def test_what_another_process_has_stored_counts_for_the_next_guest(
        self, pccs: Pccs, monkeypatch: pytest.MonkeyPatch, directory: Directory
    ) -> None:
        """Although this process has valid collateral in memory."""
        newer, older = newer_and_older("pck_crl", "earlier date")
        async with httpx.AsyncClient(trust_env=False) as client:
            first, second = (
                self.cache(pccs, client, DirectoryCollateralStore(directory)) for _ in range(2)
            )
            self.serve(monkeypatch, older)
            for cache in (first, second):
                await cache.candidates(REQUEST, None)
            first._cached[REQUEST].renew_at = NOW
            self.serve(monkeypatch, newer)
            await first._fetch_and_store(REQUEST)
            (found,) = await second.candidates(REQUEST, None)
            assert found.pck_crl == newer.pck_crl

    async def test_it_does_not_replace_what_another_process_stores_meanwhile(
        self, pccs: Pccs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other process stores its answer between this one's last look and its own answer."""
        newer, older = newer_and_older("pck_crl", "earlier date")

        class Late(MemoryCollateralStore):
            async def load(self, name: str) -> bytes | None:
                return None

        store = Late()
        async with httpx.AsyncClient(trust_env=False) as client:
            first, second = (self.cache(pccs, client, store) for _ in range(2))
            for cache, collateral in ((first, newer), (second, older)):
                self.serve(monkeypatch, collateral)
                await cache._fetch_and_store(REQUEST)
        (text,) = store.contents.values()
        assert collateral_from_json(text).pck_crl == newer.pck_crl


class TestRefusedEndorsements:
    """`--refuse-endorsements`: no guest chooses the collateral by which it is appraised."""

    async def test_they_are_never_used(self, tmp_path: Path) -> None:
        verifier = TdxVerifier(
            EndorsementsOnly(), root_ca_der=platform().root_ca_der, refuse_endorsements=True
        )
        with pytest.raises(CollateralUnavailable):
            await verified_by(
                verifier, tdx_evidence(good_quote(), platform().collateral(NOW)), now=NOW
            )

    async def test_the_daemon_refuses_to_start_without_other_collateral(
        self, tmp_path: Path
    ) -> None:
        settings: dict[str, Any] = {"collateral": None, "refuse_endorsements": True}
        with pytest.raises(ConfigError, match="set --collateral-url or --collateral"):
            async with running_broker(tmp_path, platform(), **settings):
                pass
