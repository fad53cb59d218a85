"""Programs nobody here wrote, found or skipped with a reason; required where CI has them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[2] / ".cache" / "bin"


@dataclass(frozen=True)
class ImageCopier:
    """A program that copies images and speaks to key providers with ocicrypt."""

    name: str
    program: Path

    def copy(self, source: Path, destination: Path, *options: str) -> list[str]:
        """Command line of one copy between OCI layouts."""
        prefix = ["--insecure-policy", "copy"] if self.name == "skopeo" else []
        return [str(self.program), *prefix, *options, f"oci:{source}", f"oci:{destination}"]

    def transfer(
        self,
        source: str,
        destination: str,
        *options: str,
        policy: Path | None = None,
        signatures: Path | None = None,
    ) -> list[str]:
        """Command line of one copy from or to a registry without TLS.

        Args:
            policy: an image policy; None accepts everything.
            signatures: directory of configuration that says where signatures are.
        """
        if self.name == "skopeo":
            start = ["--insecure-policy"] if policy is None else [f"--policy={policy}"]
            start += [] if signatures is None else [f"--registries.d={signatures}"]
            start += ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        else:
            start = ["-tls-verify=false"]
            start += [] if policy is None else [f"-policy={policy}"]
            start += [] if signatures is None else [f"-registries.d={signatures}"]
        return [str(self.program), *start, *options, source, destination]


async def run_copier(
    command: list[str], config: Path, provider: dict[str, object]
) -> tuple[int, str]:
    """Runs a copy with that key provider for `attestation-agent`; status and what it printed."""
    config.write_text(json.dumps({"key-providers": {"attestation-agent": provider}}))
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, "OCICRYPT_KEYPROVIDER_CONFIG": str(config)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


def program(name: str) -> Path:
    """Any other program, by name; `REQUIRE_<NAME>=1` makes one that is missing a failure."""
    found = shutil.which(name, path=f"{CACHE}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is not None:
        return Path(found)
    reason = f"{name} is not installed"
    if os.environ.get(f"REQUIRE_{name.upper().replace('-', '_')}"):
        pytest.fail(f"{reason}, and is required here")
    pytest.skip(reason)


def image_copier(name: str) -> ImageCopier:
    """`skopeo` or `ocicopy` (tools/ocicopy), from where CI builds it or from PATH.

    `REQUIRE_SKOPEO=1` and `REQUIRE_OCICOPY=1` make one that is missing or too old a failure.
    """
    found = shutil.which(name, path=f"{CACHE}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        reason = f"{name} is not installed"
    elif not _knows_key_providers(copier := ImageCopier(name, Path(found))):
        reason = f"{found} is built without key providers"
    else:
        return copier
    if os.environ.get(f"REQUIRE_{name.upper()}"):
        pytest.fail(f"{reason}, and is required here")
    pytest.skip(reason)


@cache
def _knows_key_providers(copier: ImageCopier) -> bool:
    """Debian 12's skopeo does not: it says so, by this text, before it looks for the image."""
    with tempfile.TemporaryDirectory() as empty:
        command = copier.copy(Path(empty), Path(empty) / "x", "--encryption-key", "provider:any:")
        asked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return "protocol not recognized" not in asked.stderr
