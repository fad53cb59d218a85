"""A saved platform is the same platform in another process, and only its owner can read it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from tests.simulator.support import NOW, judge
from verdictd_py.errors import ConfigError
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform

EVERY_OPTION = PlatformOptions(
    fmspc="00806f050000",
    ca="processor",
    pcs_url="https://pccs.test",
    tcb_status="OutOfDate",
    advisory_ids=("INTEL-SA-00106", "INTEL-SA-00615"),
    tcb_evaluation_number=18,
    pck_revoked=True,
    pck_ca_revoked=True,
    collateral_lifetime=timedelta(hours=1),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "state" / "platform"


@pytest.mark.parametrize("options", [PlatformOptions(), EVERY_OPTION])
def test_a_loaded_platform_is_the_saved_one(home: Path, options: PlatformOptions) -> None:
    saved = SimulatedPlatform.create(now=NOW, options=options)
    saved.save(home)
    loaded = SimulatedPlatform.load(home)
    assert loaded.options == options
    assert loaded.identity == saved.identity
    assert loaded.root_ca_der == saved.root_ca_der
    assert (home / "root-ca.pem").read_text() == saved.root_ca_pem


def test_each_process_accepts_the_quotes_of_the_other(home: Path) -> None:
    saved = SimulatedPlatform.create(now=NOW)
    saved.save(home)
    loaded = SimulatedPlatform.load(home)
    later = NOW + timedelta(days=400)
    judge(loaded.quote(bytes(64)), saved.collateral(NOW), saved.root_ca_der)
    judge(saved.quote(bytes(64)), loaded.collateral(later), loaded.root_ca_der, now=later)


def test_another_process_loads_it(home: Path) -> None:
    saved = SimulatedPlatform.create(now=NOW)
    saved.save(home)
    program = (
        "import pathlib, sys; from verdictd_py.simulator import SimulatedPlatform;"
        "sys.stdout.buffer.write("
        "SimulatedPlatform.load(pathlib.Path(sys.argv[1])).quote(bytes(64)))"
    )
    quote = subprocess.run(
        [sys.executable, "-c", program, str(home)], check=True, capture_output=True
    ).stdout
    judge(quote, saved.collateral(NOW), saved.root_ca_der)


def test_only_the_owner_can_read_it(home: Path) -> None:
    SimulatedPlatform.create(now=NOW).save(home)
    assert home.stat().st_mode & 0o777 == 0o700
    files = sorted(home.iterdir())
    assert [file.name for file in files] == ["platform.json", "root-ca.pem"]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]


def test_saving_again_replaces(home: Path) -> None:
    first, second = SimulatedPlatform.create(now=NOW), SimulatedPlatform.create(now=NOW)
    first.save(home)
    second.save(home)
    assert SimulatedPlatform.load(home).root_ca_der == second.root_ca_der
    assert len(list(home.iterdir())) == 2


def test_a_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(ConfigError, match="0700"):
        SimulatedPlatform.create(now=NOW).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        SimulatedPlatform.create(now=NOW).save(tmp_path / "file")


def test_a_missing_platform_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        SimulatedPlatform.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"format": 2}',
        b'{"format": 1, "options": 3}',
    ],
)
def test_a_broken_file_is_a_config_error(home: Path, content: bytes) -> None:
    home.mkdir(parents=True)
    (home / "platform.json").write_bytes(content)
    with pytest.raises(ConfigError, match="simulated platform"):
        SimulatedPlatform.load(home)


def test_a_huge_file_is_not_read(home: Path) -> None:
    SimulatedPlatform.create(now=NOW).save(home)
    with (home / "platform.json").open("ab") as file:
        file.write(b" " * (256 * 1024))
    with pytest.raises(ConfigError, match="larger"):
        SimulatedPlatform.load(home)


@pytest.mark.parametrize("broken", [None, 3, "", "zz", [], {}, {"unknown": 1}])
def test_every_broken_member_is_a_config_error_without_key(home: Path, broken: object) -> None:
    SimulatedPlatform.create(now=NOW).save(home)
    path = home / "platform.json"
    document = json.loads(path.read_text())
    for member in document:
        path.write_text(json.dumps({**document, member: broken}))
        if (member, broken) == ("platform_instance_id", ""):
            continue  # what a processor CA's platform has
        with pytest.raises(ConfigError) as caught:
            SimulatedPlatform.load(home)
        assert "PRIVATE" not in str(caught.value)
        assert caught.value.__cause__ is None
