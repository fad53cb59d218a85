"""`verdictd-py collateral`: a file of collateral for an air-gapped site."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.broker import running_broker
from tests.support.command import Run, run_all, run_here
from tests.support.documents import follows
from tests.support.pccs import Pccs, running_pccs
from tests.support.verdict import beside
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.simulator.pcs import PcsAnswer

FMSPC = "50806f000000"
FETCH = ("fetch", "--fmspc", FMSPC, "--collateral-url", "http://127.0.0.1:9", "--output")
UNUSABLE = {
    "binary": b"\xff\xfe\x00",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "number": b"9" * 5000,
    "surrogate": json.dumps({"pck_crl_issuer_chain": "\ud800"}).encode(),
    "lines": b"one\ntwo\n",
}


@pytest_asyncio.fixture
async def pccs() -> AsyncIterator[Pccs]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_pccs(platform) as running:
        yield running


def root_file(pccs: Pccs, directory: Path) -> str:
    file = directory / "root.pem"
    file.write_text(pccs.platform.root_ca_pem)
    return str(file)


async def test_collateral_is_fetched_displayed_verified_and_used(
    pccs: Pccs, tmp_path: Path
) -> None:
    root = ("--root-ca", root_file(pccs, tmp_path))
    (tmp_path / "quote").write_bytes(pccs.platform.quote(bytes(64)))
    bundle = tmp_path / "bundle.json"
    fetched = await beside(
        *("main", "collateral", "fetch", "--quote", str(tmp_path / "quote"), "--fmspc", FMSPC),
        *("--collateral-url", pccs.url, "--output", str(bundle), *root),
    )
    assert (fetched.status, fetched.stdout) == (0, f"{bundle}: 1 platform types\n".encode())
    shown = await beside("main", "collateral", "show", "--json", str(bundle), *root)
    follows(shown.json, "collateral-list")
    (row,) = shown.items
    assert (row["tee"], row["fmspc"], row["ca"]) == ("tdx", FMSPC, "platform")
    assert (row["evaluation"], row["problem"]) == (17, "")
    assert (await beside("main", "collateral", "verify", str(bundle), *root)).status == 0
    late = (app.utc_now() + timedelta(days=40)).isoformat()
    ended = await beside("main", "collateral", "verify", str(bundle), "--at", late, *root)
    assert ended.status == 1
    assert b"outside its validity" in ended.stdout
    ended = await beside("main", "collateral", "verify", str(bundle))  # Intel's root
    assert ended.status == 1
    assert b"trusted root" in ended.stdout
    async with (
        running_broker(tmp_path, pccs.platform, collateral=bundle) as broker,
        broker.guest() as guest,
    ):
        assert await guest.version() == "v1"


async def test_collateral_that_does_not_verify_is_not_written(pccs: Pccs, tmp_path: Path) -> None:
    output = tmp_path / "bundle.json"
    service = ("--collateral-url", pccs.url)
    words = ("collateral", "fetch", "--fmspc", FMSPC, "--output", str(output), *service)
    ended = await beside("main", *words)  # Intel's root did not sign this
    assert ended.complaint(1, "verdictd-py collateral").endswith("nothing is written")
    pccs.change = lambda path, answer: PcsAnswer(503)
    ended = await beside("main", *words, "--root-ca", root_file(pccs, tmp_path))
    assert "status 503" in ended.complaint(2, "verdictd-py collateral")
    assert not output.exists()


def test_a_wrong_command_line_is_one_line(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    for name, content in UNUSABLE.items():
        (tmp_path / name).write_bytes(content)
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(8 * 1024**3)
    (tmp_path / "directory").mkdir()
    junk, output = str(tmp_path / "junk"), str(tmp_path / "out")
    cases = {
        "is not an FMSPC": ("fetch", "--fmspc", "xyz", "--output", output),
        "--fmspc HEX or --quote FILE": ("fetch", "--output", output),
        "names no platform": ("fetch", "--quote", junk, "--output", output),
        "is not collateral": ("show", junk),
        "cannot read": ("verify", "/nonexistent"),
        "--collateral-url": (
            *("fetch", "--fmspc", FMSPC, "--output", output, "--collateral-url", "nowhere"),
        ),
        "ACTION": (),
        "it is not text": ("show", str(tmp_path / "binary")),
        "it is an empty list": ("verify", str(tmp_path / "list")),
        "nested too deeply": ("verify", str(tmp_path / "deep")),
        "a number in it is too long": ("verify", str(tmp_path / "number")),
        "half of a surrogate pair": ("verify", str(tmp_path / "surrogate")),
        "is larger than": ("verify", str(tmp_path / "huge")),
        "Is a directory": ("verify", str(tmp_path / "directory")),
        "longer than": ("fetch", "--quote", str(tmp_path / "huge"), "--output", output),
        "is not a URL": (*FETCH, output, "--collateral-url", "http://[::1"),
        "one line of at most": (
            *(*FETCH, output, "--collateral-api-key-file", str(tmp_path / "lines")),
        ),
        "letters and digits": (
            *(*FETCH, output, "--collateral-api-key-file", str(tmp_path / "huge")),
        ),
    }
    for said, words in cases.items():
        ended = run_here(("collateral", *words), capfdbinary)
        assert said in ended.complaint(2, ended.stderr.partition(": ")[0]), ended


def test_a_file_cannot_write_control_characters_to_the_terminal(tmp_path: Path) -> None:
    info = {"id": "TDX", "fmspc": FMSPC, "issueDate": "\x1b[2J\n0"}
    info["tcbEvaluationDataNumber"] = 17  # type: ignore[assignment]  # as Intel has it
    platform = SimulatedPlatform.create(now=app.utc_now())
    good = json.loads(collateral_json(platform.collateral(app.utc_now())))
    file = tmp_path / "file"
    file.write_text(json.dumps({**good, "tcb_info": json.dumps(info)}))
    ended = run_all({"show": Run(("collateral", "show", str(file)))})["show"]
    assert ended.stdout.count(b"\n") == 1
    assert b"\x1b" not in ended.stdout
    assert ended.stdout.startswith(f"file={file}  tee=tdx  fmspc={FMSPC}".encode())
