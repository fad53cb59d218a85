"""A broker in an environment as Kubernetes makes it; run by `unshare` in namespaces of its own.

Service variables, a Secret volume (read-only, mode 1777, links), a read-only root, loopback without
IPv6, no HOME, and, for root, a user without an entry in passwd. It prints one JSON object.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support.kubernetes import Volume

UID = 54_321
OLD, NEW = b"o" * 32, b"n" * 32

SERVICE = {
    "VERDICTD_SERVICE_HOST": "10.96.0.7",
    "VERDICTD_SERVICE_PORT": "20002",
    "VERDICTD_SERVICE_PORT_RATS_TLS": "20002",
    "VERDICTD_PORT": "tcp://10.96.0.7:20002",
    "VERDICTD_PORT_20002_TCP": "tcp://10.96.0.7:20002",
    "VERDICTD_PORT_20002_TCP_PROTO": "tcp",
    "VERDICTD_PORT_20002_TCP_PORT": "20002",
    "VERDICTD_PORT_20002_TCP_ADDR": "10.96.0.7",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
}


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def loopback_without_ipv6() -> None:
    with suppress(OSError):  # a kernel without IPv6
        Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.pack("16sh14x", b"lo", 1)  # IFF_UP
        fcntl.ioctl(control, 0x8914, flags)  # SIOCSIFFLAGS


def as_user() -> list[str]:
    """Return the beginning of a command line for the pod's user.

    Its one capability lets it read an interpreter below root's home.
    """
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        return []  # a user namespace, in which no other user exists
    ids = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    kept = "+dac_read_search"
    return ["setpriv", *ids, f"--inh-caps={kept}", f"--ambient-caps={kept}"]


def main(place: Path) -> None:
    user = as_user()
    owner = UID if user else 0
    mount("-t", "tmpfs", "none", str(place))
    data, kubelet = place / "data", place / "kubelet"
    mounted = data / "keys/team/signing"
    mounted.mkdir(parents=True)
    for directory in (data, data / "keys", data / "keys/team"):
        directory.chmod(0o700)
        os.chown(directory, owner, owner)
    kubelet.mkdir()
    kubelet.chmod(0o1777)
    volume = Volume(kubelet)
    volume.write({"mykey": OLD}, mode=0o644)
    mount("--bind", str(kubelet), str(mounted))
    mount("-o", "remount,bind,ro", str(mounted))
    loopback_without_ipv6()
    mount("-o", "remount,bind,ro", "/")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], **SERVICE}
    sys.stdout.write(json.dumps(observed(user, data, volume, environment)))


def observed(
    user: list[str], data: Path, volume: Volume, environment: dict[str, str]
) -> dict[str, object]:
    def verdict(*words: str) -> list[str | int]:
        command = [*user, sys.executable, "-m", "verdictd_py.cli.verdict", *words]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, cwd=data.parent
        )
        return [done.returncode, done.stdout, done.stderr]

    options = ["--data-dir", str(data), "--listen", "127.0.0.1:0", "--collateral-url", ""]
    command = [*user, sys.executable, "-m", "verdictd_py.cli.main", *options]
    result: dict[str, object] = {"user": bool(user)}
    daemon = subprocess.Popen(
        command,
        env={**environment, "VERDICTD_LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        text=True,
    )
    with daemon:
        try:
            assert daemon.stderr is not None
            log = []
            for line in daemon.stderr:
                log.append(line)
                if '"daemon.started"' in line:
                    break
            result["log"] = log
            result["list"] = verdict("--json", "key", "list")
            result["old"] = verdict("key", "show", "team/signing/mykey")
            volume.write({"mykey": NEW}, mode=0o644)
            result["new"] = verdict("key", "show", "team/signing/mykey")
            result["root"] = os.access(Path(__file__).parent, os.W_OK)
        finally:
            daemon.terminate()
    result["status"] = daemon.returncode
    return result


if __name__ == "__main__":
    if shutil.which("setpriv") is None:
        raise SystemExit("setpriv is missing: install util-linux")
    main(Path(sys.argv[1]))
