"""The service manager's protocols, the unit and its sandbox, and the protection of memory."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import verdictd_py
from tests.support.clock import elapse
from tests.support.command import environment, running_daemon
from verdictd_py.config import Address
from verdictd_py.daemon.systemd import READY, ServiceManager, passed_sockets
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import loopback
from verdictd_py.listeners.callers import CallerRules

DEPLOY = Path(verdictd_py.__file__).parent / "deploy"
UNIT = DEPLOY / "verdictd-py.service"
SOCKETS = (DEPLOY / "verdictd-py.socket", DEPLOY / "verdictd-py-kbs.socket")
SYSTEMD = shutil.which("systemd-analyze")
WORST_EXPOSURE = 12
"""Tenths, as `systemd-analyze security` counts."""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's end of `NOTIFY_SOCKET`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(120)
        yield made


def states(manager: socket.socket, last: str) -> list[str]:
    """Return the states up to one that begins with `last`, without the watchdog's."""
    received: list[str] = []
    while not received or not received[-1].startswith(last):
        state = manager.recv(1000).decode()
        if state != "WATCHDOG=1":
            received.append(state)
    return received


def arguments(tmp_path: Path) -> tuple[str, ...]:
    data = ("--data-dir", str(tmp_path / "data"), "--collateral-url", "")
    return (*data, "--listen", "127.0.0.1:0", "--client-api", f"unix:{tmp_path}/api")


def test_each_state_is_sent_to_the_service_manager(tmp_path: Path, manager: socket.socket) -> None:
    where = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with running_daemon(*arguments(tmp_path), **where) as daemon:
        first, *_, ready = states(manager, READY)
        assert first == "STATUS=starting"
        started = daemon.wait_for("daemon.started")
        serving = f"STATUS=serving {started['listen']}, {started['client_api']}"
        assert ready == f"{READY}\n{serving}"
        # READY is sent only when guests are served, not when the port is bound.
        host, port = started["listen"].rsplit(":", 1)
        socket.create_connection((host, int(port))).close()
        daemon.send(signal.SIGHUP)
        reload, ready = states(manager, READY)
        assert reload.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert reload.endswith("\nSTATUS=reloading")
        assert ready == f"{READY}\n{serving}"
        assert daemon.end(signal.SIGTERM)[0] == 0
        (stopping,) = states(manager, "STOPPING")
        assert stopping.startswith("STOPPING=1\nSTATUS=stopping")


