"""Open Policy Agent as a server, for comparing its answers with those of the policy engine."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from verdictd_py.encoding import JsonValue


class OpaFailed(Exception):
    """OPA refuses the policy, or fails to evaluate it."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


class Opa:
    """A server with one policy at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, policy: str, data: str) -> None:
        """Replace the policy and the data.

        Raises:
            OpaFailed: OPA does not compile the policy.
        """
        self._request("PUT", "/v1/policies/policy", policy, "text/plain")
        self._request("PUT", "/v1/data", data)

    def evaluate(self, term: Mapping[str, JsonValue], *, strict: bool) -> JsonValue:
        """Return the value of the package `policy`.

        Args:
            strict: whether a failing function fails the evaluation, instead of being undefined.

        Raises:
            OpaFailed: the evaluation fails.
        """
        query = "?strict-builtin-errors=true" if strict else ""
        answer = self._request("POST", f"/v1/data/policy{query}", json.dumps({"input": term}))
        document: JsonValue = answer.get("result", {})
        return document

    def _request(
        self, method: str, path: str, body: str, kind: str = "application/json"
    ) -> dict[str, Any]:
        connection = _Connection(self._path)
        try:
            connection.request(method, path, body.encode(), {"Content-Type": kind})
            response = connection.getresponse()
            text = response.read()
        except http.client.RemoteDisconnected as error:  # a defect of OPA: it panics
            raise OpaFailed("no response") from error
        finally:
            connection.close()
        answer: dict[str, Any] = json.loads(text) if text else {}
        if response.status >= 300:
            raise OpaFailed(str(answer)[:400])
        return answer


@contextmanager
def running_opa(directory: Path) -> Iterator[Opa]:
    """Run the program `opa` on a Unix socket in `directory`."""
    path = directory / "opa.sock"
    command = ["opa", "run", "--server", "--skip-version-check", "--log-level=error"]
    with subprocess.Popen(
        [*command, f"--addr=unix://{path}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while not path.exists():
                assert process.poll() is None, "opa has ended"
                time.sleep(0.05)
            yield Opa(path)
        finally:
            process.terminate()
