"""Encryption of released resources to the key that the guest's evidence covers.

The format is RFC 7516, flattened JSON, without `aad`. It is written with the primitives of
`cryptography`, because guests serialise the parsed header again to rebuild the authenticated
data. The members must therefore be in the guests' order, which no JOSE library promises
(docs/adr/0007). The oldest guests (0.1.1) expect a format that deviates from RFC 7516.

Source: wire-rcar.md, "Versions" and "Resources"; RFC 7518, 4.4 and 4.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.encoding import JsonValue, encode_base64url, encode_object
from verdictd_py.protocols.rcar.teekey import KeyAlgorithm, TeeKey
from verdictd_py.protocols.rcar.versions import Version

ENCRYPTION: Final = "A256GCM"
_IV_BYTES, _TAG_BYTES = 12, 16


def encrypt(
    content: SecretBytes, key: TeeKey, version: Version, *, random: Callable[[int], bytes]
) -> bytes:
    """Return the content encrypted to a guest's key, as JSON.

    1. Draw a content key for this answer. 2. Encrypt it to the guest's key. 3. Write the
    header: both algorithms, then the ephemeral key. 4. Encrypt the content with AES-256-GCM,
    with the encoded header as authenticated data. The oldest guests authenticate no header;
    they expect it unencoded, and the tag at the end of the ciphertext.
    """
    content_key = random(KEY_BYTES)  # 1
    encrypted_key, ephemeral = _encrypt_key(content_key, key)  # 2
    header: dict[str, JsonValue] = {"alg": key.algorithm.value, "enc": ENCRYPTION}  # 3
    if ephemeral is not None:
        header["epk"] = ephemeral
    text = encode_object(header)
    oldest = version is Version.V0_1_1
    protected = text.decode() if oldest else encode_base64url(text)
    iv = random(_IV_BYTES)
    sealed = AESGCM(content_key).encrypt(  # 4
        iv, content.reveal(), None if oldest else protected.encode()
    )
    end = len(sealed) if oldest else len(sealed) - _TAG_BYTES
    return encode_object(
        {
            "protected": protected,
            "encrypted_key": encode_base64url(encrypted_key),
            "iv": encode_base64url(iv),
            "ciphertext": encode_base64url(sealed[:end]),
            "tag": encode_base64url(sealed[end:]),
        }
    )


def _encrypt_key(content_key: bytes, key: TeeKey) -> tuple[bytes, dict[str, JsonValue] | None]:
    """Return the encrypted content key, and the ephemeral public key for an EC key."""
    public = key.public
    if isinstance(public, rsa.RSAPublicKey):
        if key.algorithm is KeyAlgorithm.RSA1_5:
            return public.encrypt(content_key, padding.PKCS1v15()), None
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label=None)
        return public.encrypt(content_key, oaep), None
    ephemeral = ec.generate_private_key(public.curve)
    shared = ephemeral.exchange(ec.ECDH(), public)
    wrapping = ConcatKDFHash(hashes.SHA256(), KEY_BYTES, _OTHER_INFO).derive(shared)
    # SEC 1, 2.3.3: a byte 4 and both coordinates in full size.
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    size = len(point) // 2
    return keywrap.aes_key_wrap(wrapping, content_key), {
        "crv": key.jwk["crv"],
        "kty": "EC",
        "x": encode_base64url(point[1 : 1 + size]),
        "y": encode_base64url(point[1 + size :]),
    }


def _other_info(algorithm: KeyAlgorithm) -> bytes:
    """Return OtherInfo (RFC 7518, 4.6.2): AlgorithmID, empty party infos, bits of the key."""
    name = algorithm.value.encode()
    return len(name).to_bytes(4) + name + bytes(4) + bytes(4) + (8 * KEY_BYTES).to_bytes(4)


_OTHER_INFO: Final = _other_info(KeyAlgorithm.ECDH_ES)
"""OtherInfo of every EC key: it has one algorithm."""
