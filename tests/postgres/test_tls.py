"""The server of the database is verified: its certificate authority, and its name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
import trustme

from tests.support import postgres
from tests.support.postgres import TestDatabase
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Database, DatabaseUnavailable


@pytest_asyncio.fixture
async def database() -> TestDatabase:
    found = await postgres.empty_database()
    if found.unsafe_tls or "sslrootcert" not in found.url:
        pytest.skip("the PostgreSQL of the tests has no TLS with an authority of its own")
    return found


def url(database: TestDatabase, *, host: str = "127.0.0.1", authority: Path | None = None) -> str:
    """Return the URL of the real server, under another name or with another authority."""
    parts = urlsplit(database.url)
    trusted = authority or parse_qs(parts.query)["sslrootcert"][0]
    query = f"sslmode=verify-full&sslrootcert={trusted}&hostaddr=127.0.0.1"
    return f"postgresql://{parts.username}@{host}:{parts.port}{parts.path}?{query}"


async def problem_of(address: str, database: TestDatabase) -> str:
    """Return why the server was refused; empty if it was not."""
    opened = Database(Address.parse(address, password_file=database.password_file))
    try:
        await (await opened.connect()).close()
    except DatabaseUnavailable:
        return opened.problem
    finally:
        await opened.close()
    return ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_server_is_accepted_under_the_names_of_its_certificate(
    database: TestDatabase, host: str
) -> None:
    assert not await problem_of(url(database, host=host), database)


async def test_a_server_of_another_authority_is_refused(
    database: TestDatabase, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    assert "certificate verify failed" in await problem_of(url(database, authority=other), database)


async def test_a_server_of_another_name_is_refused(database: TestDatabase) -> None:
    problem = await problem_of(url(database, host="db.example"), database)
    assert 'does not match host name "db.example"' in problem


async def test_environment_variables_do_not_weaken_the_verification(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGGSSENCMODE", "require")
    assert "does not match" in await problem_of(url(database, host="db.example"), database)


async def test_a_server_that_refuses_tls_gets_no_password(
    database: TestDatabase, tmp_path: Path
) -> None:
    """An attacker in the network answers that the server has no TLS (PostgreSQL 15, 55.2.10)."""
    received: list[bytes] = []
    ended = asyncio.Event()

    async def stripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(8))
        writer.write(b"N")
        received.append(await reader.read())
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(stripping, "127.0.0.1", 0)
    authority = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(authority)
    port = server.sockets[0].getsockname()[1]
    async with server:
        address = f"postgresql://broker@127.0.0.1:{port}/site?sslrootcert={authority}"
        assert "SSL" in await problem_of(address, database)
        await ended.wait()
    assert received[0].endswith(bytes.fromhex("04d2162f"))  # SSLRequest
    assert b"".join(received[1:]) == b""
