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
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.parsing import EXIT_OK, Parser, read_file
from verdictd_py.errors import ConfigError
from verdictd_py.protocols.rcar import admins, jose
from verdictd_py.protocols.rcar.admins import Role

_HOURS: Final = 2.0
_MAX_HOURS: Final = 10 * 365 * 24.0
_MAX_KEY_BYTES: Final = 16 * 1024


def run(argv: Sequence[str]) -> int:
    """Print a token and return 0.

    Raises:
        ConfigError: the key cannot be used.
    """
    options = build_parser().parse_args(list(argv))
    token = admins.token(
        _key(options.key),
        role=None if options.role is None else Role(options.role),
        now=app.utc_now(),
        lifetime=timedelta(hours=options.hours),
    )
    print(token)
    return EXIT_OK


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        "verdictd-py admin-token",
        "Sign a token for a broker whose --kbs-admins contains the public key, and print it.\n"
        "Any client with the token has the role until it expires: protect it like the key.",
        "exit status: 0 printed, 2 wrong command line or key",
    )
    parser.add_argument(
        "--key", type=Path, metavar="FILE", required=True, help="private key, PEM: Ed25519 or P-256"
    )
    parser.add_argument(
        "--role", choices=[role.value for role in Role], help="(the key's default_role)"
    )
    parser.add_argument(
        "--hours", type=_hours, metavar="N", default=_HOURS, help=f"until it expires ({_HOURS:g})"
    )
    add_timeout(parser)
    return parser


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    # Lifetimes are whole seconds: a shorter one would expire at once.
    if not 1 / 3600 <= hours <= _MAX_HOURS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of hours, at least a second and at most {_MAX_HOURS:g} hours"
        )
    return hours


def _key(path: Path) -> jose.PrivateKey:
    try:
        key = load_pem_private_key(read_file(path, _MAX_KEY_BYTES), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: the key is encrypted
        key = None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise ConfigError(
        f"{path} is not an unencrypted PEM private key, Ed25519 or P-256; make one with "
        "`openssl genpkey -algorithm ed25519`"
    )
