"""Completion of both programs: the engine, the scripts in real shells, and names from a broker."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.peers.clients import program
from tests.support.broker import KID, RunningBroker
from tests.support.channel import store
from tests.support.command import environment
from tests.support.verdict import verdict
from verdictd_py.cli.completion import kinds, tree
from verdictd_py.cli.completion.engine import Completion, complete
from verdictd_py.cli.completion.shells import SCRIPTS, split
from verdictd_py.cli.programs import trees

NAMES = {"key": ["my-key", "team/key/1"], "resource": ["a/b/1"], "document": ["tdxPolicy.rego"]}


def no_names(kind: str, words: Sequence[str]) -> list[str]:
    return list(NAMES.get(kind, []))


def words_of(completion: Completion) -> list[str]:
    return [one.word for one in completion.candidates]


def at(program: str, line: str) -> Completion:
    """Complete the last word of a line; it is empty after a blank."""
    return complete(program, split(line)[1:], no_names)


class TestEngine:
    def test_the_stored_tree_is_that_of_the_parsers(self) -> None:
        assert tree.dump(trees()) == tree.FILE.read_text(), "run ./dev docs"

    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("verdict-py ref", ["reference"]),
            ("verdict-py reference pi", ["pin"]),
            ("verdict-py reference pin --f", ["--from", "--field"]),
            ("verdict-py reference pin --from x --f", ["--field"]),
            ("verdict-py guest list acc", ["accepted"]),
            ("verdict-py -c 127.0.0.1:1 key li", ["list"]),
            ("verdict-py --client-api=127.0.0.1:1 key li", ["list"]),
            ("verdict-py --set-o", ["--set-opa-policy", "--set-opa-reference"]),
            ("verdict-py completion f", ["fish"]),
            ("verdict-py key show ", ["my-key", "team/key/1"]),
            ("verdict-py key show te", ["team/key/1"]),
            ("verdict-py resource set a", ["a/b/1"]),
            ("verdict-py policy test --policy td", ["tdxPolicy.rego"]),
            ("verdict-py --get_resource ", ["a/b/1"]),
            ("verdict-py nosuch ", []),
            ("verdictd-py gu", ["guest"]),
            ("verdictd-py guest --protocol r", ["ratstls", "rcar"]),
            ("verdictd-py guest --protocol=rc", ["--protocol=rcar"]),
            ("verdictd-py guest --protocol rcar pol", ["policy"]),
            ("verdictd-py --lis", ["--listen"]),
            ("verdictd-py completion p", ["powershell"]),
            ("verdictd-py man verd", ["verdictd-py", "verdict-py"]),
        ],
    )
    def test_words(self, line: str, found: list[str]) -> None:
        assert words_of(at(line.split(maxsplit=1)[0], line)) == found

    @pytest.mark.parametrize(
        ("line", "files", "prefix"),
        [
            ("verdict-py policy set x ", "file", ""),
            ("verdict-py --set-opa-policy x ", "file", ""),
            ("verdict-py resource set a/b/c ", "file", ""),
            ("verdict-py --tls-ca ", "file", ""),
            ("verdict-py --tls-ca=/e", "file", "--tls-ca="),
            ("verdict-py -p ", "directory", ""),
            ("verdictd-py --data-dir ", "directory", ""),
            ("verdictd-py appraise ", "file", ""),
            ("verdictd-py collateral verify a b ", "file", ""),
        ],
    )
    def test_files(self, line: str, files: str, prefix: str) -> None:
        found = at(line.split(maxsplit=1)[0], line)
        assert (found.files, found.prefix, found.candidates) == (files, prefix, ())

    def test_each_command_and_option_of_both_programs_can_be_completed(self) -> None:
        for name in ("verdict-py", "verdictd-py"):
            for path, node in tree.load(name).descendants():
                assert path[-1] in words_of(at(name, f"{name} {' '.join(path)}"))
                for option in node.option_names():
                    if option.startswith("--"):
                        line = f"{name} {' '.join(path)} {option}"
                        assert option in words_of(at(name, line)), line

    def test_the_names_are_those_of_the_broker_on_the_command_line(self) -> None:
        asked: list[tuple[str, list[str]]] = []

        def names(kind: str, words: Sequence[str]) -> list[str]:
            asked.append((kind, list(words)))
            return []

        complete("verdict-py", ["-c", "h:1", "key", "show", "--timeout=3", ""], names)
        assert asked == [("key", ["-c", "h:1", "--timeout=3"])]

    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("verdict-py ", ["verdict-py", ""]),
            ("verdict-py 'a b", ["verdict-py", "a b"]),
            ('verdict-py "a b" c', ["verdict-py", "a b", "c"]),
        ],
    )
    def test_a_line_is_split_as_a_shell_does(self, line: str, found: list[str]) -> None:
        assert split(line) == found


def programs(directory: Path) -> str:
    """Make both programs in a directory, and return a PATH with it first."""
    for name, function in (("verdict-py", "verdict_py"), ("verdictd-py", "verdictd_py")):
        file = directory / name
        file.write_text(
            f"#!{sys.executable}\nimport sys\nfrom verdictd_py.cli.entry import {function}\n"
            f"sys.exit({function}())\n"
        )
        file.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def shell(name: str, *arguments: str, directory: Path, script: str = "", **more: str) -> list[str]:
    """Run a shell with both programs in its PATH, and return the words that it prints."""
    program(name)
    done = subprocess.run(
        [name, *arguments],
        input=script.encode(),
        capture_output=True,
        env={**environment(), "PATH": programs(directory), "HOME": str(directory), **more},
        cwd=directory,
        timeout=240,
        check=False,
    )
    assert b"rror" not in done.stderr, done.stderr
    return [line.split("\t")[0].strip() for line in done.stdout.decode().splitlines() if line]


BASH = """
eval "$(PROGRAM completion bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
case $1 in *' ') COMP_CWORD=${#COMP_WORDS[@]} COMP_WORDS+=('') ;; esac
$(complete -p PROGRAM | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""

ZSH = """
autoload -Uz compinit && compinit -u -D
eval "$(PROGRAM completion zsh)"
_describe() { shift 2; local line; for line in "${(@P)1}"; do print -r -- "${line%%:*}"; done }
_files() { print -r -- @files }
compset() { return 0 }
words=(${(z)1}); [[ $1 == *' ' ]] && words+=('')
CURRENT=$#words
_FUNCTION
"""

FISH = """
PROGRAM completion fish | source
complete -C $argv[1]
"""

COMMON = [
    ("verdict-py ref", ["reference"]),
    ("verdict-py guest list acc", ["accepted"]),
    ("verdict-py -c 127.0.0.1:1 key li", ["list"]),
    ("verdictd-py --handshake", ["--handshake-timeout"]),
    ("verdictd-py guest --protocol rc", ["rcar"]),
]
"""Lines that every shell completes to the same words."""


@pytest.mark.parametrize(("line", "found"), COMMON, ids=str)
class TestShells:
    def test_bash(self, line: str, found: list[str], tmp_path: Path) -> None:
        script = BASH.replace("PROGRAM", line.split(maxsplit=1)[0])
        assert shell("bash", "-c", script, "bash", line, directory=tmp_path) == found

    def test_zsh(self, line: str, found: list[str], tmp_path: Path) -> None:
        called = line.split(maxsplit=1)[0]
        script = ZSH.replace("PROGRAM", called)
        script = script.replace("_FUNCTION", "_" + called.replace("-", "_"))
        assert shell("zsh", "-f", "-c", script, "zsh", line, directory=tmp_path) == found

    def test_fish(self, line: str, found: list[str], tmp_path: Path) -> None:
        script = FISH.replace("PROGRAM", line.split(maxsplit=1)[0])
        arguments = ("--no-config", "-c", script, line)
        assert shell("fish", *arguments, directory=tmp_path) == found

    def test_powershell(self, line: str, found: list[str], tmp_path: Path) -> None:
        script = (
            f"{line.split(maxsplit=1)[0]} completion powershell | Out-String | Invoke-Expression\n"
            f"(TabExpansion2 '{line}').CompletionMatches.CompletionText\n"
        )
        assert shell("pwsh", "-NoProfile", "-Command", script, directory=tmp_path) == found

    def test_tcsh(self, line: str, found: list[str], tmp_path: Path) -> None:
        """tcsh completes on a terminal only: run what its script runs, with what tcsh passes."""
        called = line.split(maxsplit=1)[0]
        script = (
            f"{called} completion tcsh > script.tcsh\nsource script.tcsh\n"
            f"{called} complete tcsh '{line}'\ncomplete {called}\n"
        )
        printed = shell("tcsh", "-f", directory=tmp_path, script=script)
        *words, rule = printed
        assert words == found
        assert rule.startswith("'p@*@`")


SETUP = {
    "bash": ("--norc", 'eval "$(verdict-py completion bash)"'),
    "zsh": ("-f", 'autoload -Uz compinit; compinit -u -D; eval "$(verdict-py completion zsh)"'),
    "tcsh": ("-f", "verdict-py completion tcsh > script.tcsh; source script.tcsh"),
}


@pytest.mark.parametrize("name", SETUP)
def test_the_tab_key_completes_in_a_terminal(name: str, tmp_path: Path) -> None:
    """pytest's own timeout ends a test whose shell never prints what is expected."""
    program(name)
    option, setup = SETUP[name]
    variables = {**environment(), "PATH": programs(tmp_path), "HOME": str(tmp_path)}
    terminal, other = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", name, option, "-i"],
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=tmp_path,
        env={**variables, "TERM": "dumb" if name == "bash" else "xterm"},
    )
    try:
        os.write(terminal, f"{setup}; echo RE''ADY\n".encode())
        _read_until(terminal, b"READY")
        os.write(terminal, b"verdict-py refe\t")
        _read_until(terminal, b"reference")
    finally:
        os.close(other)
        os.close(terminal)  # the shell ends: its terminal is gone
        process.wait()


def _read_until(terminal: int, expected: bytes) -> None:
    printed = b""
    while expected not in printed:
        printed += os.read(terminal, 4096)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("verdict-py policy set x /etc/passw", ["/etc/passwd", "/etc/passwd-"]),
        ("verdict-py --tls-ca=/etc/passw", ["/etc/passwd", "/etc/passwd-"]),
    ],
)
def test_bash_completes_files(line: str, found: list[str], tmp_path: Path) -> None:
    line = line.replace("=", " = ")  # as bash itself separates words
    script = BASH.replace("PROGRAM", "verdict-py")
    script = script.replace("COMP_LINE=$1", 'COMP_LINE="${1// = /=}"')
    script = script.replace("COMP_POINT=${#1}", "COMP_POINT=${#COMP_LINE}")
    printed = shell("bash", "-c", script, "bash", line, directory=tmp_path)
    assert [name for name in printed if Path(name).exists()] == printed
    assert set(printed) <= set(found)
    assert printed


