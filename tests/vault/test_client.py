"""Requests to Vault: logins, renewal and outages, on a real OpenBao and on broken servers."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.support.clock import elapse, elapse_until, until
from tests.support.secretfiles import write_secret
from tests.support.vault import Engine, answer, answering, serving
from tools.certificates import Certificates
from tools.engines.openbao import OpenBao
from verdictd_py.errors import StorageError
from verdictd_py.vault import client as vault_client
from verdictd_py.vault.client import MAX_ANSWER_BYTES, VaultClient, VaultUnavailable
from verdictd_py.vault.location import Location

SECRET: Final = "s.AVerySecretTokenOfATest"
_JSON: Final = "Content-Type: application/json\r\n"
LOOKUP: Final = {"data": {"ttl": 0, "renewable": False}}


def client_of(engine: Engine, login: str = "") -> VaultClient:
    return VaultClient(Location.parse(engine.location("secret", login), "--seal"))


def client_at(origin: str, tmp_path: Path) -> VaultClient:
    file = write_secret(tmp_path / "token", SECRET)
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


async def test_requests_that_wait_for_a_login_share_its_failure(tmp_path: Path) -> None:
    """Otherwise each would wait for a login of its own, one after the other."""
    async with answering(None) as origin:
        client = client_at(origin, tmp_path)
        now = asyncio.get_running_loop().time
        begun = now()
        requests = [asyncio.create_task(client.request("GET", "secret/data/x")) for _ in range(20)]
        await elapse_until(lambda: all(request.done() for request in requests))
        assert now() - begun < 20  # two time limits
        for request in requests:
            with pytest.raises(VaultUnavailable, match="within 10 s"):
                await request
        await client.close()
    async with answering(answer(LOOKUP), answer({"data": {}})) as origin:
        client = client_at(origin, tmp_path)  # and a later request tries again
        assert (await client.request("GET", "secret/data/x")).status == 200
        await client.close()


@pytest.mark.parametrize("ttl", [10**400, 1e308, "Infinity", -1, True, None, [], "60"])
async def test_a_life_that_is_no_life_does_not_end_the_renewal(ttl: object, tmp_path: Path) -> None:
    text = json.dumps({"data": {"ttl": "TTL", "renewable": True}})
    body = text.replace('"TTL"', "Infinity" if ttl == "Infinity" else json.dumps(ttl)).encode()
    async with answering(answer(body), answer({"data": {}})) as origin:
        client = client_at(origin, tmp_path)
        assert (await client.request("GET", "secret/data/x")).status == 200
        await client.close()


async def test_a_server_that_answers_byte_by_byte_is_an_outage(tmp_path: Path) -> None:
    """Each byte comes in time for the limit of a single read."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b" ")
            await asyncio.sleep(5)

    async with serving(serve) as port:
        client = client_at(f"http://127.0.0.1:{port}", tmp_path)
        request = asyncio.create_task(client.request("GET", "secret/data/x"))
        await elapse_until(request.done)
        with pytest.raises(VaultUnavailable, match="within 10 s"):
            await request
        await client.close()


async def test_a_login_without_a_token_is_an_outage(tmp_path: Path) -> None:
    file = write_secret(tmp_path / "secret-id", SECRET)
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
        with pytest.raises(Exception, match=r"(not one line with|has no) (a )?token"):
            await client.request("GET", "secret/data/x")
        await client.close()


@pytest.mark.parametrize("login", ["token-file=", "role-id=r&secret-id-file="])
async def test_a_login_that_other_users_may_read_is_not_used(login: str, tmp_path: Path) -> None:
    file = write_secret(tmp_path / "secret", SECRET)
    file.chmod(0o644)
    async with answering(answer(LOOKUP)) as origin:
        client = VaultClient(Location.parse(f"{origin}/secret?{login}{file}", "--seal"))
        with pytest.raises(StorageError, match="chmod g-w,o="):
            await client.request("GET", "secret/data/x")
        await client.close()


def service_account_jwt() -> str:
    """Return a JWT as the kubelet projects it; its signature is checked by the API alone."""
    claims = {
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:confidential:verdictd",
        "iat": 1_700_000_000,
        "nbf": 1_700_000_000,
        "exp": 4_000_000_000,
        "kubernetes.io": {
            "namespace": "confidential",
            "serviceaccount": {"name": "verdictd", "uid": "uid-of-a-test"},
        },
    }
    parts = (b'{"alg":"RS256","typ":"JWT"}', json.dumps(claims).encode(), b"signature")
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@asynccontextmanager
async def kubernetes_api(jwt: str, certificates: Certificates) -> AsyncIterator[str]:
    """The TokenReview API of Kubernetes, which accepts one JWT; yields its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.chain, certificates.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        review = json.loads(await reader.readexactly(length))
        user = {"username": "system:serviceaccount:confidential:verdictd", "uid": "uid-of-a-test"}
        accepted = review["spec"]["token"] == jwt
        status = {"authenticated": True, "user": user} if accepted else {"authenticated": False}
        review["status"] = status
        writer.write(answer(review, status="201 Created", headers=_JSON))
        await writer.drain()

    async with serving(serve, context) as port:
        yield f"https://127.0.0.1:{port}"


async def test_kubernetes_logs_in_with_the_jwt_of_the_pod(engine: Engine, tmp_path: Path) -> None:
    certificates = Certificates.below(tmp_path / "tls")
    jwt, mount = service_account_jwt(), f"k{secrets.token_hex(6)}"
    policy = engine.policy("secret/data/mine read")
    async with kubernetes_api(jwt, certificates) as url:
        await asyncio.to_thread(engine.call, "POST", f"sys/auth/{mount}", {"type": "kubernetes"})
        settings = {
            "kubernetes_host": url,
            "kubernetes_ca_cert": certificates.authority.read_text(),
            "token_reviewer_jwt": jwt,
            "disable_local_ca_jwt": True,
        }
        await asyncio.to_thread(engine.call, "POST", f"auth/{mount}/config", settings)
        role = {
            "bound_service_account_names": ["verdictd"],
            "bound_service_account_namespaces": ["confidential"],
            "token_policies": [policy],
        }
        await asyncio.to_thread(engine.call, "POST", f"auth/{mount}/role/broker", role)
        file = engine.file("jwt", jwt)
        file.chmod(0o644)  # as the kubelet
        client = client_of(engine, f"kubernetes-role=broker&jwt-file={file}&auth-mount={mount}")
        assert (await client.request("GET", "secret/data/mine")).status == 404
        await client.close()
        engine.file("jwt", jwt + "x")
        client = client_of(engine, f"kubernetes-role=broker&jwt-file={file}&auth-mount={mount}")
        with pytest.raises(VaultUnavailable, match=f"denies access to auth/{mount}|refuses"):
            await client.request("GET", "secret/data/mine")
        await client.close()


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 4), (None, 1)])
async def test_requests_use_a_connection_again_for_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float | None, expected: int
) -> None:
    if seconds is not None:
        monkeypatch.setattr(vault_client, "KEPT_S", seconds)
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer(LOOKUP).replace(b"Connection: close\r\n", b""))

    async with serving(handle) as port:
        client = client_at(f"http://127.0.0.1:{port}", tmp_path)
        for _ in range(3):
            await client.request("GET", "secret/data/mine")
        await client.close()
    assert connections == expected
    assert vault_client.KEPT_S > 5 or seconds is not None  # httpx's default
