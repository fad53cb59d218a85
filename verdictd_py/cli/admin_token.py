"""`verdictd-py admin-token`: signs a token for administration over HTTP."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from verdictd_py import daemon as app
from verdictd_py.cli.parsing import EXIT_OK, Parser, read_file
from verdictd_py.errors import ConfigError
from verdictd_py.protocols.rcar import admins, jose
from verdictd_py.protocols.rcar.admins import Role

_HOURS: Final = 2.0
_MAX_HOURS: Final = 10 * 365 * 24.0
_MAX_KEY_BYTES: Final = 16 * 1024


def run(argv: Sequence[str]) -> int:
    """0 with the token on standard output.

    Raises:
        ConfigError: the key cannot be used.
    """
    options = _parser().parse_args(list(argv))
    token = admins.token(
        _key(options.key),
        role=None if options.role is None else Role(options.role),
        now=app.utc_now(),
        lifetime=timedelta(hours=options.hours),
    )
    print(token)
    return EXIT_OK


def _parser() -> Parser:
    parser = Parser(
        "verdictd-py admin-token",
        "Signs a token for a broker whose --kbs-admins names the public half of the key, and "
        "prints it.\nWhoever has it has the role until it ends: keep it as you keep the key.",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", required=True, help="private key, PEM: Ed25519 or P-256"
    )
    parser.add_argument(
        "--role", choices=[role.value for role in Role], help="(the key's default_role)"
    )
    parser.add_argument(
        "--hours", type=_hours, metavar="N", default=_HOURS, help=f"until it ends ({_HOURS:g})"
    )
    return parser


def _hours(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    # A token lives whole seconds; less than one would be over at once.
    if not 1 / 3600 <= found <= _MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours up to {_MAX_HOURS:g}")
    return found


def _key(path: Path) -> jose.PrivateKey:
    try:
        key = load_pem_private_key(read_file(path, _MAX_KEY_BYTES), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ConfigError(
        f"{path} is no unencrypted PEM private key, Ed25519 or P-256; make one with "
        "`openssl genpkey -algorithm ed25519`"
    )
