"""The chart under Kubernetes' own library of the Pod Security Standards (`tools/podsecurity`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.chart import EXAMPLES, MINIMAL, ROOT, template

POD: Final = """\
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: main
      image: registry.example.com/one
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""


def check(manifests: str) -> tuple[int, str]:
    program = shutil.which("podsecurity") or str(ROOT / ".cache" / "bin" / "podsecurity")
    if not os.access(program, os.X_OK):
        assert not os.environ.get("REQUIRE_PODSECURITY"), "podsecurity is missing"
        pytest.skip("podsecurity is missing: go -C tools/podsecurity build -o ../../.cache/bin/ .")
    done = subprocess.run((program,), input=manifests, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("example", [None, *EXAMPLES], ids=lambda path: path and path.stem)
def test_no_workload_violates_restricted(tmp_path: Path, example: Path | None) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(MINIMAL))
    rendered = template(example or values)
    assert rendered.returncode == 0, rendered.stderr
    status, output = check(rendered.stdout)
    assert status == 0, output
    assert "\n0 of " in output


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot != true"),
        ("runAsNonRoot: true", "runAsNonRoot: true, runAsUser: 0", "runAsUser=0"),
        ("drop: [ALL]", "drop: [NET_RAW]", "unrestricted capabilities"),
        ("{type: RuntimeDefault}", "{type: Unconfined}", "seccompProfile"),
        ("  containers:", "  hostNetwork: true\n  containers:", "host namespaces"),
    ],
)
def test_the_checker_finds_violations(old: str, new: str, reason: str) -> None:
    assert check(POD)[0] == 0
    status, output = check(POD.replace(old, new))
    assert status == 1
    assert reason in output


@pytest.mark.parametrize("manifests", ["", "kind: ConfigMap\napiVersion: v1\n", "{"])
def test_an_input_without_workloads_is_no_success(manifests: str) -> None:
    assert check(manifests)[0] == 2
