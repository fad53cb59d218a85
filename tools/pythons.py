"""Run tests on every supported Python of this machine, other than the one of `.venv`.

    python tools/pythons.py [ARGUMENT-OF-PYTEST ...]

Without arguments, the tests are those of what differs between releases of Python: TLS and its
default context, asyncio's transports, the settings. Each release has its own environment in
`.cache/pythons`, with the locked versions. Releases that are not installed are named and skipped;
an installed release whose environment cannot be made is an error.

Interpreters are looked up as `python3.N` in PATH and in the versions of pyenv. The exit status is 0
if the tests passed on each of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
ENVIRONMENTS: Final = ROOT / ".cache" / "pythons"
LOCK: Final = ROOT / "requirements-dev.lock"

TESTS: Final = (
    "tests/system/test_collateral_tls.py",
    "tests/system/test_kbs_tls.py",
    "tests/system/test_client_api_tls.py",
    "tests/system/test_attested_channel.py",
    "tests/attack/test_certificates_of_peers.py",
    "tests/protocols/ratstls",
    "tests/listeners",
    "tests/config",
    "tests/daemon/test_siteproxy.py",
)
"""What depends on the release of Python; about half a minute for each."""

_PROBE: Final = "import sys; print(*sys.version_info[:2], sys.version_info.releaselevel)"

Release = tuple[int, int]


def main(arguments: list[str]) -> int:
    supported = _supported((ROOT / "pyproject.toml").read_text())
    installed = find(supported, os.environ)
    status = 0
    for release in supported:
        name = "{}.{}".format(*release)
        if release == sys.version_info[:2]:
            print(f"Python {name}: './dev test' runs on it", flush=True)
        elif release not in installed:
            print(f"Python {name}: not installed, skipped", flush=True)
        else:
            print(f"Python {name}: {installed[release]}", flush=True)
            if not _passes(installed[release], ENVIRONMENTS / name, arguments or list(TESTS)):
                print(f"FAILED: Python {name}", flush=True)
                status = 1
    return status


def find(supported: Iterable[Release], environment: Mapping[str, str]) -> dict[Release, Path]:
    """Return an interpreter for each supported release that is installed.

    Args:
        environment: has PATH, and HOME or PYENV_ROOT for pyenv.
    """
    wanted = set(supported)
    result: dict[Release, Path] = {}
    for candidate in _candidates(wanted, environment):
        release = _release(candidate)
        if release in wanted:
            result.setdefault(release, candidate)
    return result


def _candidates(wanted: Iterable[Release], environment: Mapping[str, str]) -> Iterator[Path]:
    home = environment.get("HOME", "/")
    root = Path(environment.get("PYENV_ROOT") or Path(home, ".pyenv"))
    for major, minor in sorted(wanted):
        for folder in environment.get("PATH", "").split(os.pathsep):
            found = shutil.which(f"python{major}.{minor}", path=folder or os.devnull)
            if found:
                yield Path(found)
        yield from sorted(root.glob(f"versions/{major}.{minor}.*/bin/python"), reverse=True)


def _release(python: Path) -> Release | None:
    """Return the release of an interpreter; None if it does not run, or is no final release.

    A shim of pyenv does not run if its release is not selected.
    """
    try:
        done = subprocess.run(
            [python, "-c", _PROBE], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.fullmatch(r"(\d+) (\d+) final\n", done.stdout)
    return (int(match[1]), int(match[2])) if match and done.returncode == 0 else None


def _supported(project: str) -> list[Release]:
    """Return the releases that the classifiers of pyproject.toml name."""
    prefix = "Programming Language :: Python :: 3."
    classifiers: list[str] = tomllib.loads(project)["project"]["classifiers"]
    return sorted((3, int(it.removeprefix(prefix))) for it in classifiers if it.startswith(prefix))


def _passes(python: Path, environment: Path, arguments: list[str]) -> bool:
    made = _make(python, environment)
    if not made:
        return False
    pytest = [environment / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(environment)}
    return (
        subprocess.run([*pytest, *arguments], cwd=ROOT, env=variables, check=False).returncode == 0
    )


def _make(python: Path, environment: Path) -> bool:
    """Create the environment unless it was made from the same files; return whether it exists."""
    content = b"".join(file.read_bytes() for file in (LOCK, ROOT / "pyproject.toml"))
    digest = hashlib.sha256(content + bytes(python)).hexdigest()
    mark = environment / ".made-from"
    if mark.is_file() and mark.read_text() == digest:
        return True
    shutil.rmtree(environment, ignore_errors=True)
    pip = ["uv", "pip", "install", "--quiet", "--python", environment / "bin" / "python"]
    for command in (
        ["uv", "venv", "--quiet", "--no-python-downloads", "--python", python, environment],
        [*pip, "--require-hashes", "--requirement", LOCK],
        [*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT],
    ):
        if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            print(f"cannot make {environment}; see the error above", flush=True)
            return False
    mark.write_text(digest)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
