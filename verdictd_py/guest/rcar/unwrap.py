"""Opens layer keys in the guest itself, as confidential-data-hub does: the KBS only has the KEK.

Sources: wire-keyprovider.md, "Annotation packet"; guest-components, confidential-data-hub/kms.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.domain.wrapping import Algorithm, key_named
from verdictd_py.errors import DecryptionFailed, RequestError
from verdictd_py.guest.rcar.session import RcarSession

_NO_CTR: Final = (
    "the packet says A256CTR, which does not show whether somebody changed the layer key; allow "
    "it by --allow-a256ctr"
)


class LayerKeys:
    """What opens packets with keys that a KBS releases to this guest.

    Args:
        allow_a256ctr: such packets can be changed by whoever holds the image, and those of
            A256GCM relabelled as such.
    """

    def __init__(self, session: RcarSession, *, allow_a256ctr: bool = False) -> None:
        self._session = session
        self._allow_a256ctr = allow_a256ctr

    async def decrypt(
        self, *, kid: str, encrypted_data: bytes, algorithm: str, iv: bytes
    ) -> SecretBytes:
        """The plaintext of one wrapped blob.

        1. The cipher is one that is allowed. 2. The KEK is fetched by the kid's path.
        3. It opens the blob.

        Raises:
            RequestError: the kid is no path, or the cipher is not served.
            DecryptionFailed: the KEK is of another size, or does not open it.
            ConfigError, BrokerRefused: as in `RcarSession.resource`.
        """
        cipher = Algorithm.parse(algorithm)  # 1
        if cipher is Algorithm.A256CTR and not self._allow_a256ctr:
            raise RequestError(_NO_CTR)
        return unwrapped(cipher, await self._session.resource(path_of(kid)), iv, encrypted_data)


def path_of(kid: str) -> ResourcePath:
    """Where a KBS keeps the key that a packet names.

    Raises:
        RequestError: it is no name at all, or one of the first generation.
    """
    segments = key_named(kid).segments
    if len(segments) != 3:
        raise RequestError(
            "this key's name is of the first generation, and a KBS keeps keys below "
            "<repository>/<type>/<tag>: ask by --protocol ratstls"
        )
    return ResourcePath(segments)


def unwrapped(cipher: Algorithm, kek: SecretBytes, iv: bytes, ciphertext: bytes) -> SecretBytes:
    """The plaintext of a blob: the tag of GCM at its end, no associated data.

    Raises:
        RequestError: the iv has a wrong length.
        DecryptionFailed: this is no key of AES-256, or not the one, or the blob was changed.
    """
    if len(kek) != KEY_BYTES:
        raise DecryptionFailed(f"what the KBS keeps there is no key: it is not {KEY_BYTES} bytes")
    if len(iv) != cipher.iv_bytes:
        raise RequestError(f"the packet's iv is {len(iv)} bytes long, not {cipher.iv_bytes}")
    if cipher is Algorithm.A256CTR:
        decryptor = Cipher(algorithms.AES(kek.reveal()), modes.CTR(iv)).decryptor()
        return SecretBytes(decryptor.update(ciphertext) + decryptor.finalize())
    try:
        return SecretBytes(AESGCM(kek.reveal()).decrypt(iv, ciphertext, None))
    except InvalidTag:
        raise DecryptionFailed("the packet does not open: another key, or changed data") from None
