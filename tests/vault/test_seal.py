"""Provider `vault:` of `--seal`, on a real OpenBao."""

from __future__ import annotations

import asyncio
import base64
import secrets
from typing import ClassVar

import pytest

from tests.conformance.sealing import CONTEXT, DATA_KEY, KeyEncryptionKeySuite
from tests.support.vault import Engine, encoded
from tools.engines.openbao import OpenBao
from verdictd_py.errors import ConfigError
from verdictd_py.ports.sealing import KeyEncryptionKey, SealBroken, SealUnavailable
from verdictd_py.sealing.registry import open_key


class Transit(KeyEncryptionKeySuite):
    """The suite on keys of Transit; the server of this module is sealed to interrupt it."""

    settings: ClassVar[dict[str, object]] = {}

    @pytest.fixture(autouse=True)
    def _key(self, own_engine: Engine, own_server: OpenBao) -> None:
        self.engine = own_engine
        self.server = own_server
        self.name = own_engine.transit_key(**self.settings)

    async def opened(self) -> KeyEncryptionKey:
        return open_key(self.engine.location(f"transit/{self.name}"))

    async def rotate(self) -> None:
        await asyncio.to_thread(self.engine.rotate, self.name)

    async def retire(self) -> None:
        await asyncio.to_thread(self.engine.retire, self.name)

    async def interrupt(self) -> None:
        await asyncio.to_thread(self.server.seal)

    async def restore(self) -> None:
        await asyncio.to_thread(self.server.unseal)


class TestTransit(Transit):
    async def test_the_key_itself_is_used(self) -> None:
        kek = await self.opened()
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        body = {"ciphertext": f"vault:v1:{encoded(wrapped)}", "associated_data": encoded(CONTEXT)}
        answer = self.engine.call("POST", f"transit/decrypt/{self.name}", body)
        await kek.close()
        assert answer["data"]["plaintext"].startswith(encoded(DATA_KEY.reveal())[:40])

    async def test_a_context_that_the_server_ignored_is_refused(self) -> None:
        """Vault before 1.12 ignores `associated_data`: so does this ciphertext."""
        kek = await self.opened()
        body = {"plaintext": encoded(DATA_KEY.reveal() + bytes(32))}
        body["associated_data"] = encoded(CONTEXT)
        text = self.engine.call("POST", f"transit/encrypt/{self.name}", body)["data"]["ciphertext"]
        wrapped = base64.b64decode(text.removeprefix("vault:v1:"))
        with pytest.raises(SealBroken, match="for another object"):
            await kek.unwrap(f"vault:transit/{self.name}:v1", wrapped, CONTEXT)
        await kek.close()


class TestDerived(Transit):
    settings: ClassVar = {"derived": True}


class TestChaCha(Transit):
    settings: ClassVar = {"type": "chacha20-poly1305"}


async def test_a_missing_key_is_not_created(engine: Engine) -> None:
    name = f"never-{secrets.token_hex(6)}"
    kek = open_key(engine.location(f"transit/{name}"))
    with pytest.raises(SealUnavailable, match=f"vault write -f transit/keys/{name}"):
        await kek.wrap(DATA_KEY, CONTEXT)
    engine.transit_key()  # the list of no keys is no list
    assert name not in engine.call("LIST", "transit/keys")["data"]["keys"]
    await kek.close()


async def test_a_key_that_was_deleted_is_an_outage(engine: Engine) -> None:
    name = engine.transit_key()
    kek = open_key(engine.location(f"transit/{name}"))
    wrapped, version = await kek.wrap(DATA_KEY, CONTEXT), kek.current
    engine.call("POST", f"transit/keys/{name}/config", {"deletion_allowed": True})
    engine.call("DELETE", f"transit/keys/{name}")
    with pytest.raises(SealUnavailable, match="has no key"):
        await kek.unwrap(version, wrapped, CONTEXT)
    await kek.close()


@pytest.mark.parametrize("kind", ["rsa-2048", "ed25519"])
async def test_a_key_that_does_not_authenticate_is_refused(engine: Engine, kind: str) -> None:
    kek = open_key(engine.location(f"transit/{engine.transit_key(type=kind)}"))
    with pytest.raises(SealUnavailable, match="aes256-gcm96"):
        await kek.wrap(DATA_KEY, CONTEXT)
    await kek.close()


async def test_the_rights_of_the_documentation_are_enough(engine: Engine) -> None:
    name = engine.transit_key()
    policy = engine.policy(
        f"transit/keys/{name} read",
        f"transit/encrypt/{name} update",
        f"transit/decrypt/{name} update",
    )
    token = engine.file("token", engine.token(policy))
    kek = open_key(engine.location(f"transit/{name}", f"token-file={token}"))
    await kek.check()
    wrapped = await kek.wrap(DATA_KEY, CONTEXT)
    assert await kek.unwrap(kek.current, wrapped, CONTEXT) == DATA_KEY
    await kek.close()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("vault:", "write vault:https"),
        ("vault:http://vault.example:8200/transit/k?token-file=/t", "loopback"),
        ("vault:ftp://host/transit/k?token-file=/t", "write vault:https"),
        ("vault:https://user:pass@host/transit/k?token-file=/t", "remove it"),
        ("vault:https://host:8200/k?token-file=/t", "a mount and the name"),
        ("vault:https://host:8200/transit/../k?token-file=/t", "path of a mount"),
        ("vault:https://host:8200/transit/k", "name one login"),
        ("vault:https://host:8200/transit/k?token-file=/t&role-id=x", "name one login"),
        ("vault:https://host:8200/transit/k?token-file=", "is empty"),
        ("vault:https://host:8200/transit/k?token-file=t", "absolute path"),
        ("vault:https://host:8200/transit/k?role-id=x", "secret-id-file"),
        ("vault:https://host:8200/transit/k?kubernetes-role=x&secret-id-file=/x", "no effect"),
        ("vault:https://host:8200/transit/k?token-file=/t&timeout=0", "1 to 60"),
        ("vault:https://host:8200/transit/k?token-fil=/t", "did you mean"),
        ("vault:https://host:8200/transit/k?token-file=/t&ca=/none.pem", "correct ca="),
        ("vault:https://host:8200/transit/k?token-file=credential:t", "LoadCredential=t:FILE"),
    ],
)
def test_a_wrong_location_is_refused_with_the_remedy(
    location: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=words):
        open_key(location)
