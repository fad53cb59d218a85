"""Encryption and decryption with the two ciphers of packets (wire-keyprovider.md)."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm
from verdictd_py.errors import DecryptionFailed, RequestError


def encrypt(algorithm: Algorithm, key: SecretBytes, iv: bytes, plaintext: SecretBytes) -> bytes:
    """Return the ciphertext, followed by the tag if the cipher has one; no associated data."""
    if algorithm is Algorithm.A256CTR:
        return _ctr(key, iv, plaintext.reveal())
    return AESGCM(key.reveal()).encrypt(iv, plaintext.reveal(), None)


def decrypt(algorithm: Algorithm, key: SecretBytes, iv: bytes, ciphertext: bytes) -> SecretBytes:
    """Return the plaintext of a ciphertext that `encrypt` returned.

    Raises:
        RequestError: the IV has the wrong length.
        DecryptionFailed: the tag does not match, or is missing.
    """
    if len(iv) != algorithm.iv_bytes:
        raise RequestError(f"the iv is {len(iv)} bytes long, {algorithm.iv_bytes} are needed")
    if algorithm is Algorithm.A256CTR:
        return SecretBytes(_ctr(key, iv, ciphertext))
    try:
        return SecretBytes(AESGCM(key.reveal()).decrypt(iv, ciphertext, None))
    except InvalidTag:
        raise DecryptionFailed("authentication failed: wrong key, or changed data") from None


def _ctr(key: SecretBytes, iv: bytes, data: bytes) -> bytes:
    cipher = Cipher(algorithms.AES(key.reveal()), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()
