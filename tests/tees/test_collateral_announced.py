"""New collateral is announced, so that connected guests are appraised again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from tests.support.collateral import running_place
from tests.tees.support import NOW, platform
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.collateral.sources import FileCollateral

REQUEST = CollateralRequest("tdx", "50806f000000", "platform")
HOUR = timedelta(hours=1)


class Announced:
    """Counter of announcements."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


async def test_a_changed_file_is_announced_once(tmp_path: Path) -> None:
    announced, file = Announced(), tmp_path / "collateral.json"
    file.write_text(collateral_json(platform().collateral(NOW)))
    source = FileCollateral(file, changed=announced)
    await source.candidates(REQUEST, None)
    assert announced.count == 0
    file.write_text(collateral_json(platform().collateral(NOW + HOUR)))
    for _ in range(2):
        await source.candidates(REQUEST, None)
    assert announced.count == 1


async def test_a_newer_part_is_announced_and_the_first_one_is_not() -> None:
    announced = Announced()
    newest = NewestCollateral(root_key_digest(platform().root_ca_der), changed=announced)
    for number, expected in ((0, 0), (0, 0), (1, 1)):
        collateral = platform().collateral(NOW + number * HOUR)
        await newest.apply(collateral, REQUEST, now=NOW, chosen_by_guest=False)
        assert bool(announced.count) is bool(expected)
    before = announced.count
    await newest.apply(platform().collateral(NOW), REQUEST, now=NOW, chosen_by_guest=False)
    assert announced.count == before  # nothing of it is newer


async def test_other_collateral_in_the_cache_is_announced() -> None:
    async with running_place() as place:
        announced = Announced()
        place.cache = place.make(changed=announced)
        await place.get()
        assert announced.count == 1  # guests may have been verified by endorsements before
        await place.get()
        assert announced.count == 1
        options = replace(place.pccs.platform.options, pck_revoked=True)
        revoked: SimulatedPlatform = place.pccs.platform.with_options(options)
        place.pccs.platform = revoked
        place.later(place.clock.now + timedelta(days=31))
        await place.get()
        assert announced.count == 2
        await place.cache.stop()
