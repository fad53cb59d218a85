"""Parts of a request that a route reads before it authenticates the client."""

from __future__ import annotations

import time

import pytest
from aiohttp.test_utils import make_mocked_request

from verdictd_py.listeners.kbs.guests import COOKIE, MAX_COOKIE_CHARACTERS, session_id

ID = "ab" * 32


@pytest.mark.parametrize("others", ["", "a=b; ", "a; " * 100])
def test_the_session_is_read_among_other_cookies(others: str) -> None:
    request = make_mocked_request("GET", "/", headers={"Cookie": f"{others}{COOKIE}={ID}"})
    assert session_id(request) == ID


def test_a_request_without_the_cookie_has_no_session() -> None:
    assert session_id(make_mocked_request("GET", "/")) is None
    assert session_id(make_mocked_request("GET", "/", headers={"Cookie": "a=b"})) is None


@pytest.mark.parametrize("unit", ["a; ", "a=\x01;", ";", "a=b; "])
@pytest.mark.timing
def test_too_many_cookies_are_not_read(unit: str) -> None:
    """The library needs 80 ms for a header of the maximum length."""
    good = f"{COOKIE}={ID}"
    filled = (good + ";").ljust(MAX_COOKIE_CHARACTERS)
    assert session_id(make_mocked_request("GET", "/", headers={"Cookie": filled})) == ID
    begins = time.process_time()
    for _ in range(100):
        request = make_mocked_request("GET", "/", headers={"Cookie": good + ";" + unit * 9000})
        assert session_id(request) is None
    assert time.process_time() - begins < 2
