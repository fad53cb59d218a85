"""What a guest needs: CPU of the broker and of its engines, and bytes in each of them.

    ./dev engines up; eval "$(./dev engines env)"
    ./dev run python -m benchmarks.capacity [--rounds N] [--guests N] [--json FILE]

Guests over HTTP, each with a key of its own, attest and get one resource: one appraisal and one
release. Brokers with different engines serve some of them in turn, so that the ratios do not depend
on the load of the machine. An engine that does not run is left out, with the reason.
"""

from __future__ import annotations

import itertools
import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.bench import Bench, NotAvailable
from benchmarks.processes import BenchmarkFailed, Daemon, cpu_seconds, process_tree
from benchmarks.rounds import Sample, alternate, cost
from benchmarks.sites import Sites, key_of, variable
from benchmarks.tables import TableProgram

ROUNDS: Final = 9
GUESTS: Final = 50
"""Guests of one broker in a round."""

AT_ONCE: Final = 8
_NUMBERS: Final = itertools.count(11)
"""Database numbers of Valkey, which are emptied at the end."""

_HISTORY: Final = "judgements"
"""Table with a bounded number of rows."""

_STORED_SECONDS: Final = 6.0
"""Time until the history is stored."""

Bytes = Callable[[], dict[str, float]]


@dataclass(slots=True)
class Engine:
    """What is read before and after the guests.

    Attributes:
        bytes: what grows with guests, by what it is.
        cpu: CPU seconds.
        row_bytes: size of a row of what is bounded, read at the end.
    """

    bytes: Bytes = dict
    cpu: Callable[[], float] = lambda: 0.0
    row_bytes: Bytes = dict


@dataclass(slots=True)
class Subject:
    """A broker, and the engines that it uses.

    Attributes:
        engine_cpu: milliseconds of the engines for one guest, of each round.
    """

    name: str
    daemon: Daemon
    data: Path
    engines: tuple[Engine, ...] = ()
    engine_cpu: list[float] = field(default_factory=list)

    def serve(self, bench: Bench, guests: int) -> Sample:
        """Have guests attest and get a resource."""
        before = sum(engine.cpu() for engine in self.engines)
        url = self.daemon.addresses["kbs_http"]
        arguments = {"url": url, "count": guests, "tdx": True, "at_once": AT_ONCE}
        sample = cost(self.daemon, bench.clients, "http_sessions", **arguments)
        spent = sum(engine.cpu() for engine in self.engines) - before
        self.engine_cpu.append(1000 * spent / guests)
        return sample

    def bytes(self) -> dict[str, float]:
        """Return the size of what grows with guests."""
        found: dict[str, float] = {"audit trail": _size(self.data, "audit/*.jsonl")}
        for engine in self.engines:
            found |= engine.bytes()
        return found


def _size(directory: Path, pattern: str) -> float:
    return float(sum(path.stat().st_size for path in directory.glob(pattern)))


def measure(bench: Bench, stack: ExitStack, rounds: int, guests: int) -> dict[str, Any]:
    """Measure all brokers in turn; return the members `rows` and `skipped`."""
    subjects: list[Subject] = []
    skipped: dict[str, str] = {}
    for name, make in _MAKERS.items():
        try:
            subjects.append(make(bench, stack, name))
        except NotAvailable as error:
            skipped[name] = str(error)
    for subject in subjects:
        subject.serve(bench, guests)
    time.sleep(_STORED_SECONDS)
    before = [subject.bytes() for subject in subjects]
    sides = [partial(subject.serve, bench, guests) for subject in subjects]
    samples = alternate(sides, rounds, warm_up=False)
    time.sleep(_STORED_SECONDS)
    served = rounds * guests
    rows = {}
    for subject, own, was in zip(subjects, samples, before, strict=True):
        sizes = {name: (now - was[name]) / served for name, now in subject.bytes().items()}
        for engine in subject.engines:
            sizes |= engine.row_bytes()
        rows[subject.name] = {
            "cpu": statistics.median(sample.cpu for sample in own),
            "ratio": statistics.median(
                sample.cpu / first.cpu for sample, first in zip(own, samples[0], strict=True)
            ),
            "engine_cpu": statistics.median(subject.engine_cpu[1:]),
            "bytes": {name: round(size) for name, size in sizes.items() if size >= 1},
        }
    return {"rows": rows, "skipped": skipped}


def _in_memory(bench: Bench, stack: ExitStack, name: str) -> Subject:
    site = dict(Sites(bench.directory, stack).makers())["directory, plain"](name)
    return _started(bench, name, site.options)


def _with_valkey(bench: Bench, stack: ExitStack, name: str) -> Subject:
    url, engine = _valkey(bench.directory, stack)
    site = dict(Sites(bench.directory, stack).makers())["directory, plain"](name)
    return _started(bench, name, (*site.options, "--kbs-sessions", url), engine)


def _with_postgres_sessions(bench: Bench, stack: ExitStack, name: str) -> Subject:
    return _with_postgres(bench, stack, name, sessions="")


def _with_both(bench: Bench, stack: ExitStack, name: str) -> Subject:
    url, engine = _valkey(bench.directory, stack)
    return _with_postgres(bench, stack, name, engine, sessions=url)


