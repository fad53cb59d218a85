"""A minimal Debian in a directory, with the wheel of this checkout in a virtual environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).parents[2]
MIRROR: Final = "http://deb.debian.org/debian"

VENV: Final = "python3-venv"
"""What the wheel needs of the distribution in addition to `python3`; the package does not."""

SYSTEMD: Final = ("systemd", "dbus")

_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"
_ENVIRONMENT: Final = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_CERT": _CERTIFICATES,
    "PIP_DEFAULT_TIMEOUT": "180",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}
_VENV: Final = "/opt/verdictd-py"


class Tree:
    """Root directory of a Debian.

    Args:
        root: the directory; it is made unless it is a tree of an earlier run.
        suite: `bookworm` or `trixie`.
        log: receives the output of debootstrap, apt and pip.
    """

    def __init__(self, root: Path, suite: str, log: Path) -> None:
        self.root = root
        self._suite = suite
        self._log = log

    def make(self, mirror: str) -> None:
        """Make the tree with Python alone, from the one of an earlier call for this suite.

        Raises:
            subprocess.CalledProcessError: a command failed; the log has the reason.
        """
        if self.has("usr/bin/python3"):
            return
        base = self.root.with_name(f"{self._suite}-base")
        if not base.exists():
            making = base.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            variant = ("--variant=minbase", "--include=python3")
            self._logged("debootstrap", *variant, self._suite, str(making), mirror)
            making.rename(base)
        self._logged("cp", "--archive", str(base), str(self.root))
        self._connect()

    def add_wheel(self, wheel: Path) -> None:
        """Install the wheel in a virtual environment.

        Raises:
            subprocess.CalledProcessError: a command failed; the log has the reason.
        """
        shutil.copy(wheel, self.root / "opt")
        shutil.copy(CHECKOUT / "requirements.lock", self.root / "opt")
        pip = (f"{_VENV}/bin/python", "-m", "pip", "install", "--quiet", "--no-cache-dir")
        if not self.has(f"{_VENV[1:]}/bin/pip"):
            self._inside("apt-get", "install", "--yes", "--no-install-recommends", VENV)
            self._connect()  # the package of certificates has replaced the file
            self._inside("python3", "-m", "venv", _VENV)
        self._inside(*pip, "--require-hashes", "--requirement", "/opt/requirements.lock")
        self._inside(*pip, "--no-deps", "--force-reinstall", f"/opt/{wheel.name}")
        for name in ("verdictd-py", "verdict-py"):
            (self.root / "usr/bin" / name).unlink(missing_ok=True)
            (self.root / "usr/bin" / name).symlink_to(f"{_VENV}/bin/{name}")

    def add_systemd(self) -> None:
        """Install systemd.

        Raises:
            subprocess.CalledProcessError: a command failed; the log has the reason.
        """
        if not self.has("usr/bin/systemd-analyze"):
            self._inside("apt-get", "install", "--yes", "--no-install-recommends", *SYSTEMD)

    def add_units(self) -> None:
        """Install the units of this checkout, as an operator without the package does."""
        deploy = CHECKOUT / "verdictd_py/deploy"
        for unit in (*deploy.glob("*.service"), *deploy.glob("*.socket"), *deploy.glob("*.conf")):
            shutil.copy(unit, self.root / "etc/systemd/system")
        for kind in ("sysusers", "tmpfiles"):
            directory = self.root / f"usr/lib/{kind}.d"
            directory.mkdir(parents=True, exist_ok=True)
            shutil.copy(deploy / f"verdictd-py.{kind}", directory / "verdictd-py.conf")

    def run(self, *command: str, network: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in the tree, without systemd; its processes end with it."""
        return subprocess.run(
            self._chroot(command, network=network),
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            check=False,
        )

    def _inside(self, *command: str) -> None:
        self._logged(*self._chroot(command))

    def _connect(self) -> None:
        """Copy what apt and pip need of the host: name servers, and the authorities of a proxy."""
        for name in ("etc/resolv.conf", _CERTIFICATES[1:]):
            if Path("/", name).exists():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).unlink(missing_ok=True)
                shutil.copy(Path("/", name), self.root / name)

    def has(self, name: str) -> bool:
        """Return whether a file exists in the tree; `name` is relative to its root."""
        return os.path.lexists(self.root / name)

    def _chroot(self, command: Sequence[str], *, network: bool = True) -> list[str]:
        # Mounts and processes belong to namespaces, so that none is left.
        mounts = 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"'
        own = () if network else ("--net",)
        namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child", *own)
        loopback = "" if network else "ip link set lo up 2> /dev/null || true; "
        return [*namespaces, "sh", "-ec", loopback + mounts, str(self.root), *command]

    def _logged(self, *command: str) -> None:
        with self._log.open("a") as log:
            subprocess.run(
                command,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )


def build_wheel(directory: Path, log: Path) -> Path:
    """Build the wheel of this checkout.

    Raises:
        subprocess.CalledProcessError: a command failed; the log has the reason.
    """
    build = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", directory)
    with log.open("a") as output:
        subprocess.run([*build, CHECKOUT], stdout=output, stderr=output, check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel
