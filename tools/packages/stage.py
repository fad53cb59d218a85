"""The files of the packages, and the configuration of nfpm."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from os import environ
from pathlib import Path
from typing import Any, Final

from tools.packages.wheels import ROOT, requirements

FILES: Final = Path(__file__).parent / "files"
DEPLOY: Final = ROOT / "verdictd_py" / "deploy"
MAINTAINER: Final = "The verdictd-py developers <verdictd-py@localhost>"
PAGES: Final = ("operations.md", "runbook.md", "air-gapped.md")
_LIB: Final = "usr/lib/verdictd-py"
_UNITS: Final = "usr/lib/systemd/system"
_DOC: Final = "usr/share/doc/verdictd-py"
_COMPLETIONS: Final = {
    "bash": "usr/share/bash-completion/completions/{}",
    "zsh": "usr/share/zsh/vendor-completions/_{}",
    "fish": "usr/share/fish/vendor_completions.d/{}.fish",
}


def stage(root: Path, wheels: list[Path], arch: str, key: Path | None, version: str) -> Path:
    """Write the tree of files below `root`, and return the configuration of nfpm next to it."""
    (root / _LIB / "wheels").mkdir(parents=True)
    for wheel in wheels:
        shutil.copy(wheel, root / _LIB / "wheels")
    _write(root / _LIB / "requirements.txt", requirements(wheels))
    _write(root / _LIB / "version", f"{version}\n")
    _copy(FILES / "setup", root / _LIB / "setup", 0o755)
    _copy(FILES / "check", root / _LIB / "check")
    _units(root)
    for program in ("verdictd-py", "verdict-py"):
        page = _output("man", program)
        _gzip(root / f"usr/share/man/man1/{program}.1.gz", page)
        for shell, path in _COMPLETIONS.items():
            _write(root / path.format(program), _output("completion", shell, program=program))
    _documents(root)
    config = root.with_name("nfpm.json")
    config.write_text(json.dumps(_nfpm(root, arch, key, version), indent=1))
    return config


def _units(root: Path) -> None:
    for unit in (*DEPLOY.glob("*.service"), *DEPLOY.glob("*.socket")):
        _copy(unit, root / _UNITS / unit.name)
    service = root / _UNITS / "verdictd-py.service"
    # The package makes the user: files can be given to it, and `doctor` runs as it.
    service.write_text(service.read_text().replace("\nDynamicUser=yes\n", "\n"))
    for name in ("verdictd-py", "verdictd-py@"):
        drop_in = root / _UNITS / f"{name}.service.d/environment.conf"
        _copy(FILES / "environment.conf", drop_in)
    environment = "verdictd-py-environment.service"
    _copy(FILES / environment, root / _UNITS / environment)
    for kind in ("sysusers", "tmpfiles"):
        _copy(DEPLOY / f"verdictd-py.{kind}", root / f"usr/lib/{kind}.d/verdictd-py.conf")


def _documents(root: Path) -> None:
    for name in PAGES:
        _copy(ROOT / "docs" / name, root / _DOC / name)
    for name in ("NOTICE", "sbom.cdx.json"):
        _copy(ROOT / name, root / _DOC / name)
    _copy(FILES / "copyright", root / _DOC / "copyright")
    _copy(FILES / "lintian-overrides", root / "usr/share/lintian/overrides/verdictd-py")
    for name in ("verdictd-py.air-gapped.conf", "verdictd-py.container", "verdictd-py.volume"):
        _copy(DEPLOY / name, root / _DOC / "examples" / name)
    for directory in ("prometheus", "grafana"):
        for source in (DEPLOY / directory).iterdir():
            _copy(source, root / _DOC / "examples" / source.name)
    _gzip(root / _DOC / "CHANGELOG.md.gz", (ROOT / "CHANGELOG.md").read_text())


def _nfpm(root: Path, arch: str, key: Path | None, version: str) -> dict[str, Any]:
    scripts = {
        "postinstall": "postinstall",
        "preremove": "preremove",
        "postremove": "postremove",
    }
    contents: list[dict[str, Any]] = [
        {"src": f"/{_LIB}/environment/bin/{name}", "dst": f"/usr/bin/{name}", "type": "symlink"}
        for name in ("verdictd-py", "verdict-py")
    ]
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        target = f"/{file.relative_to(root)}"
        entry: dict[str, Any] = {"src": str(file), "dst": target}
        entry["file_info"] = {"mode": file.stat().st_mode & 0o777, "owner": "root", "group": "root"}
        if target.startswith(("/usr/share/doc/", "/usr/share/man/")):
            # Only rpm knows this type; nfpm would omit the file from a deb.
            contents.append({**entry, "type": "doc", "packager": "rpm"})
            entry["packager"] = "deb"
        contents.append(entry)
    pythons = "python3 (>= 3.11)"
    signing = {} if key is None else {"signature": {"key_file": str(key)}}
    return {
        "name": "verdictd-py",
        "arch": arch,
        "platform": "linux",
        "version": version,
        "version_schema": "semver",
        "release": "1",
        "section": "net",
        "priority": "optional",
        "maintainer": MAINTAINER,
        "description": "Key broker for confidential containers\n"
        "It releases secrets only to workloads that hardware evidence proves:\n"
        "guests of Intel TDX and SGX attest to it, over RATS-TLS and HTTP. The\n"
        "package carries all libraries.",
        "license": "Apache-2.0",
        "vendor": "The verdictd-py developers",
        "homepage": "https://example.com/verdictd-py",
        "mtime": datetime.fromtimestamp(int(environ["SOURCE_DATE_EPOCH"]), UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
        "changelog": str(_changelog(root, version)),
        "contents": contents,
        "scripts": {name: str(FILES / file) for name, file in scripts.items()},
        "overrides": {
            "deb": {"depends": [pythons, "libc6 (>= 2.28)", "libgcc-s1", "libstdc++6"]},
            "rpm": {
                "depends": [
                    "glibc >= 2.28",
                    "libgcc_s.so.1()(64bit)",
                    "libstdc++.so.6()(64bit)",
                    "(python3 >= 3.11 or python3.11 or python3.12)",
                ]
            },
        },
        "deb": {
            "compression": "gzip",
            # Another Python of the system needs another environment.
            "triggers": {"interest_noawait": ["/usr/bin/python3"]},
            **signing,
        },
        "rpm": {"compression": "gzip", "group": "System Environment/Daemons", **signing},
    }


def _changelog(root: Path, version: str) -> Path:
    """Write the changelog of the packages in the form of nfpm, and return its path."""
    time = datetime.fromtimestamp(int(environ["SOURCE_DATE_EPOCH"]), UTC)
    change = {"note": "See CHANGELOG.md."}
    entry = {
        "semver": version,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "packager": MAINTAINER,
        "deb": {"urgency": "medium", "distributions": ["unstable"]},
        "changes": [change],
    }
    file = root.with_name("changelog.yaml")
    file.write_text(json.dumps([entry]))
    return file


def _output(command: str, argument: str, *, program: str = "verdictd-py") -> str:
    done = subprocess.run(
        [str(Path(sys.executable).with_name(program)), command, argument],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def _copy(source: Path, target: Path, mode: int = 0o644) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(0o644)


def _gzip(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    target.chmod(0o644)
