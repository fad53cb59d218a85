"""Data directories of the daemons under test, small and large, written directly."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verdictd_py.events.chain import FIRST
from verdictd_py.guest.attesters import COLLATERAL_FILE
from verdictd_py.packaged import policy_text
from verdictd_py.simulator import TdMeasurements

PLATFORM: Final = "platform"
"""Directory of the simulated platform, below that of the run."""

KID: Final = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
RESOURCE: Final = "default/benchmark/secret"
SECRET: Final = b"the secret that the guests of the benchmark request"

_KEY: Final = bytes(range(32))
_LINES_AT_ONCE: Final = 4096
_LINKS: Final = 30_000
"""Names of one file; ext4 allows 65,000."""


def make_data(
    directory: Path, *, keys: int = 1, audit_lines: int = 0, reference_values: int = 0
) -> Path:
    """Write a data directory with a key and a resource, and return its path.

    Args:
        keys: number of keys, the one that guests request included.
        audit_lines: number of lines of an audit file of an earlier daemon; 0 for no file.
        reference_values: number of values of MRTD, that of the guests included; 0 for none.
    """
    for path, content in (
        (directory / "keys" / KID, _KEY),
        (directory / "resources" / RESOURCE, SECRET),
    ):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
    directory.chmod(0o700)
    _write_keys(directory / "keys", keys - 1)
    if audit_lines:
        _write_audit(directory / "audit", audit_lines)
    if reference_values:
        (directory / "opa").mkdir(mode=0o700)
        (directory / "opa" / "tdxData").write_text(_reference(reference_values))
    return directory


def daemon_options(run: Path, data: Path) -> list[str]:
    """Return the options of a daemon with this data directory and the platform of the run."""
    platform = run / PLATFORM
    return [
        *("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--kbs-http", "127.0.0.1:0"),
        *("--verifier", "tdx", "--data-dir", str(data)),
        *("--collateral", str(platform / COLLATERAL_FILE)),
        *("--unsafe-tdx-root-ca", str(platform / "root-ca.pem")),
    ]


def _write_keys(directory: Path, number: int) -> None:
    """Write keys as links to few files: a million files take minutes to write and to remove."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for each in range(number):
            name = f"benchmark-{each:08d}"
            if each % _LINKS == 0:
                content = name
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                file = os.open(name, flags, 0o600, dir_fd=folder)
                os.write(file, _KEY)
                os.close(file)
            else:
                os.link(content, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _write_audit(directory: Path, number: int) -> None:
    directory.mkdir(mode=0o700)
    path = directory / "20260101T000000Z-00000000.jsonl"
    with path.open("wb") as file:
        path.chmod(0o600)
        lines: list[bytes] = []
        for line in audit_lines(number):
            lines.append(line)
            if len(lines) == _LINES_AT_ONCE:
                file.writelines(lines)
                lines.clear()
        file.writelines(lines)


def audit_lines(number: int) -> Iterator[bytes]:
    """Return the lines of an audit file with a valid chain (`events.chain`), all releases.

    The JSON is written by hand, because a million lines must take seconds.
    """
    fields = json.dumps(
        {
            "appraisal": "a" * 32,
            "path": f"keys/{KID}",
            "peer": "192.0.2.1:5",
            "tee": "tdx",
            "what": "key",
        },
        separators=(",", ":"),
    )
    previous = FIRST
    for each in range(number):
        body = (
            f'"event":"secret.released","fields":{fields},"number":{each},'
            f'"previous":"{previous}","time":"2026-01-01T00:00:00+00:00"}}'
        )
        connection = f'{{"connection":"{each:016x}",'
        previous = hashlib.sha256(f"{connection}{body}".encode()).hexdigest()
        yield f'{connection}"digest":"{previous}",{body}\n'.encode()


def _reference(values: int) -> str:
    """Return the default reference data with values of MRTD, of which the guests have the last."""
    document = json.loads(policy_text("tdxData"))
    others = [f"{each:096x}" for each in range(values - 1)]
    return json.dumps({**document, "mrTd": [*others, TdMeasurements().mr_td.hex()]})
