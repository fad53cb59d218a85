"""Fixtures of the tests of Vault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import OpenBaoAddress, engine_in
from tests.support.vault import Engine
from tools.engines.openbao import OpenBao


@pytest.fixture
def engine(openbao: OpenBaoAddress, tmp_path: Path) -> Engine:
    """The shared OpenBao."""
    return Engine(openbao, tmp_path)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """An OpenBao of this module, to seal and to kill; each test leaves it running."""
    server = engine_in(tmp_path_factory.mktemp("openbao"), OpenBao)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def own_engine(own_server: OpenBao, tmp_path: Path) -> Engine:
    """The API of `own_server`."""
    address = OpenBaoAddress(own_server.address, own_server.authority, own_server.token_file)
    return Engine(address, tmp_path)
