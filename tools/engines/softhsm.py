"""SoftHSM2: a PKCS#11 token in a private directory. It is a library; nothing runs."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tools.engines.processes import EngineError, Missing, program, remembered

LABEL: Final = "verdictd-test"
_LIBRARIES: Final = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)


class SoftHsm:
    """One token. The library reads `SOFTHSM2_CONF` when a process loads it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = program("softhsm2-util", package="softhsm2")
        present = [path for path in _LIBRARIES if Path(path).exists()]
        if not present:
            raise Missing("libsofthsm2.so is not installed: apt-get install softhsm2")
        self._library = present[0]

    def start(self) -> dict[str, str]:
        """Make the token; return its PKCS#11 URI (RFC 7512), without an object."""
        tokens = self._directory / "tokens"
        tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
        configuration = self._directory / "softhsm2.conf"
        configuration.write_text(
            f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        pin_file = self._directory / "pin"
        pin = remembered(pin_file, lambda: secrets.token_hex(8))
        if not any(tokens.iterdir()):
            self._create(configuration, pin)
        return {
            "SOFTHSM2_CONF": str(configuration),
            "ENGINES_PKCS11": (
                f"pkcs11:token={LABEL}?module-path={self._library}&pin-source=file:{pin_file}"
            ),
        }

    def stop(self) -> None:
        """Do nothing: no process runs."""

    def remove(self) -> None:
        """Remove the token."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _create(self, configuration: Path, pin: str) -> None:
        # The pins are of an empty token in a private directory; other users may read them here.
        pins = ["--pin", pin, "--so-pin", pin]
        done = subprocess.run(
            [self._program, "--init-token", "--free", "--label", LABEL, *pins],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise EngineError(f"softhsm2-util: {done.stderr.strip()}")
