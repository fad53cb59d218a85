"""Files in the package: policies, reference data, and the guide's example key."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent
_INSTALLED: Final = _PACKAGE / "_data"
_CHECKOUT: Final = _PACKAGE.parent


def default_file(name: str) -> bytes:
    """Read `policies/<file>` or `keys/<file>` from the wheel or the checkout.

    Raises:
        FileNotFoundError: the package does not contain the file (internal error).
    """
    installed = _INSTALLED / name
    return (installed if installed.is_file() else _CHECKOUT / name).read_bytes()


def policy_text(name: str) -> str:
    """Read a packaged policy or its reference data.

    Raises:
        FileNotFoundError: the package does not contain the file (internal error).
    """
    return default_file(f"policies/{name}").decode()
