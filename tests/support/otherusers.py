"""A Python that other users can run, for tests that become one of them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from contextlib import suppress

import pytest

from tests.support.command import environment


def with_libraries() -> dict[str, str]:
    """Return an environment in which a Python of the same release has the libraries of this one."""
    variables = environment()
    libraries = (variables["PYTHONPATH"], sysconfig.get_path("purelib"))
    return {**variables, "PYTHONPATH": os.pathsep.join(libraries)}


def python_of_every_user() -> str:
    """Return a Python of the release of this one that other users can run: this one, or a system's.

    The Python of an environment can be below a home directory that only its owner can enter.
    """
    release = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{release}", f"/usr/local/bin/{release}"):
        probe = (python, "-c", "import email.parser, OpenSSL, verdictd_py")
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                probe,
                check=True,
                stderr=subprocess.DEVNULL,
                env=with_libraries(),
                user=65_534,
                group=65_534,
                extra_groups=[],
            )
            return python
    pytest.skip("no Python of this release, or not this checkout, can be read by other users")
