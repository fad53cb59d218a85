"""The wheels of the packages: of the project, and of every dependency for each supported Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from verdictd_py import __version__

ROOT: Final = Path(__file__).resolve().parents[2]
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
PIP: Final = "pip==26.3"
"""What installs the wheels on the target, which has no pip."""

_NOT_SOURCES: Final = (".git", ".venv", ".cache", ".*_cache", ".hypothesis", "dist", "*.sock")


def collect(arch: str, built: Path, cache: Path, version: str) -> list[Path]:
    """Return all wheels, sorted by name. Those of dependencies are downloaded once, into `cache`.

    Args:
        arch: a key of `ARCHITECTURES`.
        built: receives the wheel of the project.
        cache: has the wheels of dependencies.
        version: of the project; another one than `__version__` is built from changed sources.

    Raises:
        subprocess.CalledProcessError: there is no wheel for a Python, or the build failed.
    """
    lock = ROOT / "requirements.lock"
    state = hashlib.sha256(lock.read_bytes() + PIP.encode()).hexdigest()[:16]
    place = cache / f"wheels-{arch}-{state}"
    if not place.is_dir():
        downloading = place.with_suffix(".tmp")
        shutil.rmtree(downloading, ignore_errors=True)
        for python in PYTHONS:
            _download(lock, python, ARCHITECTURES[arch], downloading)
        _pip("download", "--no-deps", "--dest", str(downloading), PIP)
        downloading.rename(place)
    _project(built, version)
    return sorted((*place.glob("*.whl"), *built.glob("*.whl")), key=lambda path: path.name)


def requirements(wheels: list[Path]) -> str:
    """Return the requirements that pip installs: the lock, without sources, and the project.

    Each has the hashes of its wheels in the package, and of no other file.
    """
    hashes: dict[str, list[str]] = {}
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        if name != "pip":
            digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
            hashes.setdefault(f"{name.replace('_', '-')}=={version}", []).append(digest)
    lines = []
    for requirement, digests in sorted(hashes.items()):
        lines.append(" ".join((requirement, *(f"--hash=sha256:{one}" for one in digests))))
    return "\n".join(lines) + "\n"


def _download(lock: Path, python: str, machine: str, place: Path) -> None:
    _pip(
        *("download", "--only-binary=:all:", "--no-deps", "--require-hashes"),
        *("--implementation", "cp", "--python-version", python),
        *(
            option
            for tag in ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux1")
            for option in ("--platform", f"{tag}_{machine}")
        ),
        *("--requirement", str(lock), "--dest", str(place)),
    )


def _project(place: Path, version: str) -> None:
    if version == __version__:
        _wheel(ROOT, place)
        return
    with tempfile.TemporaryDirectory() as made:
        sources = Path(made) / "sources"
        shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*_NOT_SOURCES))
        package = sources / "verdictd_py" / "__init__.py"
        package.write_text(package.read_text().replace(f'"{__version__}"', f'"{version}"'))
        _wheel(sources, place)


def _wheel(sources: Path, place: Path) -> None:
    build = ("build", "--no-isolation", "--wheel", "--outdir", str(place), str(sources))
    done = subprocess.run(
        [sys.executable, "-m", *build], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout, done.stderr, sep="", file=sys.stderr)
        done.check_returncode()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)
