"""PostgreSQL: a cluster in a private directory, with TLS and passwords, without a unix socket."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tools.certificates import Certificates
from tools.engines.processes import (
    EngineError,
    User,
    free_port,
    listens,
    program,
    remembered,
    wait_until,
)

_PLACES: Final = [
    str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
]
_NEEDED: Final = ("pg_ctl", "initdb", "psql")


class Postgres:
    """One cluster. PostgreSQL does not run as root: root runs it as `postgres` or `nobody`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._user = User.unprivileged()
        self.programs = {
            name: program(name, package="postgresql", also=_PLACES) for name in _NEEDED
        }

    def start(self) -> dict[str, str]:
        """Start the server; return its URL (a superuser's, TLS verified)."""
        self._directory.mkdir(parents=True, exist_ok=True)
        certificates = Certificates.below(self._directory / "tls")
        password = remembered(self._directory / "password", secrets.token_hex)
        data = self._data()
        if not (data / "PG_VERSION").exists():
            self._create(data, certificates)
        if not self._runs(data):
            port = int(remembered(self._directory / "port", lambda: str(free_port())))
            self._control("start", "-w", "-l", str(data / "log"), "-o", f"-p {port}")
            wait_until(lambda: listens(port), lambda: self._runs(data), data / "log")
        port = int((self._directory / "port").read_text())
        options = f"sslmode=verify-full&sslrootcert={certificates.authority}"
        url = f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres?{options}"
        return {"ENGINES_POSTGRES": url}

    def stop(self, mode: str = "fast") -> None:
        """Stop the server. Mode `immediate` stops it as a crash would."""
        if (link := self._directory / "data").exists() and self._runs(link.resolve()):
            self._control("stop", "-w", "-m", mode)

    def remove(self) -> None:
        """Stop the server and remove its directory."""
        self.stop("immediate")
        if (link := self._directory / "data").is_symlink():
            shutil.rmtree(link.resolve().parent, ignore_errors=True)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _data(self) -> Path:
        """Return the data directory, in a place that the server's user can reach."""
        link = self._directory / "data"
        if link.exists():
            return link.resolve()
        if self._user is None:
            link.mkdir(mode=0o700)
            return link.resolve()
        place = self._directory
        if not self._user.can_reach(place):
            place = Path(tempfile.mkdtemp(prefix="verdictd-py-postgres-"))
            place.chmod(0o755)
            link.symlink_to(place / "data")
        data = place / "data"
        data.mkdir(mode=0o700)
        shutil.chown(data, self._user.name)
        return data.resolve()

    def _create(self, data: Path, certificates: Certificates) -> None:
        password = Path(tempfile.mkdtemp(prefix="verdictd-py-initdb-")) / "password"
        password.write_text((self._directory / "password").read_text())
        try:
            if self._user is not None:
                shutil.chown(password.parent, self._user.name)
                shutil.chown(password, self._user.name)
            self._run(
                "initdb", "-D", str(data), "-U", "postgres", "-A", "scram-sha-256",
                "-E", "UTF8", "--locale=C", f"--pwfile={password}",
            )  # fmt: skip
        finally:
            shutil.rmtree(password.parent)
        for source, name in ((certificates.chain, "server.crt"), (certificates.key, "server.key")):
            target = data / name
            target.touch(mode=0o600)
            target.write_bytes(source.read_bytes())
            if self._user is not None:
                shutil.chown(target, self._user.name)
        with (data / "postgresql.conf").open("a") as configuration:
            configuration.write(
                "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
                "max_connections = 200\nssl = on\n"
            )

    def _runs(self, data: Path) -> bool:
        try:
            pid = int((data / "postmaster.pid").read_text().split()[0])
            return os.fsencode(data) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            return False

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", str(self._data()), *arguments)

    def _run(self, name: str, *arguments: str) -> None:
        as_user = self._user.arguments() if self._user is not None else {}
        # Not a pipe: the server inherits it, and reading it would wait for the server's end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [self.programs[name], *arguments],
                **as_user,  # type: ignore[call-overload]
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                start_new_session=True,
            )
            output.seek(0)
            if done.returncode != 0:
                text = output.read().decode(errors="replace")
                raise EngineError(f"{name} ended with status {done.returncode}: {text.strip()}")
