"""Writes a transcript of every command of `verdict-py` on a terminal of 80 columns.

Usage: python -m tools.transcript FILE

A real daemon serves simulated guests. One of them is refused, explained, pinned, and accepted. Each
command runs with a pseudo terminal of its own, as an operator sees it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pysequoia import Tsk

from verdictd_py.guest.attesters import (
    COLLATERAL_FILE,
    SimulatedAttester,
    guest_context,
    simulated_platform,
)
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.packaged import default_file
from verdictd_py.protocols.ratstls.issue import Form

COLUMNS: Final = 80
_ROWS: Final = 50
KID: Final = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
_PROGRAMS: Final = {"verdict-py": "verdict", "verdictd-py": "main"}
_QUESTION: Final = b"[y/N] "
OTHER_KERNEL: Final = "ab" * 48


@dataclass(frozen=True)
class Step:
    """A command on the terminal.

    Attributes:
        command: its words, as the operator types them; `<id>` stands for the refused guest.
        typed: the answer to its question.
        status: exit status that is expected.
        connected: whether a guest is connected meanwhile; `<guest>` stands for it.
        content: whether the output is data or a content of a file, whose lines have any length.
        binary: whether the output is a content that a terminal does not get.
    """

    command: str
    typed: str = ""
    status: int = 0
    connected: bool = False
    content: bool = False
    binary: bool = False

    @property
    def has_forms(self) -> bool:
        """Whether the command takes `-o`, and has no form of its own."""
        words = self.command.split()
        own = {"-o", "-q", "--json"} & set(words)
        return words[0] == "verdict-py" and not words[1].startswith("--") and not own


@dataclass(frozen=True)
class Shown:
    """A step and what the terminal displays for it, without the command."""

    step: Step
    command: str
    text: str
    status: int


GUEST: Final = "verdictd-py guest --connect <listen> --platform platform --base64"
STEPS: Final = (
    Step("verdict-py status"),
    Step("verdict-py schema done"),
    Step("verdict-py console"),
    # A guest is refused, explained, pinned, and accepted.
    Step(f"{GUEST} key {KID}"),
    Step("verdict-py guest list accepted"),
    Step("verdict-py reference set tdxData other-kernel.json"),
    Step(f"{GUEST} key {KID}", status=1),
    Step("verdict-py guest list"),
    Step("verdict-py explain <id>"),
    Step("verdict-py policy test --id <id>", status=1),
    Step("verdict-py reference pin --from <id>", typed="y"),
    Step(f"{GUEST} key {KID}"),
    Step("verdict-py guest list accepted -o wide", content=True),
    Step("verdict-py reference show"),
    # Connected guests.
    Step("verdict-py guest list connected", connected=True),
    Step("verdict-py guest disconnect <guest>", typed="y", connected=True),
    # Named sets.
    Step(f"verdict-py reference add spring rtmr1={OTHER_KERNEL}", content=True),
    Step("verdict-py reference add summer rtmr1=" + OTHER_KERNEL[:-8] + "ba" * 4),
    Step("verdict-py reference sets"),
    Step("verdict-py reference diff spring summer", status=1),
    Step("verdict-py reference retire spring", typed="y"),
    Step("verdict-py reference delete spr", typed="y"),
    # Policies.
    Step("verdict-py policy list"),
    Step("verdict-py policy show tdxPolicy.rego", content=True),
    Step("verdict-py policy check kernel.rego --policy tdxPolicy.rego"),
    Step("verdict-py policy set tdxPolicy.rego kernel.rego"),
    Step("verdict-py --set-opa-policy old.rego kernel.rego"),
    Step("verdict-py policy delete old.rego", typed="y"),
    # Keys.
    Step("verdict-py key create default/key/1"),
    Step("verdict-py key list"),
    Step("verdict-py key list -q"),
    Step("verdict-py key describe 84688df7 -o yaml"),
    Step("verdict-py key show 84688df7"),
    Step("verdict-py key delete default/key/1", typed="n", status=1),
    Step("verdict-py key delete default/key/1 --yes"),
    Step("verdict-py key describe no-such-key --json", status=1, content=True),
    # Resources.
    Step("verdict-py resource set team/signing/one key.bin"),
    Step("verdict-py resource list"),
    Step("verdict-py resource show team/signing/one"),
    Step("verdict-py key adopt team/signing/one"),
    Step("verdict-py resource set team/notes/one kernel.rego"),
    Step("verdict-py resource delete team/notes/one", typed="y"),
    # Image files and the keyring.
    Step("verdict-py image-policy show", content=True),
    Step("verdict-py image-policy set policy.json"),
    Step("verdict-py sigstore show", content=True),
    Step("verdict-py sigstore set sigstore.yaml"),
    Step("verdict-py cosign-key set cosign.pub"),
    Step("verdict-py cosign-key show"),
    Step("verdict-py credential set auth.json"),
    Step("verdict-py credential show"),
    Step("verdict-py keyring import ann.asc"),
    Step("verdict-py keyring list"),
    Step("verdict-py keyring export", status=2, binary=True),
    Step("verdict-py keyring delete ann@example.org", typed="y"),
)


def main(argv: list[str]) -> int:
    """Write the transcript into a file."""
    (target,) = argv
    text = "".join(map(rendered, asyncio.run(transcript())))
    Path(target).write_text(text)
    return 0


def rendered(shown: Shown) -> str:
    """Return the text of a step, as a terminal displays it."""
    return f"$ {shown.command}\n{shown.text}\n"


async def transcript(form: str = "") -> list[Shown]:
    """Run every step with a real daemon.

    Args:
        form: `json` for documents in place of the text of each command that has no form of its
            own; then standard output is no terminal, and the result has nothing else.

    Raises:
        AssertionError: a command has another exit status than expected.
    """
    with tempfile.TemporaryDirectory(prefix="verdict-") as name:
        directory = Path(name)
        _write_files(directory)
        with _daemon(directory) as started:
            return [await _step(step, directory, started, form) for step in STEPS]


async def _step(step: Step, directory: Path, started: Mapping[str, Any], form: str) -> Shown:
    names = {"<listen>": started["listen"]}
    address = {"VERDICT_PY_CLIENT_API": str(started["client_api"])}

    def run(command: str, typed: str = "") -> tuple[int, str]:
        return on_terminal(command, directory, address, typed)

    async def asked(command: str) -> str:
        status, text = await asyncio.to_thread(run, command)
        assert status == 0, (command, text)  # noqa: S101  # this tool is a test
        return text.split("\n")[0].strip()

    if "<id>" in step.command:
        names["<id>"] = await asked("verdict-py guest list --limit 1 -q")
    async with _guest(started, directory, wanted=step.connected):
        if "<guest>" in step.command:
            names["<guest>"] = (await asked("verdict-py guest list connected -q"))[:8]
        command = step.command
        for name, value in names.items():
            command = command.replace(name, value)
        if form and step.has_forms:
            documents = f"{command} -o {form}", directory, address, step.typed
            status, text = await asyncio.to_thread(captured, *documents)
        else:
            status, text = await asyncio.to_thread(run, command, step.typed)
    expected = {step.status, 0} if form and step.binary else {step.status}
    assert status in expected, (command, status, text)  # noqa: S101  # as above
    return Shown(step, command, text, status)


@asynccontextmanager
async def _guest(
    started: Mapping[str, Any], directory: Path, *, wanted: bool
) -> AsyncIterator[None]:
    """Keep a guest connected if it is wanted."""
    if not wanted:
        yield
        return
    now = datetime.now(UTC)
    platform = simulated_platform(directory / "platform", now=now)
    context = guest_context(SimulatedAttester(platform), Form.CURRENT, now=now)
    host, _, port = str(started["listen"]).rpartition(":")
    async with GuestConnection.open(host, int(port), context, timeout_seconds=60) as connection:
        await connection.version()
        yield


def _write_files(directory: Path) -> None:
    """Write the files that the operator has."""
    simulated_platform(directory / "platform", now=datetime.now(UTC))
    (directory / "data" / "keys").mkdir(mode=0o700, parents=True)
    (directory / "data" / "keys" / KID).write_bytes(default_file(f"keys/{KID}"))
    (directory / "other-kernel.json").write_text(json.dumps({"rtmr1": [OTHER_KERNEL]}))
    (directory / "kernel.rego").write_bytes(default_file("policies/tdxPolicy.rego"))
    (directory / "key.bin").write_bytes(b"0123456789abcdef0123456789abcdef")
    (directory / "policy.json").write_text('{"default":[{"type":"reject"}],"transports":{}}\n')
    (directory / "sigstore.yaml").write_text("default-docker:\n  sigstore: file:///sigstore\n")
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    (directory / "cosign.pub").write_bytes(
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (directory / "auth.json").write_text('{"auths":{"registry.example":{"auth":"dXNlcjpwYXNz"}}}\n')
    certificate = Tsk.generate("Ann <ann@example.org>").extract_certificate()
    (directory / "ann.asc").write_text(str(certificate))


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without settings of the programs, and with this checkout's package."""
    ours = ("VERDICTD_", "VERDICT_PY_", "CLICOLOR", "COLUMNS")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    root = str(Path(__file__).resolve().parents[1])
    return {**kept, "PYTHONPATH": root, "NO_COLOR": "1", "TERM": "xterm", **more}


