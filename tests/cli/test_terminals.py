"""Both programs on a terminal: questions before something is deleted, and output without color."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.broker import KID, RunningBroker
from tests.support.channel import store
from tests.support.command import environment
from tests.support.verdict import verdict


@dataclass(frozen=True)
class Typed:
    """What a command printed on a terminal, and its exit status."""

    status: int
    text: str


async def on_terminal(module: str, *words: str, typed: str = "", **variables: str) -> Typed:
    """Run a command with a terminal, on which `typed` is waiting."""
    terminal, other = os.openpty()
    os.write(terminal, typed.encode())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"verdictd_py.cli.{module}", *words),
        stdin=other,
        stdout=other,
        stderr=other,
        env={**environment(), "TERM": "xterm", "COLUMNS": "80", **variables},
    )
    os.close(other)
    text = await asyncio.to_thread(_read, terminal)
    status = await process.wait()
    os.close(terminal)
    return Typed(status, text)


def _read(terminal: int) -> str:
    """Read until no process has the terminal open."""
    text = b""
    try:
        while part := os.read(terminal, 4096):
            text += part
    except OSError:  # EIO: closed
        pass
    return text.decode(errors="replace")


DELETIONS = [
    (("key", "delete", KID), f"keys/{KID}"),
    (("resource", "delete", "team/secret/1"), "resources/team/secret/1"),
    (("policy", "delete", "other.rego"), "opa/other.rego"),
]


@pytest.fixture
def files(broker: RunningBroker) -> list[Path]:
    """Store what the tests delete."""
    store(broker, f"keys/{KID}", bytes(32))
    store(broker, "resources/team/secret/1", b"x")
    store(broker, "opa/other.rego", b"package policy\n\ndefault allow = false\n")
    return [broker.data / file for _, file in DELETIONS]


@pytest.mark.parametrize(("words", "file"), DELETIONS)
class TestQuestions:
    async def test_no_is_the_default(
        self, broker: RunningBroker, files: list[Path], words: tuple[str, ...], file: str
    ) -> None:
        for answer in ("\n", "n\n", "perhaps\n"):
            done = await on_terminal("verdict", "-c", broker.client_api, *words, typed=answer)
            assert "[y/N]" in done.text
            assert words[-1] in done.text
            assert done.status == 1
            assert (broker.data / file).exists()

    async def test_yes_deletes(
        self, broker: RunningBroker, files: list[Path], words: tuple[str, ...], file: str
    ) -> None:
        done = await on_terminal("verdict", "-c", broker.client_api, *words, typed="y\n")
        assert (done.status, "[y/N]" in done.text) == (0, True)
        assert not (broker.data / file).exists()

    @pytest.mark.parametrize("option", ["--yes", "-y"])
    async def test_an_option_confirms_in_advance(
        self,
        broker: RunningBroker,
        files: list[Path],
        words: tuple[str, ...],
        file: str,
        option: str,
    ) -> None:
        done = await on_terminal("verdict", "-c", broker.client_api, *words, option)
        assert (done.status, "[y/N]" in done.text) == (0, False)
        assert not (broker.data / file).exists()

    async def test_a_script_is_not_asked(
        self, broker: RunningBroker, files: list[Path], words: tuple[str, ...], file: str
    ) -> None:
        done = await verdict(broker, *words)
        assert (done.status, "[y/N]" in done.stderr) == (0, False)
        assert not (broker.data / file).exists()


async def test_an_option_of_upstream_never_asks(broker: RunningBroker) -> None:
    words = ("-c", broker.client_api, "--delete-gpg-key", "nobody@example.com")
    done = await on_terminal("verdict", *words)
    assert "[y/N]" not in done.text


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("verdict", ("status",)),
        ("verdict", ("policy", "list")),
        ("verdict", ("--help",)),
        ("verdict", ("key", "lst")),
        ("main", ("--help",)),
        ("main", ("guest", "--help")),
        ("main", ("policy", "check", "policies/tdxPolicy.rego")),
        ("main", ("no-such-command",)),
    ],
)
async def test_no_color_is_respected(
    broker: RunningBroker, module: str, words: tuple[str, ...]
) -> None:
    """Python 3.14 colors the help of each program, and reads NO_COLOR itself."""
    given = ("-c", broker.client_api, *words) if module == "verdict" else words
    done = await on_terminal(module, *given, NO_COLOR="1")
    assert done.text
    assert "\x1b" not in done.text


async def test_a_terminal_without_no_color_gets_colors(broker: RunningBroker) -> None:
    done = await on_terminal("verdict", "-c", broker.client_api, "policy", "list")
    assert "\x1b" in done.text
