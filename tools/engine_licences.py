"""Writes the licences of everything that is compiled into verdictd_py/policy/engine.wasm.

Usage: engine_licences.py FILE   (`./dev engine` does it; cargo must have fetched the crates)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
CRATE: Final = ROOT / "policy_engine"
TARGET: Final = "wasm32-unknown-unknown"
NOTICES: Final = ("LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE")
RULE: Final = "=" * 78


def _cargo(*arguments: str) -> str:
    command = ["cargo", *arguments, "--locked", "--offline"]
    return subprocess.run(command, cwd=CRATE, check=True, stdout=subprocess.PIPE, text=True).stdout


def compiled_crates() -> list[dict[str, Any]]:
    """Crates whose code is in the module: no build scripts and no procedural macros."""
    edges = "normal,no-proc-macro"
    tree = _cargo("tree", "--target", TARGET, "--edges", edges, "--prefix=none", "--format={p}")
    names = {tuple(line.split()[:2]) for line in tree.splitlines() if line}
    metadata = json.loads(_cargo("metadata", "--format-version=1", f"--filter-platform={TARGET}"))
    packages = metadata["packages"]
    found = [each for each in packages if (each["name"], f"v{each['version']}") in names]
    if len(found) != len(names):
        raise SystemExit(f"engine_licences: {len(names)} crates, but {len(found)} are known")
    return [each for each in found if each["source"] is not None]


def text(crates: list[dict[str, Any]]) -> str:
    """The list of crates with their licences, then every notice with the crates that have it."""
    toolchain = (CRATE / "rust-toolchain.toml").read_text(encoding="utf-8")
    rust = next(part for part in toolchain.split('"') if part[0].isdigit())
    lines = [
        "engine.wasm contains code of these Rust crates, under these licences:",
        "",
        f"Rust's standard library {rust}: MIT OR Apache-2.0 (https://github.com/rust-lang/rust)",
    ]
    notices: defaultdict[str, list[str]] = defaultdict(list)
    for crate in crates:
        name = f"{crate['name']} {crate['version']}"
        if not crate["license"]:
            raise SystemExit(f"engine_licences: {name} names no licence")
        lines.append(f"{name}: {crate['license']} ({crate['repository']})")
        for path in sorted(Path(crate["manifest_path"]).parent.iterdir()):
            if path.is_file() and path.name.upper().startswith(NOTICES):
                content = path.read_text(encoding="utf-8", errors="replace")
                notice = "\n".join(line.rstrip() for line in content.splitlines()).strip("\n")
                notices[notice].append(name)
    for notice, names in notices.items():
        lines += ["", RULE, ", ".join(dict.fromkeys(names)), RULE, "", notice]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    crates = sorted(compiled_crates(), key=lambda crate: (crate["name"], crate["version"]))
    Path(argv[0]).write_text(text(crates), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
