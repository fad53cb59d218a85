"""Valkey, or the redis of Debian 12, which has the same protocol: a password, plain and TLS."""

from __future__ import annotations

import secrets
import shutil
import signal
from pathlib import Path

from tools.certificates import Certificates
from tools.engines.processes import Server, free_port, listens, program, remembered


class Valkey:
    """One server without persistence."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = program("valkey-server", "redis-server", package="redis-server")
        self._server = Server(directory, "valkey")

    def start(self) -> dict[str, str]:
        """Start the server; return its URLs."""
        self._directory.mkdir(parents=True, exist_ok=True)
        certificates = Certificates.below(self._directory / "tls")
        password = remembered(self._directory / "password", secrets.token_hex)
        plain, tls = (
            int(remembered(self._directory / name, lambda: str(free_port())))
            for name in ("port", "tls-port")
        )
        file = self._directory / "valkey.conf"
        file.touch(mode=0o600)
        file.write_text(
            f"bind 127.0.0.1\nport {plain}\ntls-port {tls}\nrequirepass {password}\n"
            f"tls-cert-file {certificates.chain}\ntls-key-file {certificates.key}\n"
            f"tls-ca-cert-file {certificates.authority}\ntls-auth-clients no\n"
            f'dir {self._directory}\nsave ""\nappendonly no\n'
        )
        # The process shows its port and nothing else in its command line, but its directory is
        # needed there (`Server.pid`).
        command = [self._program, str(file), "--set-proc-title", "no"]
        self._server.start(command, lambda: listens(plain) and listens(tls))
        return {
            "ENGINES_VALKEY": f"valkey://:{password}@127.0.0.1:{plain}/0",
            "ENGINES_VALKEY_TLS": f"valkeys://:{password}@127.0.0.1:{tls}/0",
            "ENGINES_VALKEY_CA": str(certificates.authority),
        }

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server, by this signal."""
        self._server.stop(number)

    def remove(self) -> None:
        """End the server and remove its directory."""
        self._server.stop(signal.SIGKILL)
        shutil.rmtree(self._directory, ignore_errors=True)
