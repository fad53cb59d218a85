"""The newest copies of parts: the store's failures, the limit, and the scopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.events import RecordedEvents
from tests.tees.ages import (
    DAY,
    HOUR,
    REQUEST,
    ROOT_KEY,
    applied,
    crl,
    newer_and_older,
    text_of,
    variant,
)
from tests.tees.support import NOW, platform
from verdictd_py.domain.events import CollateralNotStored, CollateralUnreadable
from verdictd_py.errors import ClockBehind, CollateralUnavailable, StorageError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform, pki
from verdictd_py.storage.memory import MemoryCollateralStore
from verdictd_py.tees.intel.collateral import newest as module
from verdictd_py.tees.intel.collateral.forms import collateral_from_json
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.parts import PARTS

FILES = [
    "intel-newest-pck-crl-platform.json",
    "intel-newest-qe-identity-tdx.json",
    "intel-newest-root-crl.json",
    "intel-newest-tcb-info-tdx-50806f000000.json",
]
GUESTS_FILES = [
    "intel-newest-qe-identity-tdx-guests.json",
    "intel-newest-tcb-info-tdx-50806f000000-guests.json",
]
every_part = pytest.mark.parametrize("part", [part.members[0] for part in PARTS])


class Counting(MemoryCollateralStore):
    """Store that counts the loads."""

    loads = 0

    async def load(self, name: str) -> bytes | None:
        self.loads += 1
        return await super().load(name)


class Unreadable(MemoryCollateralStore):
    async def load(self, name: str) -> bytes | None:
        raise StorageError("the disk is broken")


class ReadOnly(MemoryCollateralStore):
    async def update(self, name: str, change: Callable[[bytes | None], bytes | None]) -> None:
        raise StorageError("the disk is full")


@every_part
async def test_an_older_file_does_not_replace_what_the_process_knows(part: str) -> None:
    """Somebody restores an old backup of the directory, or replays one file, while it runs."""
    newer, older = newer_and_older(part, "earlier date")
    backup, store = MemoryCollateralStore(), MemoryCollateralStore()
    await applied(NewestCollateral(ROOT_KEY, store=backup), older)
    announced: list[str] = []
    newest = NewestCollateral(ROOT_KEY, store=store, changed=lambda: announced.append(part))
    await applied(newest, newer)
    store.contents = dict(backup.contents)
    assert getattr(await applied(newest, older), part) == getattr(newer, part)
    assert announced == []


@every_part
async def test_a_newer_file_is_announced(part: str) -> None:
    newer, older = newer_and_older(part, "earlier date")
    store, announced = MemoryCollateralStore(), []
    newest = NewestCollateral(ROOT_KEY, store=store, changed=lambda: announced.append(part))
    await applied(newest, older)
    await applied(NewestCollateral(ROOT_KEY, store=store), newer)
    assert getattr(await applied(newest, older), part) == getattr(newer, part)
    assert announced == [part]


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
async def test_what_a_guest_sent_counts_for_guests_after_a_restart(part: str) -> None:
    newer, older = newer_and_older(part, "earlier date")
    store = MemoryCollateralStore()
    await applied(NewestCollateral(ROOT_KEY, store=store), newer, by_guest=True)
    restarted = NewestCollateral(ROOT_KEY, store=store)
    assert getattr(await applied(restarted, older, by_guest=True), part) == getattr(newer, part)


async def test_texts_of_a_guest_do_not_count_for_another_platform_type() -> None:
    """They are newer, and correctly signed by Intel for the other platform type."""
    members = ("root", "pck_ca", "pck", "tcb_signer", "attestation_key", "options")
    fmspc = bytes.fromhex("00906ed10000")
    other = SimulatedPlatform(
        **{name: getattr(platform(), name) for name in members},
        identity=replace(platform().identity, fmspc=fmspc),
    )
    newest = NewestCollateral(ROOT_KEY)
    await newest.apply(
        other.collateral(NOW),
        replace(REQUEST, fmspc=fmspc.hex()),
        now=NOW,
        chosen_by_guest=True,
    )
    own = platform().collateral(NOW - HOUR)
    assert (await applied(newest, own, by_guest=True)).tcb_info == own.tcb_info


async def test_a_newer_text_whose_signer_was_revoked_later_is_not_used() -> None:
    """The texts of its successor are used, although their number is lower."""
    stolen = pki.new_tcb_signer(
        platform().root, pki.Validity(NOW - DAY, NOW + DAY), "https://pcs.test/root.der"
    )
    info = text_of("tcb_info", number=99)
    good = platform().collateral(NOW)
    forged = replace(
        good,
        tcb_info=info,
        tcb_info_signature=pki.sign_raw(stolen.key, info.encode()),
        tcb_info_issuer_chain=stolen.pem + platform().root.pem,
    )
    newest = NewestCollateral(ROOT_KEY)
    assert await applied(newest, forged) is forged
    revoking = crl(platform().root, number=2, revoked=(stolen.certificate,))
    assert (await applied(newest, replace(good, root_ca_crl=revoking))).tcb_info == good.tcb_info
    assert (await applied(newest, good)).tcb_info == good.tcb_info


@pytest.mark.parametrize("part", ["pck_crl", "root_ca_crl"])
async def test_a_crl_without_a_number_is_older_than_one_with_a_number(part: str) -> None:
    """RFC 5280 requires the number; without it only the dates can be compared."""
    issuer = {"pck_crl": platform().pck_ca, "root_ca_crl": platform().root}[part]
    numbered = variant(part, number=1, issued=NOW - DAY)
    bare = replace(numbered, **{part: crl(issuer, number=None)})  # type: ignore[arg-type]
    for by_guest in (False, True):
        newest = NewestCollateral(ROOT_KEY)
        await applied(newest, bare, by_guest=by_guest)
        await applied(newest, bare, by_guest=by_guest)
        await applied(newest, numbered)
        found = await applied(newest, bare, by_guest=by_guest)
        assert getattr(found, part) == getattr(numbered, part)


async def test_the_number_of_copies_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known copies are still used, and replaced by newer ones."""
    monkeypatch.setattr(module, "MAX_COPIES", len(FILES) + 1)
    newer, older = newer_and_older("pck_crl", "lower number")
    newest = NewestCollateral(ROOT_KEY)
    await applied(newest, older)
    with pytest.raises(CollateralUnavailable, match="too many platform types"):
        await applied(newest, older, by_guest=True)  # needs 2 more
    assert await applied(newest, newer) is newer
    assert (await applied(newest, older)).pck_crl == newer.pck_crl


