"""Collateral from files and from guests: choice, changes on disk, and refusals."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.events import RecordedEvents
from tests.support.vectors import vector
from tests.tees.support import NOW, good_collateral, platform, run, with_options
from verdictd_py.domain.events import CollateralUnreadable
from verdictd_py.errors import CollateralUnavailable, ConfigError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform, collateral_json
from verdictd_py.tees.intel.collateral.forms import collateral_from_json, collateral_to_json
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly, FileCollateral, FirstAnswer
from verdictd_py.tees.intel.dcap import to_library

REQUEST = CollateralRequest("tdx", "50806f000000", "platform")


def _write(path: Path, collateral: Collateral, *, at: int) -> None:
    path.write_text(collateral_to_json(collateral))
    os.utime(path, (at, at))


def test_json_round_trip() -> None:
    """The JSON form is that of dcap-qvl and of the simulator."""
    good = good_collateral()
    assert collateral_from_json(collateral_to_json(good)) == good
    assert collateral_from_json(collateral_json(good)) == good
    assert collateral_from_json(to_library(good).to_json()) == good
    text = vector("quotes/tdx-v4-up-to-date/collateral.json").read_text()
    assert json.loads(collateral_to_json(collateral_from_json(text))) == json.loads(text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tcb_info": None}, "tcb_info is missing"),
        ({"pck_crl": 7}, "pck_crl is missing or not a string"),
        ({"pck_crl": "zz"}, "pck_crl is not hexadecimal"),
        ({"pck_crl": "30"}, None),
        ({"surprise": "x"}, "unknown member 'surprise'"),
        ({"tcb_info": "{"}, None),
        ({"tcb_info": "[]"}, "does not name"),
        ({"tcb_info": '{"fmspc":"zz","issueDate":"x"}'}, None),
        ({"qe_identity": "{}"}, "evaluation number"),
        ({"qe_identity": "[" * 100_000}, None),
    ],
)
def test_an_unusable_file_is_named_with_a_remedy(
    tmp_path: Path, change: dict[str, object], says: str | None
) -> None:
    members = json.loads(collateral_to_json(good_collateral())) | change
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({name: value for name, value in members.items() if value}))
    for path in (file, tmp_path):
        with pytest.raises(ConfigError) as caught:
            FileCollateral(path)
        text = str(caught.value)
        assert str(file) in text
        assert "fetch it again or remove it" in text
        assert "\n" not in text
        assert says is None or says in text


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_arbitrary_bytes_are_read_or_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        collateral_from_json(data)


def test_a_missing_path_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name a file or a directory"):
        FileCollateral(tmp_path / "absent")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.json").write_bytes(b" " * (32 * 1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        FileCollateral(tmp_path)


def test_collateral_is_chosen_by_tee_fmspc_and_ca(tmp_path: Path) -> None:
    processor = SimulatedPlatform.create(
        now=NOW, options=PlatformOptions(fmspc="00A067110000", ca="processor")
    )
    _write(tmp_path / "a.json", good_collateral(), at=1)
    _write(tmp_path / "b.json", processor.collateral(NOW), at=1)
    (tmp_path / "c.json").write_bytes(vector("quotes/sgx-v3/collateral.json").read_bytes())
    (tmp_path / "readme.txt").write_text("no collateral")
    source = FileCollateral(tmp_path)
    assert run(source.candidates(REQUEST, None)) == (good_collateral(),)
    found = run(source.candidates(CollateralRequest("tdx", "00a067110000", "processor"), None))
    assert len(found) == 1
    assert found != run(
        source.candidates(CollateralRequest("sgx", "00a067110000", "processor"), None)
    )
    for other in (
        replace(REQUEST, tee="sgx"),
        replace(REQUEST, ca="processor"),
        replace(REQUEST, fmspc="50806f000001"),
    ):
        with pytest.raises(CollateralUnavailable, match=other.fmspc):
            run(source.candidates(other, good_collateral()))


def test_the_most_recent_collateral_comes_first(tmp_path: Path) -> None:
    newer = with_options(tcb_evaluation_number=18).collateral(NOW)
    older = platform().collateral(NOW.replace(day=20))
    for name, one in (("1", older), ("2", newer), ("3", good_collateral())):
        _write(tmp_path / f"{name}.json", one, at=1)
    found = run(FileCollateral(tmp_path).candidates(REQUEST, None))
    assert found == (newer, good_collateral(), older)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    recorder = RecordedEvents()
    source = FileCollateral(tmp_path, events=recorder)
    with pytest.raises(CollateralUnavailable):
        run(source.candidates(REQUEST, None))
    file = tmp_path / "a.json"
    _write(file, good_collateral(), at=1)
    assert run(source.candidates(REQUEST, None)) == (good_collateral(),)
    changed = platform().collateral(NOW)
    _write(file, changed, at=2)
    assert run(source.candidates(REQUEST, None)) == (changed,)
    file.write_text("{")
    os.utime(file, (3, 3))
    assert run(source.candidates(REQUEST, None)) == (changed,)  # what was read before
    assert run(source.candidates(REQUEST, None)) == (changed,)
    (event,) = recorder.events  # reported once
    assert isinstance(event, CollateralUnreadable)
    assert str(file) in event.problem
    file.unlink()
    with pytest.raises(CollateralUnavailable):
        run(source.candidates(REQUEST, None))


def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    _write(file, good_collateral(), at=1)
    source = FileCollateral(file)
    assert run(source.candidates(REQUEST, None))[0] is run(source.candidates(REQUEST, None))[0]


def test_collateral_of_the_guest_comes_last(tmp_path: Path) -> None:
    """The guest chooses its endorsements, so they are used only without the operator's."""
    brought = platform().collateral(NOW)
    file = tmp_path / "a.json"
    _write(file, good_collateral(), at=1)
    both = FirstAnswer(FileCollateral(tmp_path), EndorsementsOnly())
    assert run(both.candidates(REQUEST, brought)) == (good_collateral(),)
    other = replace(REQUEST, fmspc="50806f000001")
    assert run(both.candidates(other, brought))[0] is brought
    with pytest.raises(CollateralUnavailable, match=r"50806f000001.*the guest sent none"):
        run(both.candidates(other, None))
    with pytest.raises(CollateralUnavailable):
        run(FirstAnswer().candidates(REQUEST, brought))
