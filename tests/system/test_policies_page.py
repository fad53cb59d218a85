"""The commands of docs/policies.md, run as documented; its tables, compared with the code."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.policy.support import POLICIES, tdx_claims
from tests.support.broker import RunningBroker, running_broker
from tests.support.command import environment
from tests.support.refused_guests import seen
from tests.support.verdict import beside
from tools.walk.pages import difference, steps
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform, TdMeasurements

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()


async def typed(command: str, broker: RunningBroker, directory: Path) -> tuple[int, str, str]:
    """Run a command in a shell in which the two programs are functions."""
    python = f'"{sys.executable}" -m verdictd_py.cli'
    programs = (
        f'verdict-py() {{ {python}.verdict -c {broker.client_api} "$@"; }}\n'
        f'verdictd-py() {{ {python}.main "$@"; }}\n'
    )
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", programs + command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(), "NO_COLOR": "1", "COLUMNS": "80"},
        cwd=directory,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_every_command_has_the_output_on_the_page(tmp_path: Path) -> None:
    directory = tmp_path / "operator"
    directory.mkdir()
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform) as broker:
        other = await seen(broker, broker.attester(measurements=TdMeasurements(rtmr1=bytes(48))))
        good = await seen(broker)
        count = 0
        for step in steps(PAGE):
            if step.kind == "file":
                (directory / step.name).write_text(step.text)
            if step.kind == "command":
                command = step.text.replace("<id>", good).replace("<other>", other)
                status, out, err = await typed(command, broker, directory)
                assert status == step.status, (command, out, err)
                assert not step.output or not difference(step.output, out), (step, out)
                count += 1
        assert count == len(re.findall(r"^\$ ", PAGE, re.MULTILINE)) > 10
        broker.events.events.clear()
        await seen(broker)
        assert broker.events.named("guest.accepted")  # the policy in force is the page's


def members(heading: str) -> dict[str, set[str]]:
    """Return the members in the table after a heading with the names in their descriptions."""
    begin = PAGE.index(f"\n`{heading}`:\n")
    table = PAGE[begin:].split("\n\n")[1]
    rows = [line.split(" | ", 1) for line in table.splitlines()[2:]]
    return {
        name: set(re.findall(r"`([^`]+)`", described))
        for names, described in rows
        for name in re.findall(r"`([^`]+)`", names)
    }


async def test_the_tables_have_every_member_of_the_reports(tmp_path: Path) -> None:
    (tmp_path / "claims.json").write_text(json.dumps(tdx_claims()))
    (tmp_path / "bad.json").write_text("1")
    policy, claims = str(POLICIES / "tdxPolicy.rego"), str(tmp_path / "claims.json")
    found: dict[str, dict[str, Any]] = {
        heading: (await beside("main", "policy", *words, "--json")).json
        for heading, words in {
            "policy test --json": ("test", policy, claims, "--require-reference-values"),
            "policy test --coverage --json": ("test", policy, "--coverage", str(tmp_path)),
            "policy check --json": ("check", policy),
        }.items()
    }
    for heading, report in found.items():
        documented = members(heading)
        assert list(documented) == list(report), heading
        for name, value in report.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                assert set(value[0]) <= documented[name], name
