"""What the units promise, one function for each row of the table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from tools.certificates import Certificates
from tools.systemd.machine import SERVICE, Machine, wait_for
from tools.torture.scenario import Row

GUESTS: Final = "127.0.0.1:20002"
HTTP: Final = "127.0.0.1:8080"
CLIENT_API: Final = "unix:/run/verdictd-py/client-api.sock"
KEY: Final = "default/key/1"
PLATFORM: Final = "/root/platform"
CONFIG: Final = "etc/verdictd-py/config.toml"
SETTINGS: Final = f'listen = "{GUESTS}"\nkbs_http = "{HTTP}"\n'

_LOOPBACK: Final = "127.0.0.1:60000"
_MAX_STOP: Final = 8.0
_NOTIFY_RELOAD: Final = 253
_UNITS: Final = ("verdictd-py.service", "verdictd-py.socket", "verdictd-py-kbs.socket")
_TEMPLATE: Final = "verdictd-py@.service"
TLS_FILES: Final = (
    "--kbs-tls-cert /etc/verdictd-py/server.pem --kbs-tls-key ${CREDENTIALS_DIRECTORY}/server.key"
)
"""Options of HTTPS, whose private key is a credential (`tools.certificates`)."""

_DATA: Final = "--config /etc/verdictd-py/config.toml --data-dir ${STATE_DIRECTORY}"
TRUST: Final = (
    "--unsafe-tdx-root-ca /etc/verdictd-py/root-ca.pem "
    "--collateral /etc/verdictd-py/collateral.json"
)
_NO_NETLINK: Final = "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"
_NO_UNIX: Final = "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK"


def command_line(client_api: str = CLIENT_API, more: str = "") -> tuple[str, str]:
    """Return the directives of a broker that trusts the simulated platform of the guests."""
    command = f"/usr/bin/verdictd-py {_DATA} --client-api {client_api} {TRUST} {more}"
    return "ExecStart=", f"ExecStart={command.rstrip()}"


REFUSED: Final = (
    ("MemoryDenyWriteExecute=", CLIENT_API, ("MemoryDenyWriteExecute=yes",)),
    ("ProcSubset=pid", _LOOPBACK, ("RestrictAddressFamilies=", _NO_NETLINK)),
    ("RestrictAddressFamilies=", CLIENT_API, ("RestrictAddressFamilies=", _NO_UNIX)),
)
"""Name in the message, address of the client API, directives."""


def prepare(machine: Machine) -> None:
    """Make the simulated platform of the guests, and the settings of the broker."""
    directory = machine.root / CONFIG
    directory.parent.mkdir(exist_ok=True)
    directory.write_text(SETTINGS)
    machine.run("verdictd-py", "guest", *to(GUESTS), "policy")  # makes the platform; no broker runs
    for name in ("root-ca.pem", "collateral.json"):
        machine.run("install", "--mode=0644", f"{PLATFORM}/{name}", "/etc/verdictd-py/")


def to(address: str) -> tuple[str, ...]:
    """Return the options of a guest."""
    return ("--connect", address, "--platform", PLATFORM, "--timeout", "120")


def get_key(machine: Machine, address: str = GUESTS) -> str:
    """Return why a genuine guest did not get the key over RATS-TLS; empty if it did."""
    result = machine.run("verdictd-py", "guest", *to(address), "--base64", "key", KEY)
    return "" if len(result.stdout.strip()) == 44 else result.stderr.strip() or "no key"


def get_resource(machine: Machine, url: str, *options: str) -> str:
    """Return why a genuine guest did not get the key over HTTP; empty if it did."""
    guest = ("verdictd-py", "guest", "--protocol", "rcar", *to(url), *options, "--base64")
    result = machine.run(*guest, "resource", KEY)
    return "" if len(result.stdout.strip()) == 44 else result.stderr.strip() or "no key"


def judge(case: str, figures: str, *problems: str) -> Row:
    """Return a row that passed if no problem has a text."""
    found = [problem for problem in problems if problem]
    return Row.judged(case, "; ".join((figures, *found) if figures else found), passed=not found)


def unless(condition: object, problem: str) -> str:
    """Return the problem, unless the condition is true."""
    return "" if condition else problem


def verify(machine: Machine) -> Iterator[Row]:
    """Verify the units, and compute their exposure."""
    units = [f"/etc/systemd/system/{name}" for name in (*_UNITS, _TEMPLATE)]
    result = machine.run("systemd-analyze", "verify", "--man=no", *units)
    finding = (result.stdout + result.stderr).strip()
    yield judge("`systemd-analyze verify` of the four units", "no finding", finding)
    security = ("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=11")
    result = machine.run(*security, units[0])
    level = re.search(r"Overall exposure level.*: ([0-9.]+)", result.stdout)
    exposure = level.group(1) if level else "unknown"
    yield judge(
        "`systemd-analyze security --offline=true`",
        f"exposure {exposure}",
        unless(result.returncode == 0, "above 1.1"),
    )


def start(machine: Machine) -> Iterator[Row]:
    """Start the unit: the manager learns of it when guests are served."""
    machine.systemctl("reset-failed")
    for case in ("the unit as it is, first start", "trusts the platform of the guests"):
        machine.systemctl("stop", SERVICE)
        with machine.lines() as lines:
            begin = time.monotonic()
            started = machine.systemctl("start", SERVICE)
            seconds = time.monotonic() - begin
            last = "; ".join(lines()[-1:])
        # bash connects at once; READY=1 before the port is served would refuse it.
        served = machine.run("bash", "-c", f"exec 3<>/dev/tcp/{GUESTS.replace(':', '/')}")
        yield judge(
            f"Type=notify: {case}",
            f"{seconds:.1f} s; Status: {machine.show('StatusText')}",
            unless(started, last),
            unless(served.returncode == 0, "not served when active"),
            unless(machine.show("StatusText").startswith("serving "), "no status"),
        )
        machine.change(*command_line())
    created = machine.run("verdict-py", "-c", CLIENT_API, "key", "create", KEY)
    exists = "already" in created.stderr  # in the tree of an earlier run
    yield judge(
        "`verdict-py` of root, on the unix socket",
        "creates a key",
        unless(created.returncode == 0 or exists, created.stderr),
    )
    other = machine.run_as_other_user("verdict-py", "-c", CLIENT_API, "status")
    yield judge(
        "`verdict-py` of another user, on the unix socket",
        other.stderr.strip(),
        unless(other.returncode == 3, f"status {other.returncode}"),
    )


def guests(machine: Machine) -> Iterator[Row]:
    """Serve genuine guests under the sandbox."""
    yield judge("genuine guest, RATS-TLS", "has its key", get_key(machine))
    yield judge("genuine guest, HTTP", "has its key", get_resource(machine, f"http://{HTTP}"))


def protection(machine: Machine) -> Iterator[Row]:
    """Compare what the kernel reports of the process with the unit."""
    process = machine.show("MainPID")
    expected = {"CapBnd": "0" * 16, "CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}
    wrong = [
        f"{name} is {machine.status_of_process(name)}"
        for name, value in expected.items()
        if machine.status_of_process(name) != value
    ]
    mounts = machine.run("cat", f"/proc/{process}/mountinfo").stdout
    root = next((line for line in mounts.splitlines() if line.split()[4] == "/"), "")
    limits = machine.run("cat", f"/proc/{process}/limits").stdout
    core = re.search(r"Max core file size +(\S+) +(\S+)", limits)
    yield judge(
        "sandbox of the running process",
        "no capabilities, no new privileges, filter of system calls, read-only root",
        *wrong,
        unless(root and root.split()[5].startswith("ro"), "/ can be written"),
    )
    # The kernel gives the /proc files of a process that is not dumpable to root.
    owner = machine.run("stat", "-c", "%u", f"/proc/{process}/environ").stdout.strip()
    user = machine.status_of_process("Uid").split()
    yield judge(
        "core dumps and debuggers",
        "core limit 0, not dumpable",
        unless(core and core.groups() == ("0", "0"), "core dumps are on"),
        unless(owner == "0" and user[:1] not in ([], ["0"]), "dumpable"),
    )
    case = "LimitMEMLOCK=infinity: memory is locked"
    if not re.search(r"Max locked memory +unlimited +unlimited", limits):
        yield Row.skipped(case, "the host does not let systemd raise the limit (CAP_SYS_RESOURCE)")
    else:
        locked = machine.status_of_process("VmLck")
        yield judge(case, f"VmLck {locked}", unless(locked not in ("", "0 kB"), "not locked"))


def reload(machine: Machine) -> Iterator[Row]:
    """Reload good and bad settings."""
    settings = machine.root / CONFIG
    process = machine.show("MainPID")
    for text, expected, status in (
        ("max_connections = 100\n", "daemon.reloaded", "serving "),
        ("max_connections = none\n", "warning.reload", "the last reload failed"),
        ("", "daemon.reloaded", "serving "),
    ):
        settings.write_text(SETTINGS + text)
        with machine.lines() as lines:
            reloaded = machine.systemctl("reload", SERVICE)
            reported = partial(_has, lines, expected)
            wait_for(expected, reported)
            wait_for("the end of the reload", partial(_has_status, machine, status))
            yield judge(
                f"`systemctl reload`, {text.strip() or 'as before'}",
                f"{expected}; Status: {machine.show('StatusText')}",
                unless(reloaded, "systemctl reload failed"),
                unless(machine.show("MainPID") == process, "restarted"),
            )
    yield judge("guest after the reloads", "has its key", get_key(machine))


def notify_reload(machine: Machine) -> Iterator[Row]:
    """Have `systemctl reload` wait for the end of the reload."""
    case = "Type=notify-reload: `systemctl reload` waits"
    version = int(machine.run("systemctl", "--version").stdout.split()[1])
    if version < _NOTIFY_RELOAD:
        yield Row.skipped(case, f"systemd {version}; {_NOTIFY_RELOAD} has it")
        return
    settings = machine.root / CONFIG
    with machine.changed(*command_line(), "Type=notify-reload", "ExecReload="):
        started = machine.systemctl("start", SERVICE)
        settings.write_text(f"{SETTINGS}max_connections = none\n")
        reloaded = machine.systemctl("reload", SERVICE)
        # The broker sends the result with READY=1. Its log is no proof: journald reads it later.
        status = machine.show("StatusText")
        settings.write_text(SETTINGS)
        yield judge(
            case,
            "the result is known when it returns",
            unless(started and reloaded, "failed"),
            unless("the last reload failed" in status, f"does not wait: {status}"),
        )


def watchdog(machine: Machine) -> Iterator[Row]:
    """Stop the event loop, and kill the process: systemd restarts the broker."""
    with machine.changed(*command_line(), "WatchdogSec=10", "TimeoutAbortSec=1"):
        machine.systemctl("start", SERVICE)
        for case, sent in (("watchdog: SIGSTOP", "STOP"), ("SIGKILL", "KILL")):
            process = machine.show("MainPID")
            machine.run("sh", "-c", f"kill -s {sent} {process}")
            restarted = partial(machine.active_for_another, process)
            seconds = wait_for("a restart", restarted)
            yield judge(case, f"active again after {seconds:.0f} s", get_key(machine))


def sockets(machine: Machine) -> Iterator[Row]:
    """Start by the first connection, and keep connections during a restart."""
    unused = 'listen = "127.0.0.1:2"\nkbs_http = "127.0.0.1:3"\n'
    (machine.root / CONFIG).write_text(unused)
    with machine.changed(*command_line()):
        listening = machine.systemctl("start", *_UNITS[1:])
        before = machine.show("ActiveState")
        yield judge(
            "socket activation: the first guest starts the broker",
            "has its key",
            unless(listening and before == "inactive", f"the broker was {before}"),
            get_key(machine),
        )
        # The socket is not only on loopback, so that the listener has a certificate of its own.
        insecure = "--insecure-no-tls-verification"
        yield judge(
            "socket activation: HTTPS",
            "has its key",
            get_resource(machine, "https://127.0.0.1:8443", insecure),
        )
        process = machine.show("MainPID")
        machine.systemctl("restart", "--no-block", SERVICE)
        problem = get_key(machine)
        wait_for("a restart", partial(machine.active_for_another, process))
        yield judge("socket activation: a guest connects during a restart", "has its key", problem)
        stopped = machine.systemctl("stop", *_UNITS)
        yield judge("socket activation: stop", "", unless(stopped, "systemctl stop failed"))
    (machine.root / CONFIG).write_text(SETTINGS)


def credentials(machine: Machine) -> Iterator[Row]:
    """Read the private key of TLS, which only root can read, as a credential."""
    Certificates.below(machine.root / "etc/verdictd-py")
    load = "LoadCredential=server.key:/etc/verdictd-py/server.key"
    with machine.changed(*command_line(more=TLS_FILES), load), machine.lines() as lines:
        started = machine.systemctl("start", SERVICE)
        yield judge(
            "LoadCredential=: TLS key that only root can read",
            "guest has its key over HTTPS",
            unless(started, "; ".join(lines()[-1:])),
            get_resource(machine, f"https://{HTTP}", "--ca", "/etc/verdictd-py/ca.pem"),
        )
    # The unit's own settings again, with which the key cannot be read.
    direct = TLS_FILES.replace("${CREDENTIALS_DIRECTORY}", "/etc/verdictd-py")
    with machine.changed(*command_line(more=direct)), machine.lines() as lines:
        started = machine.systemctl("start", SERVICE)
        written = lines()
        yield judge(
            "refused: the same key without LoadCredential=",
            "; ".join(written),
            unless(not started, "started"),
            unless(len(written) == 1, f"{len(written)} lines"),
        )


def loopback(machine: Machine) -> Iterator[Row]:
    """Identify callers on a loopback port, although ProcSubset=pid hides the kernel's tables."""
    with machine.changed(*command_line(_LOOPBACK)):
        machine.systemctl("start", SERVICE)
        # On loopback any user could serve: the client names the broker's.
        status = ("verdict-py", "-c", _LOOPBACK, "--server-user", "verdictd-py", "status")
        root = machine.run(*status)
        other = machine.run_as_other_user(*status)
        you = re.search(r"you are +(.*)", root.stdout)
        yield judge(
            "ProcSubset=pid with AF_NETLINK: root, on a loopback port",
            you.group(1) if you else "",
            unless(root.returncode == 0 and you, root.stderr.strip()),
        )
        yield judge(
            "ProcSubset=pid with AF_NETLINK: another user, on a loopback port",
            other.stderr.strip(),
            unless(other.returncode == 1, f"status {other.returncode}"),
        )


