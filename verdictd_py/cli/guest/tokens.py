"""File with a guest's token and its key, in the form of attestation-agent.

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
"""Usual files have some 10 KiB; with a whole event log in the token, some 100 KiB."""


def read_token(path: Path, version: Version) -> tuple[Token, TeeKey]:
    """Read a token, and the key that answers to its requests are encrypted to.

    Raises:
        ConfigError: the file cannot be read or decoded.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_TOKEN_FILE_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot read a token from {path}: {error.strerror}; attest creates the file"
        ) from error
    try:
        members = json.loads(content)
        token, pem = str(members["token"]), str(members["tee_keypair"])
        return Token.parse(token), TeeKey.from_pem(pem.encode(), version)
    except (ValueError, TypeError, KeyError, RecursionError, BrokerRefused, ConfigError):
        # The cause is not reported: its text could contain a part of the token or the key.
        raise ConfigError(
            f'{path} does not contain {{"token", "tee_keypair"}} as attestation-agent writes them; '
            "attest creates the file"
        ) from None


def write_token(path: Path, token: Token, key: TeeKey) -> None:
    """Write a token and its key to a temporary file of mode 0600 (mkstemp), then rename it.

    Raises:
        ConfigError: the file cannot be written.
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
        raise ConfigError(
            f"cannot write the token to {path}: {error.strerror}; check --token-file"
        ) from error
