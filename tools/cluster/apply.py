"""Every example of the chart, applied to a real API server as its newest and an older release."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from tools.cluster.apiserver import Cluster, running
from tools.cluster.binaries import KUBERNETES, ROOT, Programs, definitions

CHART: Final = ROOT / "verdictd_py" / "deploy" / "helm" / "verdictd-py"
KUSTOMIZE: Final = ROOT / "verdictd_py" / "deploy" / "kustomize"
NAMESPACE: Final = "verdictd"
NEWEST: Final = KUBERNETES.rpartition(".")[0]
EMULATED: Final = "1.35"
RELEASES: Final = (NEWEST, EMULATED)
LEVELS: Final = ("enforce", "warn", "audit")

Object = dict[str, Any]


def apply_all(programs: Programs, release: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each example and what a server of this release refuses or warns of in it."""
    options = [f"--emulated-version=kube={release}"] if release != NEWEST else []
    with (
        tempfile.TemporaryDirectory(prefix="verdictd-py-cluster-") as directory,
        running(programs, Path(directory), *options) as cluster,
    ):
        yield f"the server answers as {release}", _release(cluster, release)
        for file in definitions():
            cluster.must("apply", "--server-side", f"--filename={file}")
        cluster.must(
            *("wait", "--for=condition=Established", "--all", "--timeout=60s"),
            "customresourcedefinitions",
        )
        for example in sorted((CHART / "examples").glob("*.yaml")):
            text = rendered(example)
            yield example.name, _applied(cluster, text, NAMESPACE)
            yield f"{example.name}: its pods are admitted", _admitted(cluster, text, NAMESPACE)
            _delete(cluster, text)
        text = _kustomized(cluster)
        yield "kubectl apply -k", _applied(cluster, text, "verdictd-py")
        yield "kubectl apply -k: its pods are admitted", _admitted(cluster, text, "verdictd-py")
        yield from _refused(cluster)


def _release(cluster: Cluster, release: str) -> list[str]:
    found = json.loads(cluster.must("get", "--raw=/version"))
    emulated = found.get("emulationMinor") or found["minor"]
    answered = f"{found['major']}.{emulated}"
    return [] if answered == release else [f"it answers as {answered}"]


def rendered(values: Path) -> str:
    """Return the objects of the chart with these values, tests included."""
    chart = ("helm", "template", NAMESPACE, str(CHART), f"--namespace={NAMESPACE}")
    words = (*chart, f"--kube-version={KUBERNETES}", f"--values={values}")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout


def _kustomized(cluster: Cluster) -> str:
    return cluster.must("kustomize", str(KUSTOMIZE))


def _objects(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def prepare_namespaces(cluster: Cluster, objects: list[Object], default: str) -> None:
    """Make the namespaces of objects under the policy `restricted`, and what admission needs there.

    Without a controller manager nothing makes the ServiceAccount `default`.
    """
    names = {one["metadata"].get("namespace", default) for one in objects} - {None}
    for name in sorted(names):
        labels = {f"pod-security.kubernetes.io/{level}": "restricted" for level in LEVELS}
        metadata = {"name": name, "labels": labels}
        account = {"name": "default", "namespace": name}
        for made in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account},
        ):
            # By another manager than the manifests', which would otherwise take its labels away.
            words = ("apply", "--server-side", "--field-manager=preparation", "--filename=-")
            cluster.must(*words, text=json.dumps(made))


def _applied(cluster: Cluster, text: str, namespace: str) -> list[str]:
    """Apply manifests; return the refusals and warnings."""
    objects = _objects(text)
    prepare_namespaces(cluster, objects, namespace)
    return complaints(cluster.apply(text))


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines or (["failed without a message"] if done.returncode else [])


def _delete(cluster: Cluster, text: str) -> None:
    """Delete what was applied but its namespaces, which controllers would have to empty."""
    own = [one for one in _objects(text) if one["kind"] != "Namespace"]
    cluster.must("delete", "--filename=-", "--wait=false", text=yaml.safe_dump_all(own))


def pods_of(objects: list[Object], namespace: str) -> Iterator[Object]:
    """Yield each pod that the objects have or make, as an object of its own."""
    for one in objects:
        metadata = one["metadata"]
        place = metadata.get("namespace", namespace)
        if one["kind"] == "Pod":
            yield deepcopy(one)
        elif template := one.get("spec", {}).get("template"):
            pod = deepcopy(template)
            pod |= {"apiVersion": "v1", "kind": "Pod"}
            pod["metadata"] |= {"name": f"{metadata['name']}-0", "namespace": place}
            claims = one["spec"].get("volumeClaimTemplates", [])
            pod["spec"]["volumes"] += [
                {
                    "name": claim["metadata"]["name"],
                    "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]},
                }
                for claim in claims
            ]
            yield pod


def _admitted(cluster: Cluster, text: str, namespace: str) -> list[str]:
    """Have the server admit the pods themselves: a StatefulSet is never refused, only its pods."""
    pods = list(pods_of(_objects(text), namespace))
    if not pods:
        return ["there is no pod"]
    return [line for pod in pods for line in complaints(_try(cluster, pod))]


def _try(cluster: Cluster, *objects: Object) -> subprocess.CompletedProcess[str]:
    return cluster.apply(yaml.safe_dump_all(objects), "--dry-run=server", "--force-conflicts")


def _refused(cluster: Cluster) -> Iterator[tuple[str, list[str]]]:
    """Yield what the server must refuse, so that its silence above means something."""
    minimal = _objects(rendered(CHART / "examples" / "minimal.yaml"))
    (broker,) = (one for one in minimal if one["kind"] == "StatefulSet")
    misspelt = deepcopy(broker)
    misspelt["spec"]["template"]["spec"]["enableServiceLink"] = False
    yield (
        "a misspelt field is refused",
        must_name(_try(cluster, misspelt), ".spec.template.spec.enableServiceLink", refused=True),
    )
    pod = next(pods_of([broker], NAMESPACE))
    for name, change, named in (
        ("a root container", {"securityContext": {"runAsUser": 0}}, "runAsUser=0"),
        ("a privileged container", {"securityContext": {"privileged": True}}, "privileged"),
    ):
        changed = deepcopy(pod)
        changed["spec"]["containers"][0] |= change
        changed["spec"]["serviceAccountName"] = "default"
        yield f"{name} is refused", must_name(_try(cluster, changed), named, refused=True)
    warned = deepcopy(broker)
    warned["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {"runAsUser": 0}
    yield (
        "a StatefulSet of a root container is warned of",
        must_name(_try(cluster, warned), "runAsUser=0", refused=False),
    )


def must_name(done: subprocess.CompletedProcess[str], text: str, *, refused: bool) -> list[str]:
    if (done.returncode != 0) is refused and text in done.stderr:
        return []
    return [f"status {done.returncode}: {done.stderr.strip() or 'no message'}"]
