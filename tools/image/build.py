"""Builds with buildah: the base, the image of each architecture, the manifest list."""

from __future__ import annotations

import gzip
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
NAME: Final = "verdictd-py"
SUITE: Final = "trixie"
DEBIAN_BASE: Final = f"localhost/{NAME}-base"
_CERTIFICATES: Final = "/etc/ssl/certs"


class Failed(Exception):
    """A step of the build failed; the text is for the developer."""


@dataclass(frozen=True, slots=True)
class Tools:
    """buildah with storage of its own, so that it touches no other images.

    Args:
        work: directory for the storage and temporary files.
        epoch: seconds since 1970 of every time in the image.
    """

    work: Path
    epoch: int

    def run(self, *words: str, cwd: Path | None = None) -> str:
        """Run a program; return its standard output.

        Raises:
            Failed: it fails; the end of its output is in the message.
        """
        configuration = self.work / "storage.conf"
        if not configuration.exists():
            configuration.write_text(
                f'[storage]\ndriver = "vfs"\nrunroot = "{self.work}/run"\n'
                f'graphroot = "{self.work}/graph"\n'
            )
        environment = {
            "BUILDAH_ISOLATION": "chroot",  # works in containers, and without runc
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(configuration),
            "SOURCE_DATE_EPOCH": str(self.epoch),
        }
        done = subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
            raise Failed(f"{' '.join(words)} failed:\n{end}")
        return done.stdout.strip()

    def debian(self, arch: str) -> str:
        """Build a base from Debian's packages; return its name. For sites without a registry."""
        require("mmdebstrap")
        if arch != _own_architecture():
            require("arch-test")  # with it, mmdebstrap finds out whether programs of arm64 run
        name = f"{DEBIAN_BASE}:{arch}"
        archive = self.work / f"base-{arch}.tar"
        self.run(
            *("mmdebstrap", "--variant=minbase", f"--architectures={arch}"),
            "--include=python3,python3-venv,ca-certificates",
            *('--aptopt=Acquire::Languages "none"', SUITE, str(archive)),
        )
        container = self.run("buildah", "from", f"--arch={arch}", "scratch")
        self.run("buildah", "add", "-q", container, str(archive), "/")
        timestamp = f"--timestamp={self.epoch}"
        self.run("buildah", "commit", "-q", timestamp, "--rm", container, name)
        archive.unlink()
        return name

    def pulled(self, base: str, arch: str) -> str:
        """Fetch a base; return its name in the storage of this run.

        Args:
            base: as buildah names images, `oci-archive:FILE` too; `{arch}` stands for `arch`.
        """
        reference = base.replace("{arch}", arch)
        pulled = self.run("buildah", "pull", "-q", f"--arch={arch}", reference).splitlines()[-1]
        name = f"{DEBIAN_BASE}:{arch}"
        self.run("buildah", "tag", pulled, name)
        return name

    def image(self, tag: str, arch: str, base: str | None, labels: Sequence[str]) -> None:
        """Build the image from the files of the checkout that git knows."""
        arguments = [*labels, *([f"BASE={base}"] if base is not None else [])]
        mounts = ("-v", f"{_CERTIFICATES}:{_CERTIFICATES}:ro") if "PIP_CERT" in os.environ else ()
        self.run(
            *("buildah", "bud", "--format=docker", f"--timestamp={self.epoch}", f"--arch={arch}"),
            *("--identity-label=false", "--omit-history", "--no-cache", f"--tag={tag}"),
            *("--pull=never" if base is not None else "--pull=true", *mounts),
            *(word for one in arguments for word in ("--build-arg", one)),
            ".",
            cwd=self._context(),
        )

    def _context(self) -> Path:
        """Copy the files once: every build of a run has the same ones."""
        context = self.work / "context"
        if context.exists():
            return context
        files = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        for name in filter(None, files):
            target = context / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        return context

    def digest(self, tag: str) -> str:
        """Return the digest of an image's manifest in the OCI format, as registries report it."""
        file, target = self.work / "digest", self.work / "pushed"
        push = ("buildah", "push", "-q", "--format=oci", f"--digestfile={file}")
        self.run(*push, tag, f"oci-archive:{target}")
        target.unlink()
        return file.read_text().strip()

    def archive(self, tag: str, target: Path, name: str) -> None:
        """Write an image for `docker load` and, unpacked, `podman load`; with its health command.

        The OCI format has no place for a health command.
        """
        plain = self.work / "plain"
        self.run("buildah", "push", "-q", tag, f"docker-archive:{plain}:{name}")
        with (
            plain.open("rb") as source,
            target.open("wb") as written,
            gzip.GzipFile("", "wb", 6, written, mtime=0) as packed,
        ):
            shutil.copyfileobj(source, packed, 1024 * 1024)
        plain.unlink()

    def read(self, tag: str, path: str) -> str:
        """Return the text of a file in an image."""
        container = self.run("buildah", "from", "--pull-never", tag)
        try:
            mounted = Path(self.run("buildah", "mount", container))
            return (mounted / path).read_text(encoding="utf-8", errors="replace")
        finally:
            self.run("buildah", "rm", container)


def _own_architecture() -> str:
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def require(program: str) -> None:
    """Refuse to build without a program.

    Raises:
        Failed: it is missing.
    """
    if shutil.which(program) is None:
        raise Failed(f"{program} is missing: apt-get install --no-install-recommends {program}")
