"""An API server with its etcd on loopback, and kubectl and helm for it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tools.cluster.binaries import Failed, Programs

START_SECONDS: Final = 120.0
"""Of the API server on a busy machine; it takes 3 to 6 s on a quiet one."""
SERVICES: Final = "10.96.0.0/16"
_POLL_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Cluster:
    """How to call an API server as its administrator.

    Attributes:
        programs: where kubectl is.
        config: file for `KUBECONFIG`.
        directory: private; logs are in it.
    """

    programs: Programs
    config: Path
    directory: Path

    def kubectl(
        self, *words: str, text: str | None = None, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl with this text as its standard input."""
        return self._run(self.programs.path("kubectl"), *words, text=text, seconds=seconds)

    def helm(self, *words: str, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run helm."""
        return self._run("helm", *words, seconds=seconds)

    def must(self, *words: str, text: str | None = None, seconds: float = 120.0) -> str:
        """Run kubectl; return its output.

        Raises:
            Failed: it failed.
        """
        done = self.kubectl(*words, text=text, seconds=seconds)
        if done.returncode:
            raise Failed(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *words: str) -> dict[str, Any]:
        """Return what `kubectl get` prints as JSON."""
        found: dict[str, Any] = json.loads(self.must("get", *words, "--output=json"))
        return found

    def apply(self, text: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Apply manifests as a strict client does: unknown fields are refused by the server."""
        strict = ("apply", "--server-side", "--validate=strict", "--filename=-")
        return self.kubectl(*strict, *words, text=text)

    def _run(
        self, *words: str, text: str | None = None, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.config),
            "HELM_CACHE_HOME": str(self.directory / "helm"),
            "HELM_CONFIG_HOME": str(self.directory / "helm"),
            "HELM_DATA_HOME": str(self.directory / "helm"),
        }
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            environment.pop(name, None)
        return subprocess.run(
            words,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


@dataclass(frozen=True)
class Ports:
    """Ports on loopback: of etcd for clients and for peers, and of the API server."""

    etcd: int
    peers: int
    api: int

    @classmethod
    def free(cls) -> Ports:
        """Return ports that are free now."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            etcd, peers, api = (one.getsockname()[1] for one in sockets)
        return cls(etcd, peers, api)


@dataclass(frozen=True)
class Commands:
    """Command lines of etcd and the API server, and what they need in a directory."""

    etcd: list[str]
    api: list[str]
    config: Path


def commands(
    programs: Programs, directory: Path, ports: Ports, *options: str, address: str = "127.0.0.1"
) -> Commands:
    """Write the files of a control plane, and return its command lines.

    Args:
        directory: private, because the administrator's token is in it.
        options: further ones of the API server.
        address: that the API server announces.
    """
    token = secrets.token_urlsafe(32)
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(directory / "service-accounts.key", pem.decode())
    _write(directory / "tokens.csv", f"{token},admin,admin,system:masters\n")
    server = f"https://127.0.0.1:{ports.api}"
    config = directory / "kubeconfig"
    _write(config, kubeconfig(server, token))
    etcd = f"http://127.0.0.1:{ports.etcd}"
    peers = f"http://127.0.0.1:{ports.peers}"
    return Commands(
        [
            programs.path("etcd"),
            f"--data-dir={directory / 'etcd'}",
            "--unsafe-no-fsync",
            *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
            f"--initial-cluster=default={peers}",
        ],
        [
            programs.path("kube-apiserver"),
            f"--etcd-servers={etcd}",
            *("--bind-address=127.0.0.1", f"--advertise-address={address}"),
            *(f"--secure-port={ports.api}", f"--cert-dir={directory / 'certificates'}"),
            f"--service-cluster-ip-range={SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={directory / 'service-accounts.key'}",
            f"--service-account-signing-key-file={directory / 'service-accounts.key'}",
            f"--token-auth-file={directory / 'tokens.csv'}",
            *("--authorization-mode=Node,RBAC", "--endpoint-reconciler-type=none"),
            *options,
        ],
        config,
    )


def kubeconfig(server: str, token: str) -> str:
    """Return a configuration that trusts whatever serves this loopback address."""
    cluster = {"server": server, "insecure-skip-tls-verify": True}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "own", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "own", "context": {"cluster": "own", "user": "admin"}}],
            "current-context": "own",
        }
    )


def _write(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text)


@contextmanager
def running(programs: Programs, directory: Path, *options: str) -> Iterator[Cluster]:
    """Run etcd and an API server on free loopback ports, until the context ends.

    Raises:
        Failed: one of them ended, or the API server is not ready in time.
    """
    ports = Ports.free()
    made = commands(programs, directory, ports, *options)
    with ExitStack() as stack:
        started = [
            stack.enter_context(_process(words, directory / f"{Path(words[0]).name}.log"))
            for words in (made.etcd, made.api)
        ]
        cluster = Cluster(programs, made.config, directory)
        wait_until_ready(cluster, started)
        yield cluster


@contextmanager
def _process(words: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as written:
        process = subprocess.Popen(words, stdout=written, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_ready(cluster: Cluster, processes: Sequence[subprocess.Popen[bytes]]) -> float:
    """Wait for an API server; return the seconds.

    Raises:
        Failed: a process ended, or it takes too long.
    """
    begin = time.monotonic()
    while time.monotonic() - begin < START_SECONDS:
        if any(process.poll() is not None for process in processes):
            break
        if cluster.kubectl("get", "--raw=/readyz").returncode == 0:
            return time.monotonic() - begin
        time.sleep(_POLL_SECONDS)
    lines = (cluster.directory / "kube-apiserver.log").read_text(errors="replace").splitlines()
    raise Failed("the API server does not start:\n" + "\n".join(lines[-10:]))