def test_the_status_names_a_failed_reload_until_one_succeeds(
    tmp_path: Path, manager: socket.socket
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("max_connections = 100\n")
    where = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with running_daemon("--config", str(settings), *arguments(tmp_path), **where) as daemon:
        states(manager, READY)
        settings.write_text("max_connections = none\n")
        daemon.send(signal.SIGHUP)
        assert states(manager, READY)[-1].endswith("; the last reload failed: warning.reload")
        settings.write_text("max_connections = 200\n")
        daemon.send(signal.SIGHUP)
        assert "reload" not in states(manager, READY)[-1]


async def test_the_watchdog_gets_a_sign_of_life_twice_in_its_time(
    tmp_path: Path, manager: socket.socket
) -> None:
    where = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
    task = asyncio.create_task(ServiceManager(where).keep_informed(lambda: ""))
    for _ in range(4):
        await elapse(15)
    task.cancel()
    manager.setblocking(False)
    assert [manager.recv(100) for _ in range(5)] == [b"WATCHDOG=1"] * 5
    with pytest.raises(BlockingIOError):
        manager.recv(100)


async def test_a_changed_status_is_sent_once(tmp_path: Path, manager: socket.socket) -> None:
    status = ["serving"]
    where = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    service = ServiceManager(where)
    task = asyncio.create_task(service.keep_informed(lambda: status[-1]))
    await elapse(20)
    status.append("not ready: audit failed")
    await elapse(20)
    task.cancel()
    manager.setblocking(False)
    expected = [b"STATUS=serving", b"STATUS=not ready: audit failed"]
    assert [manager.recv(100) for _ in expected] == expected
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.parametrize(
    "values",
    [{"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
    ids=str,
)
async def test_no_watchdog_needs_no_sign_of_life(
    tmp_path: Path, manager: socket.socket, values: dict[str, str]
) -> None:
    values = {"NOTIFY_SOCKET": str(tmp_path / "notify"), **values}
    task = asyncio.create_task(ServiceManager(values).keep_informed(lambda: "serving"))
    await elapse(60)
    task.cancel()
    manager.setblocking(False)
    assert manager.recv(100) == b"STATUS=serving"
    with pytest.raises(BlockingIOError):
        manager.recv(100)


async def test_without_a_service_manager_nothing_is_sent() -> None:
    await ServiceManager({"WATCHDOG_USEC": "30000000"}).keep_informed(lambda: "")  # ends


def test_passed_sockets_are_served(tmp_path: Path) -> None:
    """The daemon adopts both, and ignores the addresses of its settings.

    Without TLS, HTTP is served on loopback only: the passed socket's address decides.
    """
    held = [socket.create_server((host, 0)) for host in ("0.0.0.0", "127.0.0.1")]  # noqa: S104
    program = (
        "import os, sys\n"
        f"os.dup2({held[0].fileno()}, 3); os.dup2({held[1].fileno()}, 4)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2',\n"
        "                  LISTEN_FDNAMES='kbs_http:listen')\n"
        "from verdictd_py.cli.main import main\n"
        "sys.exit(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments(tmp_path), "--kbs-http", "127.0.0.1:1"],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[each.fileno() for each in held],
        env=environment(),
    )
    with process:
        assert process.stderr is not None
        started = next(line for line in process.stderr if "daemon.started" in line)
        for each, name in zip(held, ("kbs_http", "listen"), strict=True):
            port = each.getsockname()[1]
            assert f":{port}" in started, name
            socket.create_connection(("127.0.0.1", port)).close()
        assert 'kbs_http="https://0.0.0.0:' in started
        process.terminate()
        process.stderr.read()
        assert process.wait(60) == 0
    for each in held:
        each.close()


@pytest.mark.parametrize("names", ["client_api", "", "listen:listen"])
def test_sockets_that_no_listener_can_adopt_are_refused(names: str) -> None:
    values = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(names.count(":") + 1),
        "LISTEN_FDNAMES": names,
    }
    if names.startswith("listen"):
        values["LISTEN_FDNAMES"] = ":".join(["client_api", *names.split(":")[1:]])
    with pytest.raises(ConfigError, match="FileDescriptorName=listen"):
        passed_sockets(values)


def test_sockets_of_another_process_are_not_taken() -> None:
    assert passed_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == {}


@pytest.mark.skipif(SYSTEMD is None, reason="systemd-analyze is not installed")
class TestUnit:
    @pytest.fixture
    def unit(self, tmp_path: Path) -> Path:
        """The unit with a program that exists here, next to its sockets."""
        for each in SOCKETS:
            shutil.copy(each, tmp_path)
        made = tmp_path / UNIT.name
        made.write_text(UNIT.read_text().replace("/usr/bin/verdictd-py", "/bin/true"))
        return made

    def test_it_is_valid(self, unit: Path) -> None:
        ended = subprocess.run(
            [
                *(str(SYSTEMD), "verify", "--man=no", str(unit)),
                *(str(unit.parent / each.name) for each in SOCKETS),
            ],
            capture_output=True,
            check=True,
        )
        assert ended.stdout + ended.stderr == b""

    def test_its_exposure_is_low(self, unit: Path) -> None:
        subprocess.run(
            [
                *(str(SYSTEMD), "security", "--offline=true", "--no-pager"),
                *(f"--threshold={WORST_EXPOSURE}", str(unit)),
            ],
            capture_output=True,
            check=True,
        )


def test_the_unit_has_options_and_limits_that_the_daemon_knows() -> None:
    text = UNIT.read_text()
    assert "#   MemoryDenyWriteExecute=  " in text  # why it is off
    assert "\nMemoryDenyWriteExecute=" not in text
    assert "\nTimeoutStopSec=10\n" in text
    assert "AF_NETLINK" in text
    assert '\nExecReload=/bin/sh -c "kill -HUP $MAINPID"\n' in text  # minimal systems lack kill(1)
    assert "\nCacheDirectory=verdictd-py\n" in text  # otherwise each start compiles the engine


def test_the_socket_units_have_names_that_the_daemon_adopts() -> None:
    names = [
        line.partition("=")[2]
        for unit in SOCKETS
        for line in unit.read_text().splitlines()
        if line.startswith("FileDescriptorName=")
    ]
    assert names == ["listen", "kbs_http"]
    assert "\nService=verdictd-py.service\n" in SOCKETS[1].read_text()


def refused_start(restrict: str, tmp_path: Path) -> str:
    """Start the daemon after the statements `restrict`; return the one line with which it ends."""
    program = f"{restrict}from verdictd_py.cli.main import main\nsys.exit(main())\n"
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments(tmp_path)],
        capture_output=True,
        env=environment(),
        timeout=120,
        check=False,
    )
    (line,) = ended.stderr.decode().splitlines()
    assert ended.returncode == 2
    return line


