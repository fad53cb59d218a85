"""What is shipped: the defaults and the stubs, and never a secret of whoever builds it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE_KEY = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
SECRETS = (  # a checkout can serve as a data directory (keys/README.md)
    "keys/my-key",
    "keys/default/key/1",
    "image/auth.json",
    "gpg/keyring.gpg",
    "opa/tdxData",
    "resources/default/secret/1",
    "audit/20260101T000000Z-00000000.jsonl",
    "client-api.sock",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """Names in the source distribution and in the wheel, built where secrets lie about."""
    base = tmp_path_factory.mktemp("packages")
    checkout = base / "checkout"
    not_ours = shutil.ignore_patterns(
        ".git", "*.sock", ".venv", ".cache", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, checkout, ignore=not_ours)
    for name in SECRETS:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"secret")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(base / "dist")]
    made = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    (source,) = (base / "dist").glob("*.tar.gz")
    (wheel,) = (base / "dist").glob("*.whl")
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    return in_source, in_wheel


def test_the_wheel_has_defaults_stubs_and_types(packages: tuple[set[str], set[str]]) -> None:
    _, wheel = packages
    policies = {
        f"policies/{tee}{kind}" for tee in ("tdx", "sgx") for kind in ("Policy.rego", "Data")
    }
    assert {f"verdictd_py/_data/{name}" for name in policies} <= wheel
    assert any(name.endswith(".dist-info/sboms/sbom.cdx.json") for name in wheel)
    stubs = {"keyprovider_pb2", "keyprovider_pb2_grpc", "clientapi_pb2", "clientapi_pb2_grpc"}
    assert {
        f"verdictd_py/_generated/{name}.{end}" for name in stubs for end in ("py", "pyi")
    } <= wheel
    assert {"verdictd_py/py.typed", "verdictd_py/policy/engine.wasm"} <= wheel


def test_the_wheel_has_the_licences_of_what_the_engine_contains(
    packages: tuple[set[str], set[str]],
) -> None:
    """`./dev engine check` compares the file with what cargo says."""
    _, wheel = packages
    assert "verdictd_py/policy/engine.licences.txt" in wheel
    shipped = {name.partition(".dist-info/")[2] for name in wheel}
    assert {"licenses/LICENSE", "licenses/verdictd_py/policy/engine.licences.txt"} <= shipped


def test_the_source_distribution_can_build_again(packages: tuple[set[str], set[str]]) -> None:
    source, _ = packages
    needed = {"pyproject.toml", "requirements-dev.lock", "requirements.lock", "dev", "LICENSE"}
    assert (
        needed
        | {
            "policies/tdxPolicy.rego",
            f"keys/{EXAMPLE_KEY}",
            "protos/keyprovider.proto",
            "verdictd_py/policy/engine.wasm",
            "policy_engine/Cargo.lock",
            "policy_engine/src/lib.rs",
            "policy_engine/build.sh",
        }
        <= source
    )


def test_no_secret_of_the_builder_is_shipped(packages: tuple[set[str], set[str]]) -> None:
    source, wheel = packages
    assert not source & set(SECRETS)
    assert {name for name in source if name.startswith("keys/")} == {
        f"keys/{EXAMPLE_KEY}",
        "keys/README.md",
    }
    assert {name for name in wheel if "/keys/" in name} == {
        f"verdictd_py/_data/keys/{EXAMPLE_KEY}",
        "verdictd_py/_data/keys/README.md",
    }
    roots = {"verdictd_py", next(name for name in wheel if ".dist-info/" in name).split("/")[0]}
    assert {name.split("/")[0] for name in wheel} == roots


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^ ;\\]+)", (ROOT / name).read_text(), re.MULTILINE))


def test_the_container_gets_the_versions_that_were_tested() -> None:
    tested, shipped = _pins("requirements-dev.lock"), _pins("requirements.lock")
    assert shipped.items() <= tested.items()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = {re.split(r"[<>=~\[; ]", entry)[0] for entry in project["project"]["dependencies"]}
    assert declared <= shipped.keys()
    developers = {
        re.split(r"[<>=~\[; ]", entry)[0] for entry in project["dependency-groups"]["dev"]
    }
    assert developers <= tested.keys()