def refusals(machine: Machine) -> Iterator[Row]:
    """Refuse directives that cannot work, each in one line that names it."""
    for name, client_api, directives in REFUSED:
        with machine.changed(*command_line(client_api), *directives), machine.lines() as lines:
            started = machine.systemctl("start", SERVICE)
            # Events may precede the refusal: some checks need a bound port.
            written = [line for line in lines() if line.startswith("verdictd-py: ")]
            text = "; ".join(written)
            yield judge(
                f"refused: `{directives[-1]}`, client API {client_api}",
                text,
                unless(not started, "started"),
                unless(len(written) == 1, f"{len(written)} lines"),
                unless(name in text, "does not name the directive"),
                unless(machine.show("NRestarts") == "0", "restarted"),
                unless(machine.show("ExecMainStatus") == "2", "exit status is not 2"),
            )


def stop(machine: Machine) -> Iterator[Row]:
    """Stop the broker while peers are connected that send nothing."""
    host, port = GUESTS.split(":")
    silent = f"for i in 1 2 3; do exec {{fd}}<>/dev/tcp/{host}/{port}; done; exec sleep 600"
    with machine.changed(*command_line()):
        machine.systemctl("start", SERVICE)
        machine.run("systemd-run", "--unit=peers", "bash", "-c", silent)
        begin = time.monotonic()
        stopped = machine.systemctl("stop", SERVICE)
        seconds = time.monotonic() - begin
        machine.systemctl("stop", "peers")
        yield judge(
            "`systemctl stop`, with silent peers",
            f"{seconds:.1f} s, result {machine.show('Result')}",
            unless(stopped and machine.show("Result") == "success", "failed"),
            unless(seconds < _MAX_STOP, "too slow"),
        )


CASES: Final[tuple[Callable[[Machine], Iterator[Row]], ...]] = (
    verify,
    start,
    guests,
    protection,
    reload,
    notify_reload,
    watchdog,
    sockets,
    credentials,
    loopback,
    refusals,
    stop,
)


def _has(lines: Callable[[], list[str]], event: str) -> bool:
    return any(f" {event} " in f"{line} " for line in lines())


def _has_status(machine: Machine, text: str) -> bool:
    return text in machine.show("StatusText") and machine.show("ActiveState") == "active"
