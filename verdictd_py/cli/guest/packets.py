"""Annotation packets on the command line: JSON, base64, or the name of a file."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.guest.agent import Unwrapper
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket

MAX_PACKET_BYTES: Final = 8 * 1024 * 1024  # as in the client API


def read_packet(value: str) -> AnnotationPacket:
    """Decode a packet from JSON, base64 or a file.

    Raises:
        ConfigError: `value` is none of these.
        RequestError: the packet has an unknown form.
    """
    return AnnotationPacket.decode(_packet_bytes(value))


async def unwrap(packet: AnnotationPacket, unwrapper: Unwrapper) -> SecretBytes:
    """Return the key that a packet wraps.

    Raises:
        RequestError, DecryptionFailed, BrokerRefused, ConfigError: as in `Unwrapper.decrypt`.
    """
    return await unwrapper.decrypt(
        kid=str(packet.blob.key_id),
        encrypted_data=packet.blob.ciphertext,
        algorithm=packet.blob.algorithm.value,
        iv=packet.blob.iv,
    )


def _packet_bytes(value: str) -> bytes:
    data = value.encode()
    # A value that cannot be opened, such as base64 longer than any path, is not a file.
    with suppress(OSError, ValueError), Path(value).open("rb") as stream:
        data = stream.read(MAX_PACKET_BYTES)
    data = data.strip()
    if data.startswith(b"{"):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise ConfigError(
            "PACKET is not an annotation packet: give its JSON, its base64, or its file"
        ) from None
