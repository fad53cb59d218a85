"""A booted tree: commands inside, and the broker's unit with changes for one case."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

SERVICE: Final = "verdictd-py.service"
LIMIT_SECONDS: Final = 100.0
"""For everything that a busy machine does late; nothing usual takes so long."""

_PAUSE_SECONDS: Final = 0.25
_ANY_USER: Final = "65534"

# systemd-nspawn needs the unified hierarchy of cgroups, whichever the host has.
_BOOT: Final = (
    "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec systemd-nspawn --quiet "
    '--register=no --keep-unit --private-network --console=pipe --boot --directory="$0"'
)
_REMOVE: Final = (
    "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; "
    'find "$0/payload" "$0/supervisor" -depth -type d -exec rmdir {} +'
)
_ENVIRONMENT: Final = (
    *("env", "-i", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"),
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
)


class Machine:
    """Container with systemd as its first process, and a network of its own.

    Args:
        root: root directory of the tree.
        console: receives the output of the container.
    """

    def __init__(self, root: Path, console: Path) -> None:
        self.root = root
        self._console = console
        self._init = ""
        directory = root / f"etc/systemd/system/{SERVICE}.d"
        self._base, self._changes = directory / "10-base.conf", directory / "20-case.conf"

    def __enter__(self) -> Self:
        self._forget()
        with self._console.open("w") as console:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _BOOT, str(self.root)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        try:
            wait_for("the boot", self._is_running)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        self._nspawn.send_signal(signal.SIGTERM)  # it has the container shut down
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()  # its processes end with their namespace
            self._nspawn.wait()
        # systemd-nspawn leaves the groups in which the container and itself have run.
        own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", _REMOVE, f"/sys/fs/cgroup{own.rstrip('/')}"],
            stderr=subprocess.DEVNULL,  # without such a group
            check=False,
        )

    def run(
        self, *command: str, user: str = "", seconds: float = LIMIT_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root or with the ID of another user."""
        who = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups") if user else ()
        return subprocess.run(
            [*("nsenter", "-a", "-r", "-w", "-t", self._init), *_ENVIRONMENT, *who, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def run_as_other_user(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside as a user that is neither root nor the broker's."""
        return self.run(*command, user=_ANY_USER)

    def systemctl(self, *arguments: str) -> bool:
        """Return whether `systemctl` succeeded."""
        return self.run("systemctl", *arguments).returncode == 0

    def show(self, name: str) -> str:
        """Return a property of the broker's unit."""
        command = ("systemctl", "show", "--value", f"--property={name}", SERVICE)
        return self.run(*command).stdout.strip()

    def active_for_another(self, process: str) -> bool:
        """Return whether the unit is active with another main process."""
        another = self.show("MainPID") not in ("0", process)
        return another and self.show("ActiveState") == "active"

    def status_of_process(self, name: str) -> str:
        """Return a field of `/proc/PID/status` of the broker."""
        lines = self.run("cat", f"/proc/{self.show('MainPID')}/status").stdout.splitlines()
        return next((line.split(":")[1].strip() for line in lines if line.startswith(name)), "")

    def change(self, *directives: str) -> None:
        """Add directives to the unit for all cases that follow."""
        _write(self._base, directives)
        self._reload()

    @contextmanager
    def changed(self, *directives: str) -> Iterator[None]:
        """Add directives to the unit while the context is entered, and stop the broker before."""
        self.systemctl("stop", "verdictd-py.socket", "verdictd-py-kbs.socket", SERVICE)
        _write(self._changes, directives)
        self._reload()
        try:
            yield
        finally:
            self.systemctl("stop", "verdictd-py.socket", "verdictd-py-kbs.socket", SERVICE)
            self.systemctl("reset-failed", SERVICE)
            self._changes.unlink()
            self._reload()

    @contextmanager
    def lines(self) -> Iterator[Callable[[], list[str]]]:
        """Provide the lines that the broker wrote since the context was entered."""
        shown = self.run("journalctl", "--quiet", "--lines=0", "--show-cursor").stdout
        cursor = shown.strip().removeprefix("-- cursor: ")

        def lines() -> list[str]:
            self.run("journalctl", "--sync")
            # Filtered here: with a filter, systemd 252 also omits the first line of the broker.
            command = ("journalctl", "--quiet", f"--after-cursor={cursor}", "--output=json")
            entries = map(json.loads, self.run(*command).stdout.splitlines())
            of_broker = (one for one in entries if one.get("SYSLOG_IDENTIFIER") == "verdictd-py")
            return [str(one["MESSAGE"]) for one in of_broker]

        yield lines

    def _forget(self) -> None:
        for changes in (self._base, self._changes):
            changes.unlink(missing_ok=True)

    def _reload(self) -> None:
        self.systemctl("daemon-reload")

    def _is_running(self) -> bool:
        # Before the last child of systemd-nspawn, there are others that end at once.
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text()
        self._init = children.strip()
        if not self._init.isdigit():
            return False
        state = self.run("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")


def _write(file: Path, directives: Sequence[str]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(("[Service]", *directives, "")))


def wait_for(what: str, happened: Callable[[], object]) -> float:
    """Wait until a function returns something true; return the seconds that it took.

    Raises:
        TimeoutError: it did not happen.
    """
    begin = time.monotonic()
    while time.monotonic() - begin < LIMIT_SECONDS:
        with suppress(OSError):
            if happened():
                return time.monotonic() - begin
        time.sleep(_PAUSE_SECONDS)
    raise TimeoutError(f"{what} did not happen within {LIMIT_SECONDS:.0f} s")
