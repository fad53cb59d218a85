"""Opens the encrypted answer of a KBS as guests do.

They parse the protected header and serialise it again for the associated data, so a KBS
that writes it in another way than they do is found out here. Sources: wire-rcar.md,
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
    """The secret inside an answer.

    1. All five members are there; the guests' own decoder needs each.
    2. The header is base64url of JSON; for 0.1.1 it is the JSON itself.
    3. Only AES-256-GCM, with an iv and a tag of its sizes; for 0.1.1 the tag is behind the
       ciphertext and the member `tag` is empty.
    4. The content key is unwrapped with the TEE's key.
    5. The ciphertext opens with the header, serialised anew, as associated data; for 0.1.1
       with none.

    Raises:
        AnswerInvalid: it does not open, or guests could not read it.
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
        raise AnswerInvalid("the answer's content is encrypted by something else than A256GCM")
    nonce = from_base64url(iv, "the member iv")
    sealed = from_base64url(ciphertext, "the member ciphertext")
    behind = from_base64url(tag, "the member tag")
    if len(nonce) != _IV_BYTES or len(behind) != (0 if old else _TAG_BYTES):
        raise AnswerInvalid("the answer's iv or tag has a wrong size for this protocol version")
    content_key = key.unwrap(header, from_base64url(sealed_key, "the member encrypted_key"))  # 4
    try:  # 5
        return SecretBytes(
            AESGCM(content_key.reveal()).decrypt(
                nonce, sealed + behind, None if old else associated_data(header)
            )
        )
    except InvalidTag:
        raise AnswerInvalid(
            "the answer does not authenticate: it was changed, or its header is not written as "
            "guests write it"
        ) from None


def associated_data(header: JsonObject) -> bytes:
    """The header as guests write it, whatever it looked like when it came.

    `alg`, `enc`, then all others by name, and so inside of them: compact JSON, base64url.
    """
    first: JsonObject = {name: header[name] for name in ("alg", "enc") if name in header}
    rest = {name: _by_name(header[name]) for name in sorted(header) if name not in first}
    text = json.dumps({**first, **rest}, separators=(",", ":"), ensure_ascii=False)
    return to_base64url(text.encode()).encode("ascii")


def _by_name(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _by_name(value[name]) for name in sorted(value)}
    return [_by_name(element) for element in value] if isinstance(value, list) else value