def test_tcsh_completes_files_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.rego").touch()
    (tmp_path / "policies" / "sub").mkdir()
    script = "verdict-py complete tcsh 'verdict-py policy set x policies/'\n"
    found = shell("tcsh", "-f", directory=tmp_path, script=script)
    assert found == ["policies/a.rego", "policies/sub/"]


async def test_names_come_from_the_broker(broker: RunningBroker, tmp_path: Path) -> None:
    store(broker, f"keys/{KID[:-1]}f", bytes(32))
    store(broker, "resources/team/secret/1", b"x")
    patience = {kinds.SECONDS_VARIABLE: "60"}  # on a busy machine
    for words, found in (("key show 8", KID), ("resource show team", "team/secret/1")):
        line = f"verdict-py -c {broker.client_api} {words}"
        script = BASH.replace("PROGRAM", "verdict-py")
        arguments = ("bash", "-c", script, "bash", line)
        printed = await asyncio.to_thread(
            lambda arguments: shell(*arguments, directory=tmp_path, **patience), arguments
        )
        assert found in printed


async def test_hostile_names_are_not_offered(broker: RunningBroker) -> None:
    assert kinds.safe(["ok", "a/b/1", "$(reboot)", "a b", "`x`", "-rf", "a\n"]) == ["ok", "a/b/1"]
    assert (await verdict(broker, "key", "list")).status == 0


