"""The file with a guest's token and the key in it, in attestation-agent's form.

Source: guest-components, attestation-agent/attestation-agent/src/token/kbs.rs.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Final

from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.guest.rcar.keys import TeeKey
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.guest.rcar.token import Token

MAX_TOKEN_FILE_BYTES: Final = 1024 * 1024
"""Real ones take some 10 KiB; a token with a whole event log in it, some hundred."""


def read_token(path: Path, version: Version) -> tuple[Token, TeeKey]:
    """The token, and the key that answers to it are encrypted to.

    Raises:
        ConfigError: there are none.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TOKEN_FILE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{path}: no token can be read there ({error.strerror}); attest makes the file"
        ) from error
    try:
        members = json.loads(content)
        token, pem = str(members["token"]), str(members["tee_keypair"])
        return Token.parse(token), TeeKey.from_pem(pem.encode(), version)
    except (ValueError, TypeError, KeyError, RecursionError, BrokerRefused, ConfigError):
        # What the library says could hold a part of either.
        raise ConfigError(
            f'{path}: holds no {{"token", "tee_keypair"}} as attestation-agent gives them; attest '
            "makes the file"
        ) from None


def write_token(path: Path, token: Token, key: TeeKey) -> None:
    """Writes both beside `path` (mkstemp makes mode 0600), then renames.

    Raises:
        ConfigError: they cannot be written.
    """
    members = {
        "token": token.content.reveal().decode("ascii"),
        "tee_keypair": key.to_pem().reveal().decode("ascii"),
    }
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                json.dump(members, file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: the token cannot be saved ({error.strerror})") from error
