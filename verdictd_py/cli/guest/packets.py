"""An annotation packet on the command line: its JSON, its base64, or the name of a file."""

from __future__ import annotations

import base64
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.guest.agent import Unwrapper
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket

MAX_PACKET_BYTES: Final = 8 * 1024 * 1024  # as the client API takes


def packet_of(value: str) -> AnnotationPacket:
    """The packet that `value` is or names.

    Raises:
        ConfigError: it is neither.
        RequestError: it is a packet of another kind.
    """
    return AnnotationPacket.decode(_packet_bytes(value))


async def opened(packet: AnnotationPacket, by: Unwrapper) -> SecretBytes:
    """What the packet wraps.

    Raises:
        RequestError, DecryptionFailed, BrokerRefused, ConfigError: as in `Unwrapper.decrypt`.
    """
    return await by.decrypt(
        kid=str(packet.blob.key_id),
        encrypted_data=packet.blob.ciphertext,
        algorithm=packet.blob.algorithm.value,
        iv=packet.blob.iv,
    )


def _packet_bytes(value: str) -> bytes:
    data = value.encode()
    # A path that cannot be opened, perhaps because it is as long as base64 is, is no file.
    with suppress(OSError, ValueError), Path(value).open("rb") as stream:
        data = stream.read(MAX_PACKET_BYTES)
    data = data.strip()
    if data.startswith(b"{"):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise ConfigError(
            "PACKET is no annotation packet: give its JSON, its base64, or a file that holds one"
        ) from None
