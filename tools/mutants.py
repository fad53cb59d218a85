"""Test the tests: change the security-critical modules, and list the changes that no test notices.

Usage: mutants.py [MODULE ...]

MODULE is a file of verdictd_py/ (`domain/names.py`) or a glob pattern (`protocols/rcar/*`). Without
one, all modules of mutants.toml are changed, which takes hours.

mutmut makes the mutants and runs the tests, in a copy of the checkout under .cache/mutants. It
changes neither decorated functions (except class and static methods) nor constants of a module, and
this program spares the texts of errors.

Status: 0 if a test failed on every mutant, 1 if mutants survived, 2 if the tests could not run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
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
NOTICED: Final = {"killed", "timeout", "segfault", "caught by type check"}


def modules(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Return the tests of each chosen module, by the module's path below verdictd_py/.

    Args:
        patterns: Paths or glob patterns below verdictd_py/; empty for all.
    """
    wanted = [pattern.removeprefix("verdictd_py/") for pattern in patterns]
    return {
        name: tests
        for name, tests in _listed()
        if not wanted or any(fnmatch(name, pattern) for pattern in wanted)
    }


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


def configuration(work: Path, name: str, tests: Sequence[str]) -> str:
    """Return the configuration of mutmut for one module, to add to pyproject.toml."""
    copied = sorted(
        path.name for path in work.iterdir() if path.name not in {"verdictd_py", "tests"}
    )
    return (
        "\n[tool.mutmut]\n"
        'source_paths = ["verdictd_py"]\n'
        f"only_mutate = {json.dumps([f'verdictd_py/{name}'])}\n"
        f"do_not_mutate_patterns = {json.dumps([ERROR_TEXT])}\n"
        f"also_copy = {json.dumps(copied)}\n"
        f"pytest_add_cli_args_test_selection = {json.dumps([f'tests/{test}' for test in tests])}\n"
        'pytest_add_cli_args = ["-q", "-x", "-p", "no:cacheprovider"]\n'
    )


def run(name: str, tests: Sequence[str]) -> int:
    """Test the mutants of one module and print the survivors with their differences.

    Returns:
        The number of survivors.

    Raises:
        RuntimeError: the tests do not pass without a mutant, or mutmut failed.
    """
    work = WORK / name.removesuffix(".py").replace("/", ".")
    copy_checkout(work)
    with (work / "pyproject.toml").open("a") as file:
        file.write(configuration(work, name, tests))
    done = subprocess.run(["mutmut", "run"], cwd=work, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
        raise RuntimeError(f"verdictd_py/{name}: mutmut ended with status {done.returncode}")
    statuses = dict(_statuses(work))
    survivors = [mutant for mutant, status in statuses.items() if status not in NOTICED]
    print(f"verdictd_py/{name}: {len(statuses)} mutants, {len(survivors)} survived", flush=True)
    for mutant in survivors:
        shown = subprocess.run(
            ["mutmut", "show", mutant], cwd=work, capture_output=True, text=True, check=False
        )
        print(f"\n{mutant}: {statuses[mutant]}\n{shown.stdout.strip()}", flush=True)
    return len(survivors)


def _statuses(work: Path) -> Iterator[tuple[str, str]]:
    shown = subprocess.check_output(["mutmut", "results", "--all", "true"], cwd=work, text=True)
    for line in shown.splitlines():
        mutant, colon, status = line.strip().rpartition(": ")
        if colon:
            yield mutant, status


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    chosen = modules(arguments)
    if not chosen:
        print(
            f"mutants: no module of tools/mutants.toml matches {' '.join(arguments)}; "
            "add it there with its tests",
            file=sys.stderr,
        )
        return 2
    try:
        survivors = sum(run(name, tests) for name, tests in chosen.items())
    except RuntimeError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    print(f"{len(chosen)} modules, {survivors} survivors")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
