"""The Helm chart, rendered by helm, and the rules of Kubernetes for what it renders."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "verdictd_py" / "deploy" / "helm" / "verdictd-py"
EXAMPLES: Final = tuple(sorted((CHART / "examples").glob("*.yaml")))
DIGEST: Final = "sha256:" + "a" * 64
MINIMAL: Final = {
    "image": {"repository": "registry.example.com/verdictd-py", "digest": DIGEST},
    "tls": {"existingSecret": "verdictd-tls"},
}
NAMESPACE: Final = "verdictd"

Object = dict[str, Any]


def require_helm() -> str:
    """Return the path of helm, or skip the test."""
    path = shutil.which("helm") or str(ROOT / ".cache" / "bin" / "helm")
    if not os.access(path, os.X_OK):
        assert not os.environ.get("REQUIRE_HELM"), "helm is missing"
        pytest.skip("helm is missing: go install helm.sh/helm/v3/cmd/helm (tools/go-tools.txt)")
    return path


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with further ones, as helm merges two values files."""
    result = dict(base)
    for name, value in more.items():
        old = result.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[name] = merged(old, value) if both and isinstance(old, dict) else value
    return result


@dataclass(frozen=True)
class Rendered:
    """Objects that the chart renders, tests included."""

    objects: tuple[Object, ...]

    def of(self, kind: str, suffix: str = "") -> list[Object]:
        """Return the objects of a kind whose name ends so."""
        return [
            one
            for one in self.objects
            if one["kind"] == kind and one["metadata"]["name"].endswith(suffix)
        ]

    def only(self, kind: str, suffix: str = "") -> Object:
        (found,) = self.of(kind, suffix)
        return found

    @property
    def broker(self) -> Object:
        """Specification of the broker's pods."""
        spec: Object = self.only("StatefulSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Object:
        found: Object = self.broker["containers"][0]
        return found

    @property
    def toml(self) -> str:
        text: str = self.only("ConfigMap", "verdictd")["data"]["config.toml"]
        return text

    @property
    def policy(self) -> Object:
        """Specification of the broker's NetworkPolicy."""
        spec: Object = self.only("NetworkPolicy", "verdictd")["spec"]
        return spec

    def pods(self) -> Iterator[Object]:
        """Yield the specification of every pod."""
        for one in self.objects:
            if one["kind"] == "Pod":
                yield one["spec"]
            if "template" in one.get("spec", {}):
                yield one["spec"]["template"]["spec"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm on the chart."""
    return subprocess.run(
        [require_helm(), *arguments, "--kube-version", "1.34.0"],
        capture_output=True,
        text=True,
        check=False,
    )


def template(values: Path) -> subprocess.CompletedProcess[str]:
    """Render the chart as release `verdictd`."""
    return run("template", "verdictd", str(CHART), "-n", NAMESPACE, "-f", str(values))


def render(values: Mapping[str, Any], place: Path) -> Rendered:
    """Render the chart with these values, and `MINIMAL`."""
    file = place / "values.yaml"
    file.write_text(yaml.safe_dump(merged(MINIMAL, values)))
    return render_file(file)


def render_file(file: Path) -> Rendered:
    """Render the chart with a values file."""
    done = template(file)
    assert done.returncode == 0, done.stderr
    return Rendered(tuple(one for one in yaml.safe_load_all(done.stdout) if one))


def violations(spec: Object) -> list[str]:
    """Return what in a pod violates the policy `restricted` of Kubernetes.

    Source: Pod Security Standards, https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    found = []
    pod = spec.get("securityContext", {})
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccompProfile")
    if pod.get("runAsNonRoot") is not True or pod.get("runAsUser") == 0:
        found.append("runAsNonRoot")
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"}
    allowed |= {"persistentVolumeClaim", "projected", "secret"}
    for volume in spec.get("volumes", ()):
        found += sorted(set(volume) - {"name"} - allowed)
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.append("capabilities")
        if own.get("privileged") or own.get("runAsUser") == 0:
            found.append("privileged")
        found += ["hostPort" for port in container.get("ports", ()) if "hostPort" in port]
    return found
