"""Decryption of a KBS's encrypted answer, as guests do it.

Guests parse the protected header and serialise it again for the associated data, so the
answer of a KBS that serialises it differently is refused here. Sources: wire-rcar.md,
"Resources" and "Versions"; RFC 7516, 5.2; kbs-types, `ProtectedHeader::generate_aad`.
"""

from __future__ import annotations

import json
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.guest.rcar.errors import (
    AnswerInvalid,
    from_base64url,
    read_object,
    text_of,
    to_base64url,
)
from verdictd_py.guest.rcar.keys import TeeKey
from verdictd_py.guest.rcar.messages import JsonObject, Version

_WHAT: Final = "the encrypted answer"
_HEADER: Final = "the answer's header"
_IV_BYTES: Final = 12
_TAG_BYTES: Final = 16


def open_answer(body: bytes, key: TeeKey, version: Version) -> SecretBytes:
    """Decrypt the secret in an answer.

    1. All five members exist; the guests' own decoder requires them.
    2. The header is base64url of JSON; for 0.1.1 it is the JSON itself.
    3. Only AES-256-GCM, with an iv and a tag of its sizes; for 0.1.1 the tag is behind the
       ciphertext and the member `tag` is empty.
    4. The content key is unwrapped with the TEE's key.
    5. The ciphertext is decrypted with the header, serialised again, as associated data; for
       0.1.1 with none.

    Raises:
        AnswerInvalid: it cannot be decrypted, or guests could not read it.
    """
    members = read_object(body, _WHAT)
    protected, sealed_key, iv, ciphertext, tag = (  # 1
        text_of(members, name, _WHAT)
        for name in ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    )
    old = version is Version.V0_1_1
    header = read_object(  # 2
        protected.encode() if old else from_base64url(protected, "the member protected"), _HEADER
    )
    if text_of(header, "enc", _HEADER) != "A256GCM":  # 3
        raise AnswerInvalid("the answer's content is not encrypted with A256GCM")
    nonce = from_base64url(iv, "the member iv")
    sealed = from_base64url(ciphertext, "the member ciphertext")
    tag_bytes = from_base64url(tag, "the member tag")
    if len(nonce) != _IV_BYTES or len(tag_bytes) != (0 if old else _TAG_BYTES):
        raise AnswerInvalid("the answer's iv or tag has a wrong size for this protocol version")
    content_key = key.unwrap(header, from_base64url(sealed_key, "the member encrypted_key"))  # 4
    try:  # 5
        return SecretBytes(
            AESGCM(content_key.reveal()).decrypt(
                nonce, sealed + tag_bytes, None if old else associated_data(header)
            )
        )
    except InvalidTag:
        raise AnswerInvalid(
            "the answer does not authenticate: it was changed, or its header is not serialised "
            "as guests serialise it"
        ) from None


def associated_data(header: JsonObject) -> bytes:
    """Serialise the header as guests do, independently of its received form.

    The result is base64url of compact JSON: `alg`, `enc`, then all other members sorted by
    name at every level.
    """
    first: JsonObject = {name: header[name] for name in ("alg", "enc") if name in header}
    rest = {name: _by_name(header[name]) for name in sorted(header) if name not in first}
    text = json.dumps({**first, **rest}, separators=(",", ":"), ensure_ascii=False)
    return to_base64url(text.encode()).encode("ascii")


def _by_name(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _by_name(value[name]) for name in sorted(value)}
    return [_by_name(element) for element in value] if isinstance(value, list) else value
