"""The command line: `./dev walk [PAGE ...]`; exit status 1 if a page differs from the programs.

Exit status 3 where the machine has no namespaces, or this user may not create them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tools.walk import sandbox, standins
from tools.walk.pages import BadPage, Step, difference, steps
from tools.walk.shell import Ended, Failed, Shell

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    "README.md",
    "README.zh.md",
    "docs/guide.md",
    "docs/guide.zh.md",
    "docs/policies.md",
    "docs/install/debian.md",
    "docs/install/rhel.md",
    "docs/install/podman.md",
    "docs/install/air-gap.md",
    "examples/README.md",
)
"""Pages that newcomers follow from the first command to the last."""
PODMAN: Final = "docs/install/podman.md"
"""The page that needs an image, which takes minutes to build."""
UNUSABLE: Final = 3


def main(argv: Sequence[str]) -> int:
    """Walk through the pages, each in namespaces of its own."""
    parser = argparse.ArgumentParser(
        prog="./dev walk",
        description="Run the commands of pages word for word and compare what they print.",
    )
    parser.add_argument("page", nargs="*", default=PAGES, help=f"default: {' '.join(PAGES)}")
    parser.add_argument("--inside", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--packages", metavar="DIR", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside is not None:
        return _inside(Path(options.page[0]), Path(options.inside), Path(options.packages))
    try:
        packages = standins.download(ROOT)
        return max([_outside(page, packages) for page in options.page])
    except subprocess.CalledProcessError as error:
        print(f"walk: cannot download the packages: {error}", file=sys.stderr)
        return 1
    except sandbox.Unusable as error:
        print(f"walk: {error}", file=sys.stderr)
        return UNUSABLE


def _outside(page: str, packages: Path) -> int:
    path = f"{ROOT / '.cache' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    if page == PODMAN and standins.image(ROOT) is None:
        print(f"walk: {page}: not run: dist/image has no image: ./dev image --base debian")
        return 0
    text = (ROOT / page).read_text(encoding="utf-8")
    if lacking := standins.missing(text, path):
        programs = ", ".join(lacking)
        print(f"walk: {page} needs {programs}: bash .ci/run installs them", file=sys.stderr)
        return 1
    standins.fill_caches((ROOT / page).read_text(encoding="utf-8"), ROOT)
    with tempfile.TemporaryDirectory(prefix="verdictd-py-walk-") as private:
        command = [sys.executable, "-m", "tools.walk", page, "--inside", private]
        return sandbox.enter([*command, "--packages", str(packages)])


def _inside(page: Path, private: Path, packages: Path) -> int:
    """Furnish the namespaces and walk through one page."""
    try:
        sandbox.furnish(private, ROOT)
    except sandbox.Unusable as error:
        print(f"walk: {error}", file=sys.stderr)
        return UNUSABLE
    os.chdir(ROOT)
    path = f"{ROOT / '.cache' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = standins.environment(private, packages, path)
    standins.install(private, path)
    text = page.read_text(encoding="utf-8")
    archive = standins.image(ROOT)
    if str(page) == PODMAN and archive is not None:
        standins.furnish_podman(private, archive, path)
    elif "skopeo" in text:
        standins.start_registry(private, environment)
    (private / "state").mkdir()
    return walk(str(page), text, Shell(private / "state", ROOT, environment))


def walk(name: str, text: str, shell: Shell) -> int:
    """Do what a page says, in its order, to its end or to the first difference.

    Returns:
        1 if a command failed, or printed something else than the page shows.
    """
    walked = Walk(shell)
    try:
        for step in steps(text):
            walked.do(step)
        shell.stop()
    except BadPage as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except Failed as error:
        print(f"{name}:{walked.line}: {error}", file=sys.stderr)
        return 1
    for line, reason in walked.skipped:
        print(f"{name}:{line}: not run: {reason}")
    print(
        f"{name}: {walked.commands} commands run, {walked.compared} outputs compared, "
        f"{len(walked.skipped)} blocks or commands not run"
    )
    return 0


class Walk:
    """Steps of a page that were done.

    Attributes:
        line: of the current step.
        commands: how many of the page's were run.
        compared: how many of them have an output in the page.
        skipped: line of each block or command that was not run, with the reason.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._names: dict[str, str] = {}
        self.line = 0
        self.commands = 0
        self.compared = 0
        self.skipped: list[tuple[int, str]] = []

    def do(self, step: Step) -> None:
        """Do one step.

        Raises:
            Failed: it did not end as the page says.
        """
        self.line = step.line
        if step.kind == "skip":
            self.skipped.append((step.line, f"{step.text}: {step.name}"))
        elif step.kind == "stop":
            self._shell.stop()
        elif step.kind == "file":
            Path(self._shell.run("pwd").output.strip(), step.name).write_text(step.text)
        elif step.kind == "command":
            self._compare(step)
        else:
            ended = self._shell.run(_replaced(step.text, self._names))
            _expect(step, ended)
            if step.kind == "let":
                self._names[step.name] = ended.output.strip()

    def _compare(self, step: Step) -> None:
        ended = self._shell.run(_replaced(step.text, self._names), step.answer)
        self.commands += 1
        _expect(step, ended)
        if step.output:
            shown = tuple(_replaced(line, self._names) for line in step.output)
            self.compared += 1
            if difference(shown, ended.output):
                raise Failed(
                    f"another output than the page shows\n$ {step.text}\n"
                    f"--- the page\n{os.linesep.join(shown)}\n--- the program\n{ended.output}"
                )


def _expect(step: Step, ended: Ended) -> None:
    if ended.status != step.status:
        raise Failed(
            f"exit status {ended.status} instead of {step.status}\n$ {step.text}\n{ended.output}"
        )


def _replaced(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"<{name}>", value)
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
