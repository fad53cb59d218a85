"""The policies in `examples/` decide as the names of their claims files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from verdictd_py.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
POLICIES = sorted(EXAMPLES.glob("*/*.rego"))
CLAIMS = [(policy, claims) for policy in POLICIES for claims in policy.parent.glob("claims/*.json")]
ACCEPTED = ("accepted", "released")


def name(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def run(policy: Path, *args: str) -> int:
    data = policy.with_name("data.json")
    return main(["policy", "test", str(policy), *args, "--data", str(data), "--tee", "tdx"])


@pytest.mark.parametrize("policy", POLICIES, ids=name)
def test_every_rule_is_decided(policy: Path) -> None:
    assert run(policy, "--coverage", str(policy.parent / "claims")) == 0


@pytest.mark.parametrize(("policy", "claims"), CLAIMS, ids=name)
def test_each_guest_is_decided_as_named(policy: Path, claims: Path) -> None:
    accepted = claims.stem.startswith(ACCEPTED)
    assert run(policy, str(claims)) == (0 if accepted else 1)


def test_each_folder_has_a_guest_of_either_verdict() -> None:
    for policy in POLICIES:
        named = [claims.stem for claims in policy.parent.glob("claims/*.json")]
        assert any(stem.startswith(ACCEPTED) for stem in named), policy
        assert any(not stem.startswith(ACCEPTED) for stem in named), policy
