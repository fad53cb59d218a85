"""Tokens that lead from one page of a list to the next."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count

import pytest

from verdictd_py.broker.listings import MAX_PAGE, Pages
from verdictd_py.errors import RequestError
from verdictd_py.ports import StoredName

NAMES = [f"{number:05}" for number in range(2500)]


class Names:
    """Names that were read, with the time at which their list began."""

    def __init__(self) -> None:
        self.started: list[int] = []

    async def read(self, after: str, limit: int, started: int) -> tuple[StoredName, ...]:
        self.started.append(started)
        now = datetime.now(UTC)
        following = (name for name in NAMES if name > after)
        return tuple(StoredName(name, name, 1, now) for name in list(following)[:limit])


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def pages(names: Names) -> Pages:
    ticks = count(1)
    return Pages(names.read, lambda: next(ticks))


async def test_pages_lead_through_all_names_of_one_list(pages: Pages, names: Names) -> None:
    listed: list[str] = []
    token = ""
    while True:
        page = await pages.page(token, 0)
        assert len(page.names) <= MAX_PAGE
        listed += [stored.name for stored in page.names]
        token = page.next_token
        if not token:
            break
    assert listed == NAMES
    assert names.started == [1, 1, 1]


async def test_a_last_page_that_is_full_has_no_next_one(pages: Pages) -> None:
    page = await pages.page(NAMES[-11], 10)
    assert [stored.name for stored in page.names] == NAMES[-10:]
    assert page.next_token == ""


async def test_a_name_is_a_token_of_earlier_versions(pages: Pages, names: Names) -> None:
    await pages.page("", 10)
    page = await pages.page("00009", 2)
    assert [stored.name for stored in page.names] == ["00010", "00011"]
    assert names.started == [1, 2]  # nothing is known about its list


async def test_a_token_of_another_process_begins_a_new_list(names: Names) -> None:
    """Its clock is another one; the broker may have been started again."""
    before = await Pages(names.read, lambda: 0).page("", 10)
    page = await Pages(names.read, lambda: 7).page(before.next_token, 10)
    assert page.names[0].name == "00010"
    assert names.started == [0, 7]


async def test_a_token_from_the_future_begins_now(names: Names) -> None:
    pages = Pages(names.read, lambda: 9)
    token = (await pages.page("", 10)).next_token
    pages._clock = lambda: 5
    await pages.page(token, 10)
    assert names.started == [9, 5]


@pytest.mark.parametrize("token", ["~", "~YQ", "~YSBiIGM", "~!!", "~é", "~" + "A" * 5000])
async def test_any_other_token_is_refused(pages: Pages, token: str) -> None:
    with pytest.raises(RequestError, match="request the first page again"):
        await pages.page(token, 10)
