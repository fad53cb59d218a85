"""Unwrapping of layer keys in the guest, compared with published vectors and other AES code."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support.fake_kbs import FakeKbs, error, sealed
from tests.support.rcar_guests import connected, sample_guest
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm
from verdictd_py.errors import ConfigError, DecryptionFailed, RequestError
from verdictd_py.guest.agent import Failure, grpc_answer
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable
from verdictd_py.guest.rcar.errors import AnswerInvalid, KbsRefused, refusal
from verdictd_py.guest.rcar.session import RcarGuest
from verdictd_py.guest.rcar.unwrap import LayerKeys, path_of, unwrap_blob

KEY = bytes(range(32))
IV = bytes(12)
LAYER = b'{"symkey":"of a layer"}'
KID = "kbs:///default/key/1"

# NIST SP 800-38A, F.5.5: CTR-AES256, first block.
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_IV = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex("6bc1bee22e409f96e93d7e117393172a")
NIST_SEALED = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228")


def gcm(plaintext: bytes = LAYER, key: bytes = KEY) -> bytes:
    """Encrypt with the cipher's low-level interface and append the tag."""
    encryptor = Cipher(algorithms.AES(key), modes.GCM(IV)).encryptor()
    return encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag


class TestCiphers:
    def test_gcm(self) -> None:
        assert unwrap_blob(Algorithm.AES_GCM, SecretBytes(KEY), IV, gcm()).reveal() == LAYER

    def test_ctr(self) -> None:
        kek = SecretBytes(NIST_KEY)
        assert unwrap_blob(Algorithm.A256CTR, kek, NIST_IV, NIST_SEALED).reveal() == NIST_PLAIN

    @pytest.mark.parametrize("ciphertext", [b"", gcm()[:-1], gcm()[1:], gcm(key=os.urandom(32))])
    def test_a_changed_blob_is_refused(self, ciphertext: bytes) -> None:
        with pytest.raises(DecryptionFailed, match="cannot decrypt"):
            unwrap_blob(Algorithm.AES_GCM, SecretBytes(KEY), IV, ciphertext)

    def test_a_resource_that_is_not_a_key_is_refused(self) -> None:
        for size in (0, 16, 31, 33):
            with pytest.raises(DecryptionFailed, match="not a key"):
                unwrap_blob(Algorithm.AES_GCM, SecretBytes(bytes(size)), IV, gcm())

    def test_an_iv_of_the_other_cipher(self) -> None:
        for cipher, iv in ((Algorithm.AES_GCM, NIST_IV), (Algorithm.A256CTR, IV)):
            with pytest.raises(RequestError, match="iv is"):
                unwrap_blob(cipher, SecretBytes(KEY), iv, gcm())


def test_keys_are_found_by_their_path() -> None:
    for kid in (KID, "kbs://host/default/key/1", "/default/key/1", "default/key/1"):
        assert str(path_of(kid)) == "default/key/1"
    with pytest.raises(RequestError, match="first generation"):
        path_of("84688df7-2c0c-40fa-956b-29d8e74d16c0")


@pytest.fixture(scope="module")
def guest() -> RcarGuest:
    return sample_guest()


@pytest_asyncio.fixture
async def layers(guest: RcarGuest) -> AsyncIterator[tuple[FakeKbs, LayerKeys, LayerKeys]]:
    kbs = FakeKbs(
        {
            f"resource/default/key/{tag}": [httpx.Response(200, json=sealed(guest.tee_key, kek))]
            for tag, kek in ((1, KEY), (2, NIST_KEY))
        }
    )
    async with connected("http://127.0.0.1:1", guest, transport=kbs.transport) as session:
        yield kbs, LayerKeys(session), LayerKeys(session, allow_a256ctr=True)


class TestLayerKeys:
    async def test_the_kek_is_fetched(self, layers: tuple[FakeKbs, LayerKeys, LayerKeys]) -> None:
        kbs, strict, _ = layers
        for name in ("A256GCM", "AES"):
            layer = await strict.decrypt(kid=KID, encrypted_data=gcm(), algorithm=name, iv=IV)
            assert layer.reveal() == LAYER
        assert kbs.paths == ["resource/default/key/1"] * 2

    async def test_ctr_only_where_it_is_allowed(
        self, layers: tuple[FakeKbs, LayerKeys, LayerKeys]
    ) -> None:
        kbs, strict, lax = layers
        words: dict[str, Any] = {"encrypted_data": NIST_SEALED, "iv": NIST_IV}
        with pytest.raises(RequestError, match="--allow-a256ctr"):
            await strict.decrypt(kid="default/key/2", algorithm="A256CTR", **words)
        assert not kbs.asked
        layer = await lax.decrypt(kid="default/key/2", algorithm="A256CTR", **words)
        assert layer.reveal() == NIST_PLAIN


def refused(status: int, variant: str = "X", detail: str = "no") -> KbsRefused:
    response = error(status, variant, detail)
    return refusal("GET", status, response.content)


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (refused(401, "AttestationError", "refused: x"), "PERMISSION_DENIED"),
        (refused(401, "AttestationError", "not judged: x"), "UNAVAILABLE"),
        (refused(403, "PolicyDeny"), "PERMISSION_DENIED"),
        (refused(404), "NOT_FOUND"),
        (refused(413), "FAILED_PRECONDITION"),
        (refused(503), "UNAVAILABLE"),
        (AnswerInvalid("x"), "FAILED_PRECONDITION"),
        (BrokerUnreachable("x"), "UNAVAILABLE"),
        (BrokerRefused("refused: x"), "PERMISSION_DENIED"),
        (BrokerRefused("not judged: x"), "UNAVAILABLE"),
        (BrokerRefused("x"), "FAILED_PRECONDITION"),
        (DecryptionFailed("x"), "FAILED_PRECONDITION"),
        (RequestError("x"), "INVALID_ARGUMENT"),
        (ConfigError("x"), "FAILED_PRECONDITION"),
    ],
)
def test_the_grpc_status_depends_on_the_failure(failure: Failure, status: str) -> None:
    assert grpc_answer(failure) == (grpc.StatusCode[status], str(failure))
