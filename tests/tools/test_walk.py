"""`./dev walk` runs what a page says word for word, and compares what programs print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.walk import standins
from tools.walk.__main__ import PAGES, ROOT, walk
from tools.walk.pages import BadPage, Step, difference, steps
from tools.walk.shell import KEEPS_RUNNING, Failed, Shell


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "state").mkdir()
    made = Shell(tmp_path / "state", tmp_path, {"PATH": os.environ["PATH"], "NO_COLOR": "1"})
    yield made
    made.stop()


def page(*blocks: str) -> str:
    return "\n".join(blocks)


def console(*lines: str) -> str:
    return "```console\n" + "\n".join(lines) + "\n```\n"


def found(text: str) -> list[Step]:
    return [*steps(text)]


class TestSteps:
    def test_a_command_and_its_output(self) -> None:
        (step,) = found(console("$ echo one", "one", "", "two"))
        assert step == Step("command", 2, "echo one", ("one", "", "two"))

    @pytest.mark.parametrize(
        "lines",
        [
            ("$ one \\", "      two"),
            ("$ cat <<EOF > file", "  content", "$ no command", "EOF"),
            ("$ cat <<- 'EOF' | sort", "content", "\tEOF"),
            ("$ for name in *; do", ">   echo $name", "> done"),
        ],
    )
    def test_a_command_of_several_lines(self, lines: tuple[str, ...]) -> None:
        (step,) = found(console(*lines))
        assert step.text.count("\n") == len(lines) - 1
        assert step.output == ()

    def test_the_exit_status_is_in_a_comment(self) -> None:
        for comment in ("# status 3", "# first time; status 3, as no broker answers"):
            (step,) = found(console(f"$ false    {comment}"))
            assert step.status == 3
        (step,) = found(console("$ verdict-py status    # reports problems"))
        assert step.status == 0

    def test_only_blocks_of_the_console_are_run(self) -> None:
        assert found("```sh\n$ true\n```\n\n```\n$ true\n```\n") == []

    def test_a_block_in_a_list_is_run_without_its_indent(self) -> None:
        (step,) = found("1. First:\n\n   ```console\n   $ echo one\n   one\n   ```\n")
        assert (step.text, step.output) == ("echo one", ("one",))

    def test_a_block_or_a_command_is_skipped_with_a_reason(self) -> None:
        block = console("$ one", "$ two")
        (whole,) = found("<!-- walk skip: no\n     hardware -->\n" + block)
        assert (whole.kind, whole.text, whole.name) == ("skip", "one (and 1 more)", "no hardware")
        one, two = found("<!-- walk skip `two`: too long -->\n" + block)
        assert (one.kind, two.kind, two.name) == ("command", "skip", "too long")

    def test_a_skip_is_about_one_block(self) -> None:
        first, second = found("<!-- walk skip: no -->\n" + console("$ one") + console("$ two"))
        assert (first.kind, second.kind) == ("skip", "command")

    @pytest.mark.parametrize("note", ["walk skp: x", "walk `x`", "walk answer: y"])
    def test_a_note_that_cannot_be_read_is_reported(self, note: str) -> None:
        with pytest.raises(BadPage):
            found(f"{console('$ true')}\n<!-- {note} -->\n")


class TestComparison:
    @pytest.mark.parametrize(
        ("shown", "printed"),
        [
            ("one\ntwo", "one\ntwo\n"),
            ("a  b", "a b  \n"),
            ("one", "one\n\n"),
            ("id ... done", "id 6b82 and more done\n"),
            ("...\nlast", "any\nnumber\nof lines\nlast\n"),
            ("...\nlast", "last\n"),
            ("(a|b) [0] \\d", "(a|b) [0] \\d\n"),
        ],
    )
    def test_it_is_what_the_page_shows(self, shown: str, printed: str) -> None:
        assert not difference(tuple(shown.split("\n")), printed)

    @pytest.mark.parametrize(
        ("shown", "printed"),
        [
            ("one", "one\ntwo\n"),
            ("one\ntwo", "one\n"),
            ("one", "On\n"),
            ("a b", "ab\n"),
            ("...\nlast", "last\nmore\n"),
            ("id ... done", "id 6b82\ndone\n"),
        ],
    )
    def test_it_is_something_else(self, shown: str, printed: str) -> None:
        assert difference(tuple(shown.split("\n")), printed)


class TestWalk:
    def test_directory_and_environment_last(
        self, shell: Shell, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = console(
            *("$ mkdir inner && cd inner", "$ export NAME='a b'"),
            *("$ basename $PWD; echo $NAME", "inner", "a b"),
        )
        assert walk("page", text, shell) == 0
        assert "3 commands run, 1 outputs compared, 0 " in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("lines", "problem"),
        [
            (("$ echo one", "two"), "page:2: another output than the page shows"),
            (("$ true", "$ false"), "page:3: exit status 1 instead of 0"),
            (("$ true # status 1",), "page:2: exit status 0 instead of 1"),
        ],
    )
    def test_a_difference_is_a_failure(
        self,
        shell: Shell,
        capsys: pytest.CaptureFixture[str],
        lines: tuple[str, ...],
        problem: str,
    ) -> None:
        assert walk("page", console(*lines), shell) == 1
        assert capsys.readouterr().err.startswith(problem)

    def test_a_placeholder_has_the_value_that_the_machinery_finds(self, shell: Shell) -> None:
        text = page(
            "<!-- walk run: mkdir kept; touch kept/6b82 -->",
            "<!-- walk let id: ls kept -->",
            console("$ echo guest <id>", "guest <id>", "$ ls kept/<id>"),
        )
        assert walk("page", text, shell) == 0
        assert walk("page", text.replace("guest <id>\n$", "guest 6b83\n$"), shell) == 1

    def test_a_block_is_written_to_a_file(self, shell: Shell) -> None:
        block = console("$ cat data.json", "{}")
        text = page("<!-- walk file: data.json -->", "```json\n{}\n```", block)
        assert walk("page", text, shell) == 0

    def test_an_answer_is_typed_on_a_terminal(self, shell: Shell) -> None:
        block = console("$ [ -t 0 ] && read answer && echo got $answer", "got y")
        assert walk("page", f"<!-- walk answer: y -->\n{block}", shell) == 0
        assert walk("page", block, shell) == 1

    def test_what_was_skipped_is_listed(
        self, shell: Shell, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert walk("page", "<!-- walk skip: no cluster -->\n" + console("$ kubectl x"), shell) == 0
        assert "page:3: not run: kubectl x: no cluster\n" in capsys.readouterr().out


class TestProgramsThatKeepRunning:
    @staticmethod
    def program(directory: Path, script: str) -> None:
        program = directory / "verdictd-py"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def test_a_broker_ends_the_one_before_and_is_interrupted_at_the_end(
        self, shell: Shell, tmp_path: Path
    ) -> None:
        self.program(tmp_path, "echo daemon.started; exec sleep 1000")
        shell.run("export PATH=$PWD:$PATH")
        shell.run("verdictd-py --listen one")
        first = shell._running["broker"]._process
        shell.run("verdictd-py --listen two")
        assert first.poll() is not None
        second = shell._running["broker"]._process
        assert second.poll() is None
        shell.stop()
        assert second.poll() is not None

    def test_one_that_ends_before_it_serves_is_a_failure(
        self, shell: Shell, tmp_path: Path
    ) -> None:
        self.program(tmp_path, "echo cannot listen")
        shell.run("export PATH=$PWD:$PATH")
        with pytest.raises(Failed, match="cannot listen"):
            shell.run("verdictd-py --listen one")

    @pytest.mark.parametrize(
        ("command", "role"),
        [
            ("verdictd-py --listen 127.0.0.1:1", "broker"),
            ("verdictd-py \\\n   --listen 127.0.0.1:1", "broker"),
            ("./dev demo     # leaves the broker running", "demo"),
            ("verdictd-py guest --connect x agent --keyprovider y", "agent"),
            ("verdictd-py guest agent --keyprovider y", "agent"),
            ("verdictd-py --help", None),
            ("verdictd-py --version", None),
            ("verdictd-py demo --exit", None),
            ("verdictd-py guest --connect x policy", None),
            ("verdictd-py audit verify x", None),
        ],
    )
    def test_they_are_recognised_by_their_command(self, command: str, role: str | None) -> None:
        roles = [name for name, pattern, _ in KEEPS_RUNNING if pattern.match(command)]
        assert roles == ([] if role is None else [role])


def test_pages_that_use_image_tools_need_their_stand_ins() -> None:
    assert standins.missing(console("$ skopeo copy a b"), path="") == ["ocicopy", "docker-registry"]
    assert standins.missing(console("$ A=b cosign sign x"), path="") == ["cosign"]
    assert standins.missing(console("$ verdict-py status"), path="") == []


@pytest.mark.parametrize("name", PAGES)
def test_the_notes_of_every_page_can_be_read(name: str) -> None:
    kinds = [step.kind for step in steps((ROOT / name).read_text(encoding="utf-8"))]
    assert kinds.count("command") > 0
