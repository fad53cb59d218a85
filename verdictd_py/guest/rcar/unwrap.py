"""Unwrapping of layer keys in the guest, as in confidential-data-hub: the KBS has only the KEK.

Sources: wire-keyprovider.md, "Annotation packet"; guest-components, confidential-data-hub/kms.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.domain.wrapping import Algorithm, parse_key_name
from verdictd_py.errors import DecryptionFailed, RequestError
from verdictd_py.guest.rcar.session import RcarSession

_NO_CTR: Final = (
    "the packet uses A256CTR, which does not detect changes of the layer key; allow it with "
    "--allow-a256ctr"
)


class LayerKeys:
    """Unwrapper of layer keys with keys that a KBS releases to this guest.

    Args:
        allow_a256ctr: accept packets that an attacker with access to the image can change,
            including packets of A256GCM that are relabelled.
    """

    def __init__(self, session: RcarSession, *, allow_a256ctr: bool = False) -> None:
        self._session = session
        self._allow_a256ctr = allow_a256ctr

    async def decrypt(
        self, *, kid: str, encrypted_data: bytes, algorithm: str, iv: bytes
    ) -> SecretBytes:
        """Return the plaintext of one wrapped blob.

        1. The cipher is allowed. 2. The KEK is fetched by the kid's path.
        3. The KEK decrypts the blob.

        Raises:
            RequestError: the kid is not a path, or the cipher is not supported.
            DecryptionFailed: the KEK has another size, or does not decrypt the blob.
            ConfigError, BrokerRefused: as in `RcarSession.resource`.
        """
        cipher = Algorithm.parse(algorithm)  # 1
        if cipher is Algorithm.A256CTR and not self._allow_a256ctr:
            raise RequestError(_NO_CTR)
        return unwrap_blob(cipher, await self._session.resource(path_of(kid)), iv, encrypted_data)


def path_of(kid: str) -> ResourcePath:
    """Return the path in a KBS of the key that a packet names.

    Raises:
        RequestError: not the name of a key, or a name of the first generation.
    """
    segments = parse_key_name(kid).segments
    if len(segments) != 3:
        raise RequestError(
            "this key's name is of the first generation, and a KBS stores keys under "
            "<repository>/<type>/<tag>: use --protocol ratstls"
        )
    return ResourcePath(segments)


def unwrap_blob(cipher: Algorithm, kek: SecretBytes, iv: bytes, ciphertext: bytes) -> SecretBytes:
    """Decrypt a blob, which ends with the GCM tag and has no associated data.

    Raises:
        RequestError: the iv has a wrong length.
        DecryptionFailed: not an AES-256 key, or another key, or the blob was changed.
    """
    if len(kek) != KEY_BYTES:
        raise DecryptionFailed(
            f"the KBS's resource is not a key: it does not have {KEY_BYTES} bytes"
        )
    if len(iv) != cipher.iv_bytes:
        raise RequestError(f"the packet's iv is {len(iv)} bytes long, not {cipher.iv_bytes}")
    if cipher is Algorithm.A256CTR:
        decryptor = Cipher(algorithms.AES(kek.reveal()), modes.CTR(iv)).decryptor()
        return SecretBytes(decryptor.update(ciphertext) + decryptor.finalize())
    try:
        return SecretBytes(AESGCM(kek.reveal()).decrypt(iv, ciphertext, None))
    except InvalidTag:
        raise DecryptionFailed("cannot decrypt the packet: another key, or changed data") from None
