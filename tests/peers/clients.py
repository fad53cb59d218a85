"""Programs nobody here wrote, found or skipped with a reason; required where CI has them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
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


def image_copier(name: str) -> ImageCopier:
    """`skopeo` or `ocicopy` (tools/ocicopy), from PATH or from where CI builds it.

    `REQUIRE_SKOPEO=1` and `REQUIRE_OCICOPY=1` make a missing one a failure.
    """
    found = shutil.which(name, path=f"{CACHE}{os.pathsep}{os.environ.get('PATH', '')}")
    if found:
        return ImageCopier(name, Path(found))
    if os.environ.get(f"REQUIRE_{name.upper()}"):
        pytest.fail(f"{name} is required here and is not on PATH")
    pytest.skip(f"{name} is not installed")