async def test_names_of_the_files() -> None:
    """A release that looked for other names would forget revocations."""
    store = MemoryCollateralStore()
    newest = NewestCollateral(ROOT_KEY, store=store)
    await applied(newest, platform().collateral(NOW))
    assert sorted(store.contents) == FILES
    await applied(newest, platform().collateral(NOW), by_guest=True)
    assert sorted(store.contents) == sorted(FILES + GUESTS_FILES)


async def test_a_file_is_read_again_only_after_it_was_replaced() -> None:
    store = Counting()
    newest = NewestCollateral(ROOT_KEY, store=store)
    for _ in range(2):  # the files that it writes itself are read once
        await applied(newest, platform().collateral(NOW))
    before = store.loads
    await applied(newest, platform().collateral(NOW))
    assert store.loads == before


async def test_known_copies_are_not_stored_again() -> None:
    store = MemoryCollateralStore()
    newest = NewestCollateral(ROOT_KEY, store=store)
    await applied(newest, platform().collateral(NOW))
    store.contents.clear()
    await applied(newest, platform().collateral(NOW))
    assert store.contents == {}


@pytest.mark.parametrize("is_observed", [True, False])
async def test_a_store_that_cannot_be_read(is_observed: bool) -> None:
    """Guests are served meanwhile, and the operator learns of it."""
    events, good = RecordedEvents(), platform().collateral(NOW)
    newest = NewestCollateral(ROOT_KEY, store=Unreadable(), events=events if is_observed else None)
    assert await applied(newest, good) is good
    problems = [event.problem for event in events.of(CollateralUnreadable)]
    assert problems == ["the disk is broken"] * len(FILES) * is_observed


@pytest.mark.parametrize("is_observed", [True, False])
async def test_a_store_that_cannot_be_written(is_observed: bool) -> None:
    events, good = RecordedEvents(), platform().collateral(NOW)
    newest = NewestCollateral(ROOT_KEY, store=ReadOnly(), events=events if is_observed else None)
    assert await applied(newest, good) is good
    problems = [event.problem for event in events.of(CollateralNotStored)]
    assert problems == ["the disk is full"] * len(FILES) * is_observed


async def test_a_file_that_is_no_collateral_is_reported_and_replaced() -> None:
    store, events, good = MemoryCollateralStore(), RecordedEvents(), platform().collateral(NOW)
    store.contents = dict.fromkeys(FILES, b"{")
    await applied(NewestCollateral(ROOT_KEY, store=store, events=events), good)
    assert [collateral_from_json(store.contents[name]) for name in FILES] == [good] * len(FILES)
    problems = sorted(event.problem for event in events.of(CollateralUnreadable))
    assert [problem.partition(": ")[0] for problem in problems] == [
        f"{name} is not used" for name in FILES
    ]
    assert all(problem.partition(": ")[2] for problem in problems)


class TestCachedResult:
    """The same set costs no comparison as long as nothing has changed."""

    async def _settled(self, newest: NewestCollateral, collateral: Collateral) -> None:
        """Apply a set until its result is cached: after it was stored, and loaded once."""
        for _ in range(3):
            await applied(newest, collateral)
            await newest.flush()
        assert newest._results

    async def test_it_is_returned_without_another_comparison(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = NewestCollateral(ROOT_KEY, store=MemoryCollateralStore())
        good = platform().collateral(NOW)
        await self._settled(newest, good)
        monkeypatch.setattr(newest, "_combined", None)  # it is not called
        assert await applied(newest, good) == good

    @every_part
    async def test_a_copy_that_another_process_stores_invalidates_it(self, part: str) -> None:
        newer, older = newer_and_older(part, "earlier date")
        store = MemoryCollateralStore()
        newest = NewestCollateral(ROOT_KEY, store=store)
        await self._settled(newest, older)
        await applied(NewestCollateral(ROOT_KEY, store=store), newer)
        assert getattr(await applied(newest, older), part) == getattr(newer, part)

    @every_part
    async def test_a_copy_that_another_guest_brings_invalidates_it(self, part: str) -> None:
        newer, older = newer_and_older(part, "earlier date")
        newest = NewestCollateral(ROOT_KEY)
        await self._settled(newest, older)
        await applied(newest, newer)
        assert getattr(await applied(newest, older), part) == getattr(newer, part)

    async def test_a_clock_that_was_set_back_is_noticed(self) -> None:
        newest = NewestCollateral(ROOT_KEY)
        good = platform().collateral(NOW)
        await self._settled(newest, good)
        with pytest.raises(ClockBehind):
            await newest.apply(good, REQUEST, now=NOW - 400 * DAY, chosen_by_guest=False)

    async def test_only_the_last_platform_types_are_cached(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_RESULTS", 1)
        newest = NewestCollateral(ROOT_KEY)
        good = platform().collateral(NOW)
        await self._settled(newest, good)
        for _ in range(2):
            await applied(newest, good, by_guest=True)
        assert [chosen for _, chosen in newest._results] == [True]
