"""Variants of the unit: instances, an air-gapped site, encrypted credentials, many restarts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from tools.certificates import Certificates
from tools.systemd.cases import (
    CONFIG,
    HTTP,
    SETTINGS,
    TLS_FILES,
    TRUST,
    command_line,
    get_key,
    get_resource,
    judge,
    unless,
)
from tools.systemd.machine import SERVICE, Machine, wait_for
from tools.torture.scenario import Row

INSTANCE: Final = "verdictd-py@one.service"
INSTANCE_ADDRESS: Final = "127.0.0.1:20003"
RESTARTS: Final = 100
_DROP_IN: Final = "etc/systemd/system/verdictd-py.service.d/30-air-gapped.conf"

# Connects until the file exists, and prints the number of connections and of refused ones.
_CONNECT: Final = """
import os, socket, time
done = failed = 0
while not os.path.exists("/run/enough"):
    try:
        socket.create_connection(("127.0.0.1", 20002), 100).close()
        done += 1
    except OSError as error:
        failed += 1
        print(error, flush=True)
    time.sleep(0.02)
print(done, failed, flush=True)
"""


def start_instance(machine: Machine) -> tuple[bool, str]:
    """Start a broker from the template; return whether it started, and its client API."""
    settings = machine.root / "etc/verdictd-py/one.toml"
    settings.write_text(f'listen = "{INSTANCE_ADDRESS}"\n')
    drop_in = machine.root / f"etc/systemd/system/{INSTANCE}.d/10-base.conf"
    drop_in.parent.mkdir(exist_ok=True)
    options = (
        "--config /etc/verdictd-py/one.toml --data-dir ${STATE_DIRECTORY} "
        "--client-api unix:${RUNTIME_DIRECTORY}/client-api.sock"
    )
    drop_in.write_text(f"[Service]\nExecStart=\nExecStart=/usr/bin/verdictd-py {options} {TRUST}\n")
    machine.systemctl("daemon-reload")
    return machine.systemctl("start", INSTANCE), "unix:/run/verdictd-py-one/client-api.sock"


def instances(machine: Machine) -> Iterator[Row]:
    """Run a second broker from the template, next to the first one."""
    with machine.changed(*command_line()):
        machine.systemctl("start", SERVICE)
        started, api = start_instance(machine)
        created = machine.run("verdict-py", "-c", api, "key", "create", "default/key/1")
        yield judge(
            "`verdictd-py@one` next to `verdictd-py`",
            "guests have their keys from both",
            unless(started, "not started"),
            unless(created.returncode == 0, created.stderr.strip()),
            get_key(machine, INSTANCE_ADDRESS),
            get_key(machine),
        )
        machine.systemctl("stop", INSTANCE)


def air_gapped(machine: Machine) -> Iterator[Row]:
    """Serve guests without a network, on sockets that systemd holds."""
    (machine.root / CONFIG).write_text('listen = "127.0.0.1:2"\nkbs_http = "127.0.0.1:3"\n')
    source = machine.root / "etc/systemd/system/verdictd-py.air-gapped.conf"
    target = machine.root / _DROP_IN
    with machine.changed(*command_line()), machine.lines() as lines:
        target.write_text(source.read_text())
        machine.systemctl("daemon-reload")
        machine.systemctl("start", "verdictd-py.socket", "verdictd-py-kbs.socket")
        started = machine.systemctl("start", SERVICE)
        process = machine.show("MainPID")
        devices = machine.run("cat", f"/proc/{process}/net/dev").stdout.splitlines()[2:]
        yield judge(
            "air-gapped drop-in: RATS-TLS",
            "guest has its key; the broker has no network device but loopback",
            unless(started, "; ".join(lines()[-1:])),
            unless(len(devices) == 1, f"{len(devices)} network devices"),
            get_key(machine),
        )
        yield judge(
            "air-gapped drop-in: HTTPS",
            "guest has its key",
            get_resource(machine, "https://127.0.0.1:8443", "--insecure-no-tls-verification"),
        )
        unit = "/etc/systemd/system/verdictd-py.service"
        security = ("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=3")
        result = machine.run(*security, unit)
        last = (result.stdout.strip().splitlines() or [""])[-1]
        exposure = last.partition(": ")[2].split(" ")[0]
        yield judge(
            "air-gapped drop-in: `systemd-analyze security --offline=true`",
            f"exposure {exposure}",
            unless(result.returncode == 0, "above 0.3"),
        )
        machine.systemctl("stop", "verdictd-py.socket", "verdictd-py-kbs.socket")
    target.unlink()
    machine.systemctl("daemon-reload")
    (machine.root / CONFIG).write_text(SETTINGS)


def encrypted(machine: Machine) -> Iterator[Row]:
    """Read the private key of TLS from an encrypted credential."""
    Certificates.below(machine.root / "etc/verdictd-py")
    case = "LoadCredentialEncrypted=: TLS key"
    paths = ("/etc/verdictd-py/server.key", "/etc/verdictd-py/server.key.cred")
    made = machine.run("systemd-creds", "encrypt", "--with-key=host", "--name=server.key", *paths)
    if made.returncode != 0:
        yield judge(case, "", made.stderr.strip() or "systemd-creds failed")
        return
    load = f"LoadCredentialEncrypted=server.key:{paths[1]}"
    with machine.changed(*command_line(more=TLS_FILES), load), machine.lines() as lines:
        started = machine.systemctl("start", SERVICE)
        yield judge(
            case,
            "guest has its key over HTTPS",
            unless(started, "; ".join(lines()[-1:])),
            get_resource(machine, f"https://{HTTP}", "--ca", "/etc/verdictd-py/ca.pem"),
        )


def restarts(machine: Machine) -> Iterator[Row]:
    """Restart the broker often while clients connect: systemd holds the socket."""
    (machine.root / CONFIG).write_text('listen = "127.0.0.1:2"\n')
    script, output = machine.root / "root/connect.py", machine.root / "root/connected"
    script.write_text(_CONNECT)
    with machine.changed(*command_line()):
        machine.systemctl("start", "verdictd-py.socket", SERVICE)
        run = ("systemd-run", "--unit=connect", "-p", "StandardOutput=file:/root/connected")
        machine.run(*run, "python3", "/root/connect.py")
        succeeded = 0
        for _ in range(RESTARTS):
            machine.systemctl("reset-failed", SERVICE)  # its limit of starts is not the subject
            succeeded += machine.systemctl("restart", SERVICE)
        machine.run("touch", "/run/enough")
        ended = partial(machine.run, "systemctl", "is-active", "connect")
        wait_for("the end of the connections", lambda: ended().returncode != 0)
        *failures, last = output.read_text().splitlines() or [""]
        yield judge(
            f"{RESTARTS} restarts, socket activation",
            f"{last.partition(' ')[0]} connections, none refused",
            unless(succeeded == RESTARTS, f"{RESTARTS - succeeded} restarts failed"),
            unless(not failures, "; ".join(failures[:3])),
            get_key(machine),
        )
        machine.systemctl("stop", "verdictd-py.socket")
    (machine.root / CONFIG).write_text(SETTINGS)


VARIANTS: Final = (instances, air_gapped, encrypted, restarts)
