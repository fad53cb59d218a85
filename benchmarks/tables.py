"""Command line of the programs that print a table of their own: `releases` and `capacity`."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.bench import Bench

Measure = Callable[[Bench, ExitStack, int, int], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class TableProgram:
    """A program that measures brokers in turn and prints a table.

    Attributes:
        description: for `--help`.
        rounds: default of `--rounds`.
        option: of how much is measured in a round, without the hyphens.
        unit: what is counted by it; a member of the document.
        count: its default.
        measure: returns the members `rows` and `skipped`; arguments are rounds and the count.
        table: returns the lines of a document in Markdown.
    """

    description: str
    rounds: int
    option: str
    unit: str
    count: int
    measure: Measure
    table: Callable[[Mapping[str, Any]], list[str]]

    def run(self, argv: Sequence[str]) -> int:
        """Read the command line, measure, write the document, and print the table."""
        parser = argparse.ArgumentParser(description=self.description)
        parser.add_argument("--rounds", type=int, default=self.rounds)
        parser.add_argument(
            f"--{self.option}",
            dest="count",
            type=int,
            default=self.count,
            help=f"{self.unit} in a round",
        )
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
        options = parser.parse_args(argv)
        machine = report.machine(quick=False)
        with (
            tempfile.TemporaryDirectory(prefix="verdictd-py-bench-") as name,
            ExitStack() as stack,  # brokers end before their databases are removed
            Bench(Path(name), quick=False) as bench,
        ):
            measured = self.measure(bench, stack, options.rounds, options.count)
        document = {
            "machine": machine,
            "rounds": options.rounds,
            self.unit: options.count,
            **measured,
        }
        if options.json is not None:
            options.json.write_text(json.dumps(document, indent=1) + "\n")
        print("\n".join(self.table(document)))
        return 0