@contextmanager
def _daemon(directory: Path) -> Iterator[Mapping[str, Any]]:
    """Run a daemon in a process of its own; yield the event of its start."""
    platform = directory / "platform"
    words = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--console", "127.0.0.1:0")
    files = (
        "--verifier",
        "tdx",
        "--data-dir",
        "data",
        "--collateral",
        str(platform / COLLATERAL_FILE),
    )
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "verdictd_py.cli.main", *words, *files),
            *("--unsafe-tdx-root-ca", str(platform / "root-ca.pem")),
        ],
        cwd=directory,
        env=_environment({"VERDICTD_LOG_FORMAT": "json"}),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        log: list[str] = []
        started: Future[Mapping[str, Any]] = Future()
        reader = Thread(target=_read_log, args=(process, log, started), daemon=True)
        reader.start()
        try:
            yield started.result()
        finally:
            process.terminate()
            reader.join()


def _read_log(
    process: subprocess.Popen[str], log: list[str], started: Future[Mapping[str, Any]]
) -> None:
    """Read the log to its end, so that the daemon never waits for this process."""
    for line in process.stderr or ():
        log.append(line)
        if not started.done() and '"daemon.started"' in line:
            started.set_result(json.loads(line))
    if not started.done():
        started.set_exception(AssertionError("the daemon has not started:\n" + "".join(log)))