def _with_postgres(
    bench: Bench, stack: ExitStack, name: str, *engines: Engine, sessions: str
) -> Subject:
    """Start a broker on a database, with its sessions there or at another URL."""
    sites = dict(Sites(bench.directory, stack).makers())
    options = sites["PostgreSQL, file"](name).options
    store = options[options.index("--store") + 1]
    more = ("--kbs-sessions", sessions or store)
    database = _postgres(urlsplit(store).path.lstrip("/"), stack)
    return _started(bench, name, (*options, *more), database, *engines)


_MAKERS: Final[dict[str, Callable[[Bench, ExitStack, str], Subject]]] = {
    "directory; sessions in memory": _in_memory,
    "directory; sessions in Valkey": _with_valkey,
    "PostgreSQL; sessions in Valkey": _with_both,
    "PostgreSQL; sessions in PostgreSQL": _with_postgres_sessions,
}


def _started(bench: Bench, name: str, options: Sequence[str], *engines: Engine) -> Subject:
    daemon = bench.daemon(key_of(name), *options)
    return Subject(name, daemon, bench.directory / f"data-{key_of(name)}", engines)


def _valkey(directory: Path, stack: ExitStack) -> tuple[str, Engine]:
    """Return the URL of a database number for brokers, and what is read of the server."""
    parts = urlsplit(variable("ENGINES_VALKEY"))
    host, port, password = parts.hostname or "", parts.port or 6379, parts.password or ""
    file = directory / f"valkey-{secrets.token_hex(4)}"
    file.touch(mode=0o600)
    file.write_text(password)
    connection = stack.enter_context(socket.create_connection((host, port)))
    stream = stack.enter_context(connection.makefile("rb"))

    def call(*words: str) -> str:
        text = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        connection.sendall(f"*{len(words)}\r\n{text}".encode())
        line = stream.readline().decode().rstrip()
        if line.startswith("-"):
            raise BenchmarkFailed(f"Valkey: {line}")
        return stream.read(int(line[1:]) + 2).decode() if line.startswith("$") else line

    def information(section: str) -> dict[str, str]:
        lines = call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def size() -> dict[str, float]:
        sizes = (int(call("MEMORY", "USAGE", key)[1:]) for key in keys())
        return {"sessions, Valkey": float(sum(sizes))}

    def keys() -> list[str]:
        connection.sendall(b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n")
        number = int(stream.readline()[1:])
        return [stream.read(int(stream.readline()[1:]) + 2)[:-2].decode() for _ in range(number)]

    def cpu() -> float:
        found = information("cpu")
        return float(found["used_cpu_sys"]) + float(found["used_cpu_user"])

    number = next(_NUMBERS)
    call("AUTH", password)
    call("SELECT", str(number))
    call("FLUSHDB")
    stack.callback(call, "FLUSHDB")
    return f"valkey://{host}:{port}/{number}?password_file={file}", Engine(size, cpu)


def _postgres(name: str, stack: ExitStack) -> Engine:
    """Return what is read of a database: sizes of its tables with their indexes, and CPU."""
    import psycopg  # noqa: PLC0415  # optional
    from psycopg import conninfo  # noqa: PLC0415  # optional

    superuser: dict[str, Any] = dict(conninfo.conninfo_to_dict(variable("ENGINES_POSTGRES")))
    connection = stack.enter_context(
        psycopg.connect(**{**superuser, "dbname": name}, autocommit=True)
    )
    (own,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    server = _parent_of(int(own))

    def size() -> dict[str, float]:
        rows = connection.execute(
            "SELECT relname, pg_total_relation_size(oid) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'verdictd'::regnamespace"
        )
        return {f"{name}, PostgreSQL": float(size) for name, size in rows if name != _HISTORY}

    def row_bytes() -> dict[str, float]:
        row = connection.execute(
            "SELECT pg_total_relation_size('verdictd.judgements'), count(*) "
            "FROM verdictd.judgements"
        ).fetchone() or (0, 0)
        return {"each stored judgement, PostgreSQL": row[0] / max(row[1], 1)}

    def cpu() -> float:
        return sum(cpu_seconds(pid) for pid in process_tree(server))

    return Engine(size, cpu, row_bytes)


def _parent_of(pid: int) -> int:
    """Return the parent of a process.

    Raises:
        NotAvailable: it does not run on this machine.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise NotAvailable("PostgreSQL does not run on this machine") from None
    return int(text.rpartition(")")[2].split()[1])


def table(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table in Markdown."""
    lines = [
        "| store; sessions | broker, ms | to the first | engines, ms | bytes for each guest |",
        "| --- | --: | --: | --: | --- |",
    ]
    for name, row in document["rows"].items():
        sizes = "; ".join(f"{what}: {size:,}" for what, size in row["bytes"].items())
        figures = " | ".join(f"{row[each]:.2f}" for each in ("cpu", "ratio", "engine_cpu"))
        lines.append(f"| {name} | {figures} | {sizes} |")
    lines += [f"\n{name}: left out, {reason}." for name, reason in document["skipped"].items()]
    return lines


PROGRAM: Final = TableProgram(
    description=(__doc__ or "").partition("\n")[0],
    rounds=ROUNDS,
    option="guests",
    unit="guests",
    count=GUESTS,
    measure=measure,
    table=table,
)

if __name__ == "__main__":
    sys.exit(PROGRAM.run(sys.argv[1:]))
