"""Only the package of a TEE names it, so that adding a TEE means adding one package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "verdictd_py"

NAMES: Final = re.compile(
    r"(?<![a-z])(tdx|sgx|snp)(?![a-z])|td[xq]_|mr_?td\b|mr_?enclave|mr_?signer|rtmr|mr_?config_?id"
    r"|mr_?seam|mr_?owner|host_?data",
    re.IGNORECASE,
)

OWN: Final = ("tees", "simulator", "guest", "cli/guest", "_generated")
"""Packages of TEEs, and those that may name the TEE that they simulate."""

DEMO: Final = "cli/demo.py"
"""The simulator's command."""

ALLOWED: Final = {
    "config.py": "settings whose documented names have a TEE's name in them",
    "cli/daemon.py": "help texts of these settings",
    "cli/appraise.py": "the option --allow-rtmr3-mismatch",
    "cli/eventlog.py": "the same",
    "tsm.py": "the kernel's name of the device that makes the broker's own evidence",
}


def _naming() -> set[str]:
    sources = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    others = {
        name: path
        for name, path in sources.items()
        if name != DEMO and not name.startswith(tuple(f"{each}/" for each in OWN))
    }
    return {name for name, path in others.items() if NAMES.search(path.read_text("utf-8"))}


def test_only_a_tees_own_package_names_it() -> None:
    assert _naming() == set(ALLOWED)
    assert len(ALLOWED) <= 5


def test_tdx_and_sgx_do_not_name_each_other() -> None:
    for own, other in (("tdx", "sgx"), ("sgx", "tdx")):
        for path in (SOURCE / "tees" / own).rglob("*.py"):
            assert not re.search(rf"(?<![a-z]){other}(?![a-z])", path.read_text(), re.IGNORECASE)