def on_terminal(
    command: str,
    directory: Path,
    environment: Mapping[str, str],
    typed: str = "",
    columns: int = COLUMNS,
    stdout: int | None = None,
) -> tuple[int, str]:
    """Run a command on a pseudo terminal; return its exit status and what it displays.

    Args:
        typed: the answer to its question.
        stdout: descriptor of its standard output; None for the terminal.
    """
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, columns, 0, 0))
        program, *words = command.split()
        with subprocess.Popen(
            [sys.executable, "-m", f"verdictd_py.cli.{_PROGRAMS[program]}", *words],
            cwd=directory,
            env=_environment(environment),
            stdin=theirs,
            stdout=theirs if stdout is None else stdout,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            theirs = -1
            text = _conversation(ours, typed)
            return process.wait(), text
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def captured(
    command: str, directory: Path, environment: Mapping[str, str], typed: str = ""
) -> tuple[int, str]:
    """Run a command on a pseudo terminal; return its exit status and its standard output."""
    with tempfile.TemporaryFile() as output:
        status, _ = on_terminal(command, directory, environment, typed, stdout=output.fileno())
        output.seek(0)
        return status, output.read().decode()


def _conversation(terminal: int, typed: str) -> str:
    """Return everything that a program writes to its terminal; answer its question."""
    written, answer = b"", f"{typed}\n".encode() if typed else b""
    while data := _read(terminal):
        written += data
        if answer and written.endswith(_QUESTION):
            os.write(terminal, answer)
            answer = b""
    return written.decode(errors="replace").replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError as error:
        if error.errno == errno.EIO:  # the program has closed the other end
            return b""
        raise


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
