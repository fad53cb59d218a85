"""Test the tests: change the security-critical modules, and list the changes that no test notices.

N is the number of mutants tested at once; without it, one for each CPU. MODULE is a file of
verdictd_py/ (`domain/names.py`) or a glob pattern (`protocols/rcar/*`). Without one, all modules of
mutants.toml are changed, which takes hours.

mutmut makes the mutants and runs the tests, in a copy of the checkout under .cache/mutants. It
changes neither decorated functions (except class and static methods) nor constants of a module, and
this program spares the texts of errors. Hypothesis tries few examples, the same ones each time.

Status: 0 if a test failed on every mutant, 1 if mutants survived, 2 if the tests could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "verdictd_py"
WORK: Final = ROOT / ".cache" / "mutants"
TESTS_OF: Final[dict[str, list[str]]] = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text())
SKIPPED: Final = {"__init__.py"}
ERROR_TEXT: Final = r"^\s*raise \w"
"""Lines whose expressions are not changed: most changes would be of an error's wording."""
SHOW: Final = """
import sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
for mutant in sys.argv[1:]:
    print(mutant, get_diff_for_mutant(mutant), "", sep="\\n")
"""
"""Program that prints the changes of mutants; `mutmut show` needs seconds for each."""
NOTICED: Final = {"killed", "timeout", "segfault", "caught by type check"}


def modules(patterns: Sequence[str]) -> dict[tuple[str, ...], list[str]]:
    """Return the chosen modules, as paths below verdictd_py/, by their tests.

    Args:
        patterns: Paths or glob patterns below verdictd_py/; empty for all.
    """
    wanted = [pattern.removeprefix("verdictd_py/") for pattern in patterns]
    chosen: dict[tuple[str, ...], list[str]] = {}
    for name, tests in _listed():
        if not wanted or any(fnmatch(name, pattern) for pattern in wanted):
            chosen.setdefault(tuple(tests), []).append(name)
    return chosen


def _listed() -> Iterator[tuple[str, list[str]]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        for pattern, tests in TESTS_OF.items():
            if fnmatch(name, pattern) and file.name not in SKIPPED:
                yield name, tests
                break


def copy_checkout(target: Path) -> None:
    """Copy every file that git tracks or would add to `target`, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(command, cwd=ROOT, text=True).split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def configuration(work: Path, names: Sequence[str], tests: Sequence[str]) -> str:
    """Return the configuration of mutmut for modules, to add to pyproject.toml."""
    copied = sorted(
        path.name for path in work.iterdir() if path.name not in {"verdictd_py", "tests"}
    )
    return (
        "\n[tool.mutmut]\n"
        'source_paths = ["verdictd_py"]\n'
        f"only_mutate = {json.dumps([f'verdictd_py/{name}' for name in names])}\n"
        f"do_not_mutate_patterns = {json.dumps([ERROR_TEXT])}\n"
        f"also_copy = {json.dumps(copied)}\n"
        "track_dependencies = false\n"
        # Not a mere fork: threads that earlier tests started would be missing after it.
        'process_isolation = "forkserver"\n'
        f"pytest_add_cli_args_test_selection = {json.dumps([f'tests/{test}' for test in tests])}\n"
        'pytest_add_cli_args = ["-q", "-x", "-p", "no:cacheprovider"]\n'
    )


def run(names: Sequence[str], tests: Sequence[str], processes: int) -> int:
    """Test the mutants of modules with the same tests, and print the survivors with their changes.

    Returns:
        The number of survivors.

    Raises:
        RuntimeError: the tests do not pass without a mutant, or mutmut failed.
    """
    work = WORK / _dotted(names[0])
    copy_checkout(work)
    with (work / "pyproject.toml").open("a") as file:
        file.write(configuration(work, names, tests))
    done = subprocess.run(
        ["mutmut", "run", "--max-children", str(processes)],
        cwd=work,
        env={**os.environ, "HYPOTHESIS_PROFILE": "quick"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
        raise RuntimeError(f"verdictd_py/{names[0]}: mutmut ended with status {done.returncode}")
    statuses = dict(_statuses(work))
    return sum(_report(work, name, statuses) for name in names)


def _report(work: Path, name: str, statuses: Mapping[str, str]) -> int:
    """Print the result of one module, and return the number of its survivors."""
    prefix = f"verdictd_py.{_dotted(name)}.x"
    own = {mutant: status for mutant, status in statuses.items() if mutant.startswith(prefix)}
    survivors = [mutant for mutant, status in own.items() if status not in NOTICED]
    expired = sum(status == "timeout" for status in own.values())
    print(
        f"verdictd_py/{name}: {len(own)} mutants, {len(survivors)} survived, "
        f"{expired} ended by their time limit",
        flush=True,
    )
    changes = subprocess.run(
        [sys.executable, "-c", SHOW, *survivors],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    print(changes.stdout, changes.stderr, sep="", flush=True)
    return len(survivors)


def _dotted(name: str) -> str:
    return name.removesuffix(".py").replace("/", ".")


def _statuses(work: Path) -> Iterator[tuple[str, str]]:
    shown = subprocess.check_output(["mutmut", "results", "--all", "true"], cwd=work, text=True)
    for line in shown.splitlines():
        mutant, colon, status = line.strip().rpartition(": ")
        if colon:
            yield mutant, status


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    options = parser.parse_args(arguments)
    chosen = modules(options.modules)
    if not chosen:
        print(
            f"mutants: no module of tools/mutants.toml matches {' '.join(options.modules)}; "
            "add it there with its tests",
            file=sys.stderr,
        )
        return 2
    try:
        survivors = sum(run(names, tests, options.processes) for tests, names in chosen.items())
    except RuntimeError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    print(f"{sum(map(len, chosen.values()))} modules, {survivors} survivors")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
