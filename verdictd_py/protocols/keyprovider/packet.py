"""The annotation packet: the wrapped key of an encrypted layer and how to unwrap it.

Source: wire-keyprovider.md, "Annotation packet".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

from verdictd_py.domain.wrapping import KEY_BITS, Algorithm, KbsUri, WrappedBlob, parse_key_name
from verdictd_py.encoding import (
    JsonValue,
    decode_byte_string,
    decode_object,
    encode_base64,
    encode_object,
    quoted,
)
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider.arrays import encode_array, shorten_arrays

MAX_OPTSDATA_BYTES: Final = 1024 * 1024
"""Upper bound of the plaintext, 1 MiB (wire-keyprovider.md). Real ones take about 200 bytes."""
MAX_WRAPPED_BYTES: Final = MAX_OPTSDATA_BYTES + 16
"""Upper bound of the ciphertext: `MAX_OPTSDATA_BYTES` and the GCM tag."""
MAX_IV_BYTES: Final = 64
"""Real ones have 12 or 16 bytes; the decryption checks the exact size."""

MAX_PACKET_BYTES: Final = 5 * 1024 * 1024
"""The first form takes up to four characters for a byte; the rest is for white space."""

MAX_BYTES_VALUES: Final = MAX_WRAPPED_BYTES + 1024
"""Upper bound of JSON values in a packet or request with bytes as an array of integers."""

_PROVIDER: Final = "kbs"  # v2's default; others are key management services of clouds


class PacketForm(Enum):
    """Generation of guests that can read a packet."""

    LEGACY = "legacy"
    """attestation-agent up to v0.4: arrays of integers, `algorithm`, `key_length`."""
    V1 = "v1"
    """From v0.5 on: base64, `wrap_type`. v2 is read as this."""


@dataclass(frozen=True, slots=True)
class AnnotationPacket:
    """One annotation packet.

    Attributes:
        form: the generation of guests that can read it.
        kid: the key's name as it stands in the packet; for V1 a normalised `kbs://` URI,
            except in packets from other tools whose kid is not a path.
        blob: the wrapped key with its parameters; `blob.key_id` is the key that `kid` names.

    Raises:
        ValueError: `kid` names another key than the blob's (a bug of the caller).
    """

    form: PacketForm
    kid: str
    blob: WrappedBlob

    def __post_init__(self) -> None:
        if parse_key_name(self.kid) != self.blob.key_id:
            raise ValueError("the packet's kid names another key than its blob's")

    def encode(self) -> bytes:
        """Return compact JSON, with the members in the order that guests' own tools write."""
        blob = self.blob
        if self.form is PacketForm.LEGACY:
            after = encode_object(
                {
                    "iv": list(blob.iv),
                    "algorithm": blob.algorithm.legacy_name,
                    "key_length": KEY_BITS,
                }
            )
            before = encode_object({"kid": self.kid})[:-1]
            array = encode_array(blob.ciphertext)
            return b'%b,"wrapped_data":%b,%b' % (before, array, after[1:])
        return encode_object(
            {
                "kid": self.kid,
                "wrapped_data": encode_base64(blob.ciphertext),
                "iv": encode_base64(blob.iv),
                "wrap_type": blob.algorithm.value,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a packet of any generation, with byte strings as base64 or arrays of integers.

        Raises:
            RequestError: not a packet, not one for a key broker, or too large.
        """
        if len(data) > MAX_PACKET_BYTES:
            raise RequestError(f"the annotation packet is longer than {MAX_PACKET_BYTES} bytes")
        members = decode_object(
            shorten_arrays(data), "the annotation packet", max_values=MAX_BYTES_VALUES
        )
        provider = members.get("provider")
        if provider not in (None, _PROVIDER):
            name = quoted(provider) if isinstance(provider, str) else "that is not a string"
            raise RequestError(
                f"the annotation packet names the provider {name} instead of '{_PROVIDER}': "
                "another service holds this key"
            )
        form, algorithm = _cipher(members)
        key_length = members.get("key_length")
        if key_length is not None and (type(key_length) is not int or key_length != KEY_BITS):
            raise RequestError(f"the annotation packet's key_length is not {KEY_BITS}")
        kid = _text(members, "kid")
        key_id = parse_key_name(kid)
        if form is PacketForm.V1 and len(key_id.segments) == 3:
            kid = str(KbsUri.parse(kid if kid.count("/") >= 3 else f"/{kid}"))
        blob = WrappedBlob(
            key_id,
            algorithm,
            decode_byte_string(members.get("iv"), "the packet's iv", MAX_IV_BYTES),
            decode_byte_string(
                members.get("wrapped_data"), "the packet's wrapped_data", MAX_WRAPPED_BYTES
            ),
        )
        return cls(form, kid, blob)


def _cipher(members: dict[str, JsonValue]) -> tuple[PacketForm, Algorithm]:
    """Return form and algorithm; a packet may have both members if they agree."""
    newer, older = members.get("wrap_type"), members.get("algorithm")
    if newer is None:
        return PacketForm.LEGACY, Algorithm.parse(_text(members, "algorithm"))
    algorithm = Algorithm.parse(_text(members, "wrap_type"))
    if older is not None and Algorithm.parse(_text(members, "algorithm")) is not algorithm:
        raise RequestError("the annotation packet's wrap_type and algorithm differ")
    return PacketForm.V1, algorithm


def _text(members: dict[str, JsonValue], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise RequestError(f"the annotation packet's {name} is missing or not a string")
    return value
