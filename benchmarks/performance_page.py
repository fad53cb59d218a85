"""The page docs/performance.md and its plots, made from the JSON document of a run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks import capacity, releases
from benchmarks.cases import CASES
from benchmarks.processes import CHECKOUT

DOCS: Final = CHECKOUT / "docs"
PAGE: Final = "performance.md"
RUN: Final = "performance/run.json"
RELEASES: Final = "performance/releases.json"
CAPACITY: Final = "performance/capacity.json"
RATIOS: Final = "performance/ratios.svg"
COSTS: Final = "performance/costs.svg"

_WIDTH: Final = 120
_LABEL: Final = 400
_BAR: Final = 380
_ROW: Final = 26
_LARGEST_PART: Final = 2.0
"""Longest bar of the first plot, in targets; a longer one ends there with its number."""

_LARGEST_COST: Final = 20.0
"""Largest median of the second plot, in ms; others would make all bars short."""

_HOW: Final = Path(__file__).with_name("performance_page.md")
"""What the page says about every run."""

_MET, _MISSED, _BROKER, _LIMIT = "#2e7d32", "#c62828", "#1565c0", "#90a4ae"


Document = Mapping[str, Any]


def write(file: Path) -> None:
    """Write the page, its plots, and the runs that they are made from, into `docs`.

    Args:
        file: JSON of a run of all cases, or of some, which then replace those of the page; or of
            `benchmarks.releases` or `benchmarks.capacity`.
    """
    new, stored = json.loads(file.read_text()), documents()
    if "cases" in new:
        stored[RUN] = merged(new, stored.get(RUN))
    else:
        stored[RELEASES if "releases" in new else CAPACITY] = new
    for name, text in files(stored).items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def documents() -> dict[str, Document]:
    """Return the runs that the page is made from, by their paths in `docs`."""
    return {
        name: json.loads((DOCS / name).read_text())
        for name in (RUN, RELEASES, CAPACITY)
        if (DOCS / name).exists()
    }


def merged(new: Document, old: Document | None) -> Document:
    """Return a run with all cases: those of the new one, and the others of the old one.

    A case of a run that had not all cases has a note with its time and load.
    """
    names = {case["name"] for case in new["cases"]}
    if old is None or names >= {case.name for case in CASES}:
        return new
    machine = new["machine"]
    apart = f"measured in a run of its own: {machine['time'][:16]} UTC, load {machine['load'][0]}"
    details = {
        name: {**detail, "notes": [apart, *detail["notes"]]}
        for name, detail in new["details"].items()
    }
    cases = {case["name"]: case for case in (*old["cases"], *new["cases"])}
    order = [case.name for case in CASES if case.name in cases]
    return {
        "machine": old["machine"],
        "cases": [cases[name] for name in order],
        "details": {name: {**old["details"], **details}[name] for name in order},
    }


def files(stored: Mapping[str, Document]) -> dict[str, str]:
    """Return the content of each file by its path in `docs`, from the runs by theirs."""
    run = stored[RUN]
    more = {name: json.dumps(document, indent=1) + "\n" for name, document in stored.items()}
    return {
        PAGE: page(run, stored.get(RELEASES), stored.get(CAPACITY)),
        RATIOS: ratios(run["cases"]),
        COSTS: costs(run["cases"]),
        **more,
    }


def page(
    document: Document, by_store: Document | None = None, by_engine: Document | None = None
) -> str:
    """Return the page."""
    met = sum(case["met"] for case in document["cases"])
    summary = f"{met} of {len(document['cases'])} targets are met in this run:"
    about = textwrap.wrap(f"Machine: {_about(document['machine'])}", _WIDTH)
    return "\n".join(
        [
            "# Performance",
            "",
            "<!-- Made by ./dev bench --docs from performance/*.json; edit benchmarks/. -->",
            "",
            f"What the broker costs, next to what its libraries cost. {summary}",
            "",
            *_table(document["cases"], document["details"]),
            "",
            "![ratio of each case, in percent of its target](performance/ratios.svg)",
            "",
            "![CPU of each operation and of its limit](performance/costs.svg)",
            "",
            *about,
            "",
            *_notes(document["details"]),
            "",
            *_releases(by_store),
            *_capacity(by_engine),
            _HOW.read_text(),
        ]
    )


def _about(machine: Mapping[str, Any]) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    return (
        f"verdictd-py {machine['verdictd_py']} on {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['openssl']}, {libraries}; {machine['time'][:10]}, load {machine['load'][0]} at "
        f"the start{', `--quick`' if machine['quick'] else ''}."
    )


def _run_of(document: Document) -> str:
    machine = document["machine"]
    return (
        f"{machine['time'][:16]} UTC, load {machine['load'][0]} at the start on {machine['cores']} "
        "cores, on which the engines and the clients run as well"
    )


def _releases(document: Document | None) -> list[str]:
    """Return the section about stores."""
    if document is None:
        return []
    text = (
        "One release by a running broker to a guest that has attested: a resource over the same "
        "HTTP connection, a key over the attested channel. CPU is that of the broker's processes; "
        "`to plain` is the median of the ratios of the rounds, in which all brokers serve in turn: "
        f"{document['rounds']} rounds of {document['releases']} releases. `cache` is "
        "`--seal-cache-seconds`. The engines are PostgreSQL and OpenBao over TLS, and SoftHSM2. "
        f"{_run_of(document)}: on a quiet machine, latencies are lower, and so are the ratios of "
        "what waits for another process."
    )
    return [
        "## Releases by store",
        "",
        *textwrap.wrap(text, _WIDTH),
        "",
        *releases.table(document),
        "",
    ]


def _capacity(document: Document | None) -> list[str]:
    """Return the section about engines."""
    if document is None:
        return []
    text = (
        "Unseen TDX guests over HTTP, each with one appraisal, which is one decision, and one "
        f"release: {document['rounds']} rounds of {document['guests']} guests of each broker in "
        "turn. Bytes are what each guest adds; those of PostgreSQL are of tables with their "
        "indexes, and of rows that are not vacuumed yet. CPU of the broker and of its engines: "
        f"{_run_of(document)}."
    )
    return [
        "## What a guest needs of each engine",
        "",
        *textwrap.wrap(text, _WIDTH),
        "",
        *capacity.table(document),
        "",
    ]


def _table(cases: Sequence[Mapping[str, Any]], details: Mapping[str, Any]) -> list[str]:
    limits = {case.name: case.limit for case in CASES}
    lines = [
        "| case | median | spread | limit | ratio | at most | met | wall, ms |",
        "| --- | --: | --: | --: | --: | --: | --- | --: |",
    ]
    for case in cases:
        name, unit = case["name"], case["unit"]
        limit = _number(case["limit"], unit)
        cells = [
            name + (f"; limit: {limits[name]}" if limits.get(name) else ""),
            _number(case["median"], unit),
            _number(case["spread"], ""),
            limit,
            _number(case["ratio"], ""),
            _number(case["target"], "x" if limits.get(name) else unit),
            "yes" if case["met"] else "**no**",
            _number(details[name]["wall_ms"], ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _notes(details: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, detail in details.items():
        for note in detail["notes"]:
            text = f"* {name}: {note}."
            lines += textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
    return lines


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}{unit and ' ' + unit}"


def ratios(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return a plot of each ratio in percent of its target, with a line at 100 %."""
    body, scale = [], _BAR / _LARGEST_PART
    for number, case in enumerate(cases):
        value = case["median"] if case["ratio"] is None else case["ratio"]
        part = None if value is None else value / case["target"]
        text = "not measured" if part is None else f"{100 * part:.0f} %"
        colour = _MET if case["met"] else _MISSED
        width = 0.0 if part is None else min(part, _LARGEST_PART) * scale
        body += _bar(number, case["name"], [(width, colour)], [text])
    at = _LABEL + scale
    body.append(
        f'<line x1="{at:.0f}" y1="0" x2="{at:.0f}" y2="{_ROW * len(cases)}" stroke="#000" '
        'stroke-dasharray="4 3"/>'
    )
    return _svg("ratio in percent of the target; the line is the target", len(cases), body)


