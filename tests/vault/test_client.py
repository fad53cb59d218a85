"""Requests to Vault: logins, renewal and outages, on a real OpenBao and on broken servers."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.support.clock import elapse, elapse_until, until
from tests.support.vault import Engine, answer, answering
from tools.engines.openbao import OpenBao
from verdictd_py.vault.client import MAX_ANSWER_BYTES, VaultClient, VaultUnavailable
from verdictd_py.vault.location import Location

SECRET: Final = "s.AVerySecretTokenOfATest"
LOOKUP: Final = {"data": {"ttl": 0, "renewable": False}}


def client_of(engine: Engine, login: str = "") -> VaultClient:
    return VaultClient(Location.parse(engine.location("secret", login), "--seal"))


def client_at(origin: str, tmp_path: Path) -> VaultClient:
    file = tmp_path / "token"
    file.write_text(SECRET)
    return VaultClient(Location.parse(f"{origin}/secret?token-file={file}&timeout=10", "--seal"))


async def token_of(client: VaultClient) -> str:
    """Return the id of the token that the client uses."""
    return str((await client.request("GET", "auth/token/lookup-self")).data["id"])


async def test_a_denied_path_is_named(engine: Engine) -> None:
    token = engine.file("token", engine.token(engine.policy("secret/data/mine read")))
    client = client_of(engine, f"token-file={token}")
    with pytest.raises(VaultUnavailable, match="denies access to secret/data/other"):
        await client.request("GET", "secret/data/other")
    assert (await client.request("GET", "secret/data/mine")).status == 404
    await client.close()


async def test_app_role_logs_in_again_when_its_token_is_revoked(engine: Engine) -> None:
    role, secret = engine.app_role(engine.policy("secret/data/mine read"))
    client = client_of(engine, f"role-id={role}&secret-id-file={secret}")
    first = await token_of(client)
    await asyncio.to_thread(engine.call, "POST", "auth/token/revoke", {"token": first})
    assert (await client.request("GET", "secret/data/mine")).status == 404
    assert await token_of(client) != first
    await client.close()


async def test_denials_do_not_cause_a_login_each(engine: Engine) -> None:
    role, secret = engine.app_role(engine.policy("secret/data/mine read"))
    client = client_of(engine, f"role-id={role}&secret-id-file={secret}")
    tokens = set()
    for _ in range(5):
        with pytest.raises(VaultUnavailable):
            await client.request("GET", "secret/data/other")
        tokens.add(await token_of(client))
    assert len(tokens) == 1
    await client.close()


async def test_a_wrong_secret_id_is_reported_without_it(engine: Engine) -> None:
    role, _ = engine.app_role(engine.policy("secret/data/mine read"))
    wrong = engine.file("wrong", SECRET)
    client = client_of(engine, f"role-id={role}&secret-id-file={wrong}")
    with pytest.raises(VaultUnavailable, match="refuses the login at auth/approle/login") as error:
        await client.request("GET", "secret/data/mine")
    assert SECRET not in str(error.value)
    await client.close()


async def test_a_token_is_renewed_before_it_expires(engine: Engine) -> None:
    role, secret = engine.app_role(
        engine.policy("secret/data/mine read"), token_ttl="60m", token_max_ttl="24h"
    )
    client = client_of(engine, f"role-id={role}&secret-id-file={secret}")
    lookup = "auth/token/lookup-self"
    before = (await client.request("GET", lookup)).data
    token = client._token
    await elapse(2500)  # two thirds of an hour are 2400 s
    await until(lambda: client._token is not token)
    after = (await client.request("GET", lookup)).data
    assert after["id"] == before["id"]
    assert "last_renewal_time" in after
    assert "last_renewal_time" not in before
    await client.close()


async def test_a_token_that_cannot_be_renewed_is_replaced(engine: Engine) -> None:
    role, secret = engine.app_role(
        engine.policy("secret/data/mine read"), token_type="batch", token_ttl="60m"
    )
    client = client_of(engine, f"role-id={role}&secret-id-file={secret}")
    first = await token_of(client)
    token = client._token
    await elapse(2500)
    await until(lambda: client._token is not token)
    assert await token_of(client) != first
    await client.close()


async def test_an_expired_token_of_a_file_is_read_again(engine: Engine) -> None:
    policy = engine.policy("secret/data/mine read")
    first, second = engine.token(policy), engine.token(policy)
    file = engine.file("token", first)
    client = client_of(engine, f"token-file={file}")
    assert await token_of(client) == first
    await asyncio.to_thread(engine.call, "POST", "auth/token/revoke", {"token": first})
    engine.file("token", second)
    assert await token_of(client) == second
    await client.close()


async def test_a_killed_server_is_an_outage_and_then_used_again(
    own_engine: Engine, own_server: OpenBao
) -> None:
    client = client_of(own_engine)
    assert (await client.request("GET", "secret/data/none")).status == 404
    await asyncio.to_thread(own_server.stop, signal.SIGKILL)
    with pytest.raises(VaultUnavailable, match=r"does not answer: connection (refused|reset)"):
        await client.request("GET", "secret/data/none")
    await asyncio.to_thread(own_server.start_sealed)
    with pytest.raises(VaultUnavailable, match="sealed"):
        await client.request("GET", "secret/data/none")
    await asyncio.to_thread(own_server.unseal)
    assert (await client.request("GET", "secret/data/none")).status == 404
    await client.close()


async def test_a_certificate_of_another_authority_is_refused(
    engine: Engine, own_engine: Engine
) -> None:
    text = engine.location("secret").replace(
        str(engine.address.authority), str(own_engine.address.authority)
    )
    client = VaultClient(Location.parse(text, "--seal"))
    with pytest.raises(VaultUnavailable, match=r"not trusted .* check ca="):
        await client.request("GET", "secret/data/none")
    await client.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (answer(b"<html>"), "not a JSON object"),
        (answer([]), "not a JSON object"),
        (answer(b"[" * 100_000), "not a JSON object"),
        (answer({}, status="302 Found", headers="Location: http://evil/\r\n"), "redirects"),
        (answer({}, status="500 Oops"), "status 500"),
        (answer({}, status="503 Sealed"), "sealed"),
        (answer(b"x", headers="Content-Encoding: gzip\r\n"), "compressed"),
        (answer(bytes(MAX_ANSWER_BYTES + 1)), "more than"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", "does not answer"),
        (b"", "does not answer"),
    ],
)
async def test_a_broken_answer_is_an_outage(content: bytes, words: str, tmp_path: Path) -> None:
    async with answering(answer(LOOKUP), content) as origin:
        client = client_at(origin, tmp_path)
        with pytest.raises(VaultUnavailable, match=words) as error:
            await client.request("GET", "secret/data/x")
        assert SECRET not in str(error.value)
        await client.close()


async def test_a_server_that_never_answers_is_an_outage(tmp_path: Path) -> None:
    async with answering(answer(LOOKUP), None) as origin:
        client = client_at(origin, tmp_path)
        request = asyncio.create_task(client.request("GET", "secret/data/x"))
        await elapse_until(request.done)
        with pytest.raises(VaultUnavailable, match="within 10 s"):
            await request
        await client.close()


async def test_a_login_without_a_token_is_an_outage(tmp_path: Path) -> None:
    file = tmp_path / "secret-id"
    file.write_text(SECRET)
    for auth in (None, {}, {"client_token": 7}, {"client_token": "a\r\nb"}):
        async with answering(answer({"auth": auth})) as origin:
            text = f"{origin}/secret?role-id=r&secret-id-file={file}"
            client = VaultClient(Location.parse(text, "--seal"))
            with pytest.raises(VaultUnavailable, match="has no token"):
                await client.request("GET", "secret/data/x")
            await client.close()


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "\x00", "é", "x" * 20_000])
async def test_a_file_without_a_token_is_reported(content: str, tmp_path: Path) -> None:
    async with answering(answer(LOOKUP)) as origin:
        client = client_at(origin, tmp_path)
        (tmp_path / "token").write_text(content)
        with pytest.raises(Exception, match="not one line with a token"):
            await client.request("GET", "secret/data/x")
        await client.close()
