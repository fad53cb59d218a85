"""Real engines of `./dev engines up`; tests skip, with the reason, where they do not run.

`REQUIRE_ENGINES=1` makes such a skip a failure. The variables are read when this module is
imported: during a test, all variables of these programs are removed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, TypeVar

import pytest

from tools.engines.processes import Missing

_REQUIRED: Final = bool(os.environ.get("REQUIRE_ENGINES"))
_VARIABLES: Final = {name: text for name, text in os.environ.items() if name.startswith("ENGINES_")}
T = TypeVar("T")


@dataclass(frozen=True)
class OpenBaoAddress:
    """The shared OpenBao: `transit/`, `secret/` (KV version 2) and `approle/` are mounted.

    Tests use names of their own, and make an `OpenBao` of their own to seal or to kill it.
    """

    url: str
    authority: Path
    token_file: Path


def variable(name: str) -> str:
    """Return a variable of `./dev engines env`; skip the test if it is absent."""
    if name not in _VARIABLES:
        _absent(f'{name} is not set: ./dev engines up; eval "$(./dev engines env)"')
    return _VARIABLES[name]


def engine_in(directory: Path, make: Callable[[Path], T]) -> T:
    """Make an engine (a class of `tools.engines`); skip the test if it is not installed."""
    try:
        return make(directory)
    except Missing as error:
        _absent(str(error))


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """URL of the shared PostgreSQL: a superuser, who makes databases and roles for tests."""
    return variable("ENGINES_POSTGRES")


@pytest.fixture(scope="session")
def valkey_url() -> str:
    """URL of the shared Valkey or redis, without TLS. Tests use prefixes of their own."""
    return variable("ENGINES_VALKEY")


@pytest.fixture(scope="session")
def pkcs11_uri() -> str:
    """PKCS#11 URI of the shared SoftHSM2 token, with its module and its PIN, without an object."""
    return variable("ENGINES_PKCS11")


@pytest.fixture(scope="session")
def openbao() -> OpenBaoAddress:
    """The shared OpenBao."""
    return OpenBaoAddress(
        variable("ENGINES_OPENBAO"),
        Path(variable("ENGINES_OPENBAO_CA")),
        Path(variable("ENGINES_OPENBAO_TOKEN_FILE")),
    )


def _absent(reason: str) -> NoReturn:
    if _REQUIRED:
        pytest.fail(f"REQUIRE_ENGINES is set, and {reason}")
    pytest.skip(reason)
