"""Programs of Kubernetes, etcd and containerd, built from Go modules once and kept.

No distribution and no package index has a current API server. They are kept in the user's cache,
by version, so that every checkout uses the same ones; Go's own cache makes another build cheap.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
KUBERNETES: Final = "1.37.2"
ETCD: Final = "3.7.3"
CONTAINERD: Final = "2.2.9"
CRDS: Final = (
    (
        "github.com/prometheus-operator/prometheus-operator@v0.85.0",
        "example/prometheus-operator-crd",
        ("monitoring.coreos.com_servicemonitors", "monitoring.coreos.com_prometheusrules"),
    ),
    (
        "github.com/cert-manager/cert-manager@v1.19.0",
        "deploy/crds",
        ("cert-manager.io_certificates",),
    ),
    (
        "sigs.k8s.io/gateway-api@v1.4.0",
        "config/crd/experimental",
        ("gateway.networking.k8s.io_tlsroutes",),
    ),
)
"""Module, directory in it, and files without `.yaml`: the kinds of others that the chart uses."""

API_SERVER: Final = ("kube-apiserver", "kubectl", "etcd")
NODE: Final = (
    *("kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"),
    *("containerd", "containerd-shim-runc-v2", "ctr", "pause"),
)

_STAGING: Final = re.compile(r"=> \./staging/src/(k8s\.io/[a-z0-9-]+)")
_CONTAINERD: Final = "github.com/containerd/containerd/v2/cmd/"
_PAUSE: Final = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
"""


class Failed(Exception):
    """A program could not be built; the text says why."""


@dataclass(frozen=True)
class Programs:
    """The directory of the programs of one version.

    Attributes:
        directory: has one file for each program that was built.
    """

    directory: Path

    @classmethod
    def kept(cls) -> Programs:
        """Return those of the user's cache, or of the checkout if that cannot be written."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = f"kubernetes-{KUBERNETES}-etcd-{ETCD}-containerd-{CONTAINERD}"
        for place in (cache / "verdictd-py" / name, ROOT / ".cache" / name):
            try:
                place.mkdir(mode=0o755, parents=True, exist_ok=True)
            except OSError:
                continue
            if os.access(place, os.W_OK):
                return cls(place)
        raise Failed(f"neither {cache} nor {ROOT / '.cache'} can be written: set XDG_CACHE_HOME")

    def path(self, name: str) -> str:
        """Return the path of a program that was built."""
        return str(self.directory / name)

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those that are not built yet."""
        return [name for name in names if not os.access(self.directory / name, os.X_OK)]

    def build(self, names: Sequence[str], report: Callable[[str], None]) -> None:
        """Build what is missing.

        Args:
            report: gets one line before each build.

        Raises:
            Failed: Go is missing, a module cannot be had, or a build fails.
        """
        missing = self.missing(names)
        if missing and shutil.which("go") is None:
            raise Failed("go is missing: apt-get install golang-go")
        for name in missing:
            report(f"building {name} (once; minutes without Go's cache)")
            # In the same directory, so that the last step is a rename.
            with tempfile.TemporaryDirectory(dir=self.directory, prefix=".build-") as work:
                _build(name, Path(work))
                (Path(work) / "bin" / name).replace(self.directory / name)


def _build(name: str, work: Path) -> None:
    if name.startswith("kube"):
        _kubernetes(name, work)
    elif name == "etcd":
        _go(work, "mod", "init", "example.test/etcd")
        _go(work, "get", f"go.etcd.io/etcd/server/v3@v{ETCD}")
        _go(work, "build", "-ldflags=-s -w", "-o", "bin/etcd", "go.etcd.io/etcd/server/v3")
    elif name == "pause":
        (work / "main.go").write_text(_PAUSE)
        _go(work, "build", "-ldflags=-s -w", "-o", "bin/pause", "main.go", GOFLAGS="")
    else:
        _install(work, f"{_CONTAINERD}{name}@v{CONTAINERD}")


def _kubernetes(name: str, work: Path) -> None:
    """Build a program of Kubernetes in a module that names the versions of its own modules.

    `go install` refuses it, because its module replaces others by directories.
    """
    version = KUBERNETES
    source = module(f"k8s.io/kubernetes@v{version}")
    minor = version.partition(".")[2]
    text = re.sub(
        r"(?m)^module .*", "module example.test/kubernetes", (source / "go.mod").read_text()
    )
    (work / "go.mod").write_text(_STAGING.sub(rf"=> \1 v0.{minor}", text))
    (work / "go.sum").write_bytes((source / "go.sum").read_bytes())
    _go(work, "mod", "edit", "-require", f"k8s.io/kubernetes@v{version}")
    place = "k8s.io/component-base/version.git"
    named = {"Version": f"v{version}", "Major": "1", "Minor": minor.partition(".")[0]}
    flags = " ".join(("-s -w", *(f"-X {place}{key}={value}" for key, value in named.items())))
    _go(work, "build", f"-ldflags={flags}", "-o", f"bin/{name}", f"k8s.io/kubernetes/cmd/{name}")


def _install(work: Path, package: str) -> None:
    _go(work, "install", package, GOBIN=str(work / "bin"), GOFLAGS="")


def module(name: str) -> Path:
    """Return the directory of a Go module `NAME@VERSION`, which is downloaded if necessary.

    Raises:
        Failed: it cannot be had.
    """
    with tempfile.TemporaryDirectory() as work:
        found = json.loads(_go(Path(work), "mod", "download", "-json", name))
    return Path(found["Dir"])


def definitions() -> list[Path]:
    """Return the files of `CRDS`."""
    return [
        module(name) / directory / f"{file}.yaml"
        for name, directory, files in CRDS
        for file in files
    ]


def _go(work: Path, *words: str, **environment: str) -> str:
    own: Mapping[str, str] = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOGC": "off",  # a compiler lives for seconds: collecting its garbage is half of its work
        "GOMEMLIMIT": "4GiB",
        **environment,
    }
    done = subprocess.run(
        ["go", *words], cwd=work, env=own, capture_output=True, text=True, check=False
    )
    if done.returncode:
        end = "\n".join((done.stderr or done.stdout).splitlines()[-10:])
        raise Failed(f"go {' '.join(words)} failed:\n{end}")
    return done.stdout