def costs(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return a plot of the CPU of each operation and of its limit, in ms."""
    shown = [
        case
        for case in cases
        if case["unit"] == "ms" and case["limit"] and case["median"] <= _LARGEST_COST
    ]
    largest = max((max(case["median"], case["limit"]) for case in shown), default=1.0)
    body: list[str] = []
    for number, case in enumerate(shown):
        values = (case["median"], case["limit"])
        bars = [
            (value / largest * _BAR, colour)
            for value, colour in zip(values, (_BROKER, _LIMIT), strict=True)
        ]
        body += _bar(number, case["name"], bars, [f"{value:.2f} ms" for value in values])
    return _svg("server CPU: broker (blue) and limit (grey)", len(shown), body)


def _bar(
    number: int, label: str, bars: Sequence[tuple[float, str]], texts: Sequence[str]
) -> list[str]:
    """Return a row: a label, and bars one below the other with a text at the end of each."""
    top, height = number * _ROW, (_ROW - 6) / len(bars)
    lines = [f'<text x="{_LABEL - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>']
    for index, ((width, colour), text) in enumerate(zip(bars, texts, strict=True)):
        y = top + 3 + index * height
        lines.append(
            f'<rect x="{_LABEL}" y="{y:.1f}" width="{width:.1f}" height="{height - 1:.1f}" '
            f'fill="{colour}"/>'
        )
        lines.append(
            f'<text x="{_LABEL + width + 6:.1f}" y="{y + height / 2 + 4:.1f}">{escape(text)}</text>'
        )
    return lines


def _svg(title: str, rows: int, body: Sequence[str]) -> str:
    width, height = _LABEL + _BAR + 90, _ROW * rows + 30
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    font = 'font-family="sans-serif" font-size="11"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *body,
            f'<text x="{_LABEL}" y="{height - 10}" font-size="12">{escape(title)}</text>',
            "</svg>",
            "",
        ]
    )
