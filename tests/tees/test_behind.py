"""Days since a platform fell behind the newest TCB level, for a policy's grace period."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime

import pytest

from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.tcb import TcbRating, behind_days

NOW = datetime(2024, 4, 12, 12, tzinfo=UTC)
NEWEST, OLDER = "2024-03-13T00:00:00Z", "2023-08-09T00:00:00Z"


def collateral(*dates: str) -> Collateral:
    info = json.dumps({"tcbLevels": [{"tcbDate": date} for date in dates]})
    return dataclasses.replace(
        Collateral("", b"", b"", "", "{}", b"", "", "{}", b""), tcb_info=info
    )


@pytest.mark.parametrize(
    ("status", "own", "days"),
    [
        ("UpToDate", NEWEST, 0),
        ("SWHardeningNeeded", NEWEST, 0),
        ("OutOfDate", OLDER, 30),
        ("OutOfDateConfigurationNeeded", OLDER, 30),
        ("UpToDate", OLDER, 30),
    ],
)
def test_days_are_counted_from_the_newest_level(status: str, own: str, days: int) -> None:
    result = behind_days(collateral(OLDER, NEWEST), TcbRating(status, (), own), NOW)
    assert result == days


@pytest.mark.parametrize(
    ("info", "status"),
    [
        (collateral(NEWEST), "OutOfDate"),  # by its module: no date says since when
        (collateral(), "OutOfDate"),
        (collateral("soon"), "OutOfDate"),
        (dataclasses.replace(collateral(), tcb_info="[]"), "UpToDate"),
        (dataclasses.replace(collateral(), tcb_info='{"tcbLevels":[1]}'), "UpToDate"),
    ],
)
def test_missing_information_is_not_guessed(info: Collateral, status: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        behind_days(info, TcbRating(status, (), NEWEST), NOW)
