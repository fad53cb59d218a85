"""Output of a run: the table for terminals, and the JSON document."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import ssl
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.rounds import Result
from verdictd_py import __version__

WIDTH: Final = 80
_NAME: Final = 29
_LARGE: Final = 100_000
"""Values from here on are written with an exponent, which has a fixed width."""

_LIBRARIES: Final = ("aiohttp", "cryptography", "dcap-qvl", "grpcio", "pydantic", "pyopenssl")

HEADER: Final = (
    f"{'case (server CPU)':<{_NAME}}{'median':>9}{'spread':>8}{'limit':>9}{'ratio':>7}"
    f"{'target':>8}{'wall':>7} {'':<2}"
)


def row(result: Result) -> str:
    """Return the lines of a result, at most `WIDTH` characters wide, its notes included."""
    name = textwrap.wrap(result.name, _NAME - 1)
    values = (
        f"{_value(result.median, result.unit):>9}{_value(result.spread, ''):>8}"
        f"{_value(result.limit, ''):>9}{_value(result.ratio, ''):>7}"
        f"{_value(result.target, ''):>8}{_value(result.wall, ''):>7} "
        f"{'ok' if result.met else 'NO'}"
    )
    lines = [f"{name[0]:<{_NAME}}{values}", *name[1:]]
    for note in result.notes:
        lines += textwrap.wrap(note, WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(line.rstrip() for line in lines)


def _value(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 0
    text = f"{value:.{digits}f}" if abs(value) < _LARGE else f"{value:.1e}"
    return f"{text}{unit and ' ' + unit}"


def document(results: Sequence[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON document of a run.

    `cases` has the members of each case, `details` its wall time and notes by name.
    """
    return {
        "machine": machine,
        "cases": [result.as_json() for result in results],
        "details": {result.name: result.details() for result in results},
    }


def machine(*, quick: bool) -> dict[str, Any]:
    """Return what the figures of a run depend on."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(_memory_bytes() / 1024**3, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "verdictd_py": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": [round(value, 1) for value in os.getloadavg()],
        "quick": quick,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