def test_no_executable_memory_is_one_line_at_start(tmp_path: Path) -> None:
    """As MemoryDenyWriteExecute=yes does it (PR_SET_MDWE, or a filter of system calls)."""
    program = (
        "import ctypes, mmap, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):\n"
        "    def refuse(*_, **more): raise PermissionError(1, 'x')\n"
        "    mmap.mmap = refuse\n"
    )
    assert "MemoryDenyWriteExecute=no" in refused_start(program, tmp_path)


def test_no_unix_sockets_is_one_line_at_start(tmp_path: Path) -> None:
    """As RestrictAddressFamilies= does it without AF_UNIX."""
    program = (
        "import errno, os, socket, sys\n"
        "class Refused(socket.socket):\n"
        "    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):\n"
        "        if family == socket.AF_UNIX and fileno is None:\n"  # socketpair is not filtered
        "            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))\n"
        "        super().__init__(family, type, proto, fileno)\n"
        "socket.socket = Refused\n"
    )
    line = refused_start(program, tmp_path)
    assert "add AF_UNIX to RestrictAddressFamilies=" in line


def test_hidden_owners_of_connections_are_refused_at_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules, address = CallerRules(), Address("127.0.0.1", 7)
    monkeypatch.setattr(loopback, "_query", lambda *queries: [None] * len(queries))
    rules.require_identification(address)  # by the tables
    monkeypatch.setattr(loopback, "_TABLES", (Path("/proc/none"),))
    with pytest.raises(ConfigError, match="ProcSubset=pid"):
        rules.require_identification(address)
    rules.require_identification(Address(unix="/run/x"))
    rules.require_identification(Address("192.0.2.1", 7))
    for other in (CallerRules(insecure_loopback=True), CallerRules(certificate_roles=dict)):
        other.require_identification(address)


def test_a_process_without_core_dumps_and_without_debuggers() -> None:
    program = (
        "import ctypes, resource\n"
        "from verdictd_py.cli.hardening import harden\n"
        "locked = harden()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
        "lines = open('/proc/self/status').read().splitlines()\n"
        "kib = [int(line.split()[1]) for line in lines if line.startswith('VmLck')]\n"
        "print(locked == (kib and kib[0] > 0), locked)\n"
    )
    for limit, expected in (("unlimited", b"True True"), ("64", b"True False")):
        shell = f'ulimit -l {limit} 2>/dev/null; exec {sys.executable} -c "$0"'
        ended = subprocess.run(
            ["/bin/sh", "-c", shell, program],
            capture_output=True,
            env=environment(),
            check=True,
        )
        cores, locked = ended.stdout.splitlines()
        assert cores == b"(0, 0) 0"
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] == resource.RLIM_INFINITY:
            assert locked == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its capabilities")
def test_a_protected_process_without_capabilities_serves(tmp_path: Path) -> None:
    """A process that is not dumpable does not own its /proc: TLS and callers must still work."""
    data = ("--data-dir", str(tmp_path / "data"), "--collateral-url", "")
    more = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--kbs-http", "0.0.0.0:0")
    wrapper = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    with running_daemon(*data, *more, wrapper=wrapper) as daemon:
        started = daemon.wait_for("daemon.started")
        assert started["kbs_http"].startswith("https://")  # by a file in memory below /proc/self
        status = [sys.executable, "-m", "verdictd_py.cli.verdict", "-c", started["client_api"]]
        subprocess.run(
            [*status, "status"], env=environment(), check=True, stdout=subprocess.DEVNULL
        )
        capabilities = Path(f"/proc/{daemon.process.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in capabilities
        assert daemon.end(signal.SIGTERM)[0] == 0
