"""Manual pages of both programs: complete, and without a warning of man or mandoc."""

from __future__ import annotations

import subprocess

import pytest

from tests.peers.clients import program as formatter
from tests.support.command import run_here
from verdictd_py.cli.completion.tree import load
from verdictd_py.cli.manpage import page

PROGRAMS = ("verdict-py", "verdictd-py")
FORMATTERS = {
    "mandoc": ("mandoc", "-Tlint"),
    "groff": ("groff", "-man", "-ww", "-Tutf8", "-z"),
}


@pytest.mark.parametrize("program", PROGRAMS)
class TestPage:
    @pytest.mark.parametrize("name", FORMATTERS)
    def test_it_has_no_mistake(self, program: str, name: str) -> None:
        formatter(name)
        done = subprocess.run(
            FORMATTERS[name], input=page(program).encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")

    def test_it_has_each_command_and_option(self, program: str) -> None:
        text = page(program).replace("\\-", "-")
        assert "\\fB\\-\\-help" in page(program) or "\\fB\\-\\-version" in page(program)
        for path in load(program).paths():
            assert f'.SS "{path}"' in text, path
        for _, node in [((), load(program)), *load(program).descendants()]:
            for name in node.option_names():
                assert f"\\fB{name}\\fR" in text or name in ("-h", "--help"), name

    def test_it_has_the_usual_sections_in_their_order(self, program: str) -> None:
        lines = page(program).splitlines()
        assert [line.removeprefix(".SH ") for line in lines if line.startswith(".SH ")] == [
            *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXIT STATUS"),
            *("ENVIRONMENT", "EXAMPLES", "SEE ALSO"),
        ]

    def test_a_command_prints_it(
        self, program: str, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        assert run_here(("man", program), capfdbinary).stdout.decode() == page(program)


def test_each_command_of_both_programs_has_its_exit_statuses() -> None:
    from verdictd_py.cli.exitstatus import meanings, statuses  # noqa: PLC0415
    from verdictd_py.cli.main import COMMANDS  # noqa: PLC0415

    described = {words for program in PROGRAMS for words, _ in statuses(program)}
    assert described >= {"verdict-py", "verdictd-py", *(f"verdictd-py {name}" for name in COMMANDS)}
    found = dict(meanings("exit status: 0 done, with care, 1 refused\n(or not), 2 wrong"))
    assert found == {0: "done, with care", 1: "refused (or not)", 2: "wrong"}
    guest = dict(next(found for words, found in statuses("verdictd-py") if "guest" in words))
    assert guest[3] == "no broker reached"
