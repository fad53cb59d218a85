"""Steps of a Markdown page: its commands with the output that it shows, and its invisible notes.

Commands are in blocks of the language `console`, behind a prompt `$ `. A command goes on in the
next line after a backslash, within a here-document, and in lines behind a prompt `> `. The other
lines are its output. A comment at its end with `status N` states its exit status; without it 0.

Notes are HTML comments on a line of their own. Those about a block stand directly before it:

    <!-- walk skip: REASON -->                 the commands of the block are not run
    <!-- walk skip `COMMAND`: REASON -->       commands that begin with COMMAND are not run
    <!-- walk file: NAME -->                   the block, of any language, is written to this file
    <!-- walk answer: TEXT -->                 standard input is a terminal on which TEXT is typed

Others are steps of their own:

    <!-- walk run: COMMAND -->                 a command of the machinery, in any number of lines
    <!-- walk let NAME: COMMAND -->            `<NAME>` of the page stands for what COMMAND prints
    <!-- walk stop -->                         what keeps running is interrupted (Ctrl-C)
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

_PART: Final = re.compile(
    r"^[ ]*<!-- walk (?P<note>.*?) ?-->[ ]*$"
    r"|^(?P<indent>[ ]*)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_NOTE: Final = re.compile(
    r"(?P<kind>skip|file|answer|run|let|stop)"
    r"(?: `(?P<command>[^`]+)`| (?P<name>\w+))?(?:: ?(?P<text>.+))?",
    re.DOTALL,
)
_ABOUT_A_BLOCK: Final = frozenset({"skip", "file", "answer"})
_STATUS: Final = re.compile(r"\s# (?:.*\W)?status (\d+)\b.*$")
_HEREDOC: Final = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")


class BadPage(Exception):
    """A note of a page cannot be read."""


@dataclass(frozen=True)
class Step:
    """One thing to do, in the order of the page.

    Attributes:
        kind: `command` of the page, `skip`, `file`, or a note of its own: `run`, `let`, `stop`.
        line: number of its line in the page.
        text: the command; content of the file; what a `skip` leaves out.
        output: lines that the page shows after the command.
        status: exit status that the page states.
        name: of the file or the placeholder; reason of a `skip`.
        answer: what is typed on standard input; None if it is empty.
    """

    kind: str
    line: int
    text: str = ""
    output: tuple[str, ...] = ()
    status: int = 0
    name: str = ""
    answer: str | None = None


def steps(page: str) -> Iterator[Step]:
    """Yield the steps of a page.

    Raises:
        BadPage: a note is misspelled, or stands before no block.
    """
    about: list[re.Match[str]] = []
    for part in _PART.finditer(page):
        line = page.count("\n", 0, part.start()) + 1
        if part["note"] is None:
            text = textwrap.dedent(part["text"]) if part["indent"] else part["text"]
            yield from _block(part["language"], text, line + 1, about)
            about = []
            continue
        note = _NOTE.fullmatch(part["note"])
        if note is None:
            raise BadPage(f"line {line}: not a note of a page: {part['note']}")
        if note["kind"] in _ABOUT_A_BLOCK:
            about.append(note)
        else:
            yield Step(note["kind"], line, note["text"] or "", name=note["name"] or "")
    if about:
        raise BadPage(f"the note {about[0][0]!r} stands before no block")


def _block(language: str, text: str, line: int, about: list[re.Match[str]]) -> Iterator[Step]:
    notes = {note["kind"]: note for note in about}
    if "file" in notes:
        yield Step("file", line, text, name=notes["file"]["text"])
    if language != "console":
        return
    found = [*commands(text, line)]
    whole = next((n for n in about if n["kind"] == "skip" and n["command"] is None), None)
    if whole is not None and found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        yield _skipped(found[0], whole, more)
        return
    answer = notes["answer"]["text"] if "answer" in notes else None
    for step in found:
        skip = next((n for n in about if n["command"] and step.text.startswith(n["command"])), None)
        yield replace(step, answer=answer) if skip is None else _skipped(step, skip)


def _skipped(step: Step, note: re.Match[str], more: str = "") -> Step:
    first = step.text.partition("\n")[0].partition("  #")[0].strip()
    reason = " ".join(note["text"].split())
    return Step("skip", step.line, f"{first}{more}", name=reason)


def commands(block: str, line: int) -> Iterator[Step]:
    """Yield the commands of a block of a console; `line` is the number of its first line."""
    lines = block.splitlines()
    at = 0
    while at < len(lines):
        if not lines[at].startswith("$ "):
            at += 1
            continue
        begin, command = at, [lines[at].removeprefix("$ ")]
        at += 1
        while at < len(lines) and (_goes_on(command) or lines[at].startswith("> ")):
            command.append(lines[at].removeprefix("> "))
            at += 1
        output = []
        while at < len(lines) and not lines[at].startswith("$ "):
            output.append(lines[at])
            at += 1
        text = "\n".join(command)
        status = _STATUS.search(text)
        yield Step(
            "command", line + begin, text, tuple(output), 0 if status is None else int(status[1])
        )


def _goes_on(command: list[str]) -> bool:
    """Return whether the next line belongs to the command: it ends with `\\`, or a text is open."""
    if command[-1].endswith("\\"):
        return True
    open_texts = [match[2] for match in _HEREDOC.finditer("\n".join(command))]
    return any(end not in (line.strip() for line in command) for end in open_texts)


def difference(shown: tuple[str, ...], printed: str) -> bool:
    """Return whether the printed text is not what the page shows.

    `...` stands for any text within a line, a line of `...` for any number of lines. Lines are
    compared without the white space at both ends, and a run of spaces counts as one, because the
    widths of columns depend on values that vary. Blank lines at the end do not count.
    """
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else f"{_line(line)}\n" for line in shown
    )
    lines = [" ".join(line.split()) for line in printed.rstrip().splitlines()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is None


def _line(line: str) -> str:
    parts = [re.escape(" ".join(part.split())) for part in line.split("...")]
    return " ?.* ?".join(parts).strip()