def test_a_server_that_never_answers_ends_the_completion_without_output(tmp_path: Path) -> None:
    """Without the limit, the call would wait for a day, and the limit of `run` ends the test."""
    path = programs(tmp_path)
    words = ("--timeout", "86400", "key", "show", "--", "")
    with ExitStack() as connections, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        thread = threading.Thread(target=_begin_http2, args=(server, connections), daemon=True)
        thread.start()
        done = subprocess.run(
            ["", "complete", "fish", "-c", f"127.0.0.1:{port}", *words],
            executable=tmp_path / "verdict-py",
            env={**environment(), "PATH": path, kinds.SECONDS_VARIABLE: "5"},
            capture_output=True,
            timeout=120,
            check=False,
        )
        server.shutdown(socket.SHUT_RDWR)  # ends `accept`
        thread.join()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def _begin_http2(server: socket.socket, connections: ExitStack) -> None:
    """Accept connections, and send the settings of HTTP/2 and nothing else."""
    with suppress(OSError):
        while True:
            connection = connections.enter_context(server.accept()[0])
            connection.sendall(bytes.fromhex("000000040000000000"))  # RFC 9113, empty SETTINGS


@pytest.mark.parametrize("shell_name", SCRIPTS)
@pytest.mark.parametrize("rest", [[], ["x"], ["--", ""], ["\udcff", "--", "\udcff"]])
def test_a_completion_never_fails(
    shell_name: str, rest: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    from verdictd_py.cli.completion.shells import main  # noqa: PLC0415

    assert main("verdict-py", [shell_name, *rest]) == 0
    assert main("verdict-py", ["no-such-shell", *rest]) == 0
    assert capfd.readouterr().err == ""
