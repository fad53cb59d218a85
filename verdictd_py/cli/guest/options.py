"""Command line of `verdictd-py guest`: requests, options, and which of them belong together."""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from verdictd_py.cli.parsing import Parser
from verdictd_py.config import GUEST_PREFIX
from verdictd_py.domain.spelling import did_you_mean
from verdictd_py.errors import ConfigError
from verdictd_py.guest.rcar.keys import TeeKeyKind
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.protocols.ratstls.issue import Form

DEFAULT_PLATFORM: Final = Path("~/.local/state/verdictd-py/simulated-platform")
MAX_TIMEOUT_SECONDS: Final = 86_400  # a day, as in the daemon's settings

NAMED: Final = {
    "policy": "Policy",
    "cosign-key": "Cosign Key",
    "sigstore": "Sigstore Config",
    "credential": "Credential",
    "keyring": "GPG Keyring",
}
"""Requests of this command line -> first-generation names (wire-eaa.md)."""

_REQUESTS: Final[Mapping[str, tuple[str, str]]] = {
    "policy": ("", "the image policy"),
    "cosign-key": ("", "the public key of image signatures"),
    "sigstore": ("", "the lookaside configuration"),
    "credential": ("", "the registry credential"),
    "keyring": ("", "the OpenPGP keyring"),
    "key": ("KID", "a key"),
    "decrypt": ("PACKET", "the key that an annotation packet wraps: its JSON, base64 or file"),
    "resource": ("PATH", "a resource"),
    "version": ("", "version of the protocol (ratstls)"),
    "echo": ("TEXT", "the same text, as an accepted guest (ratstls)"),
    "attest": ("", "claims of the attestation token (rcar)"),
}
"""Placeholder of the argument, and help, of each request but `agent`."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_IN_ENVIRONMENT: Final = ("connect", "ca", "platform")
"""Options that the environment can give, as `VERDICTD_PY_GUEST_CONNECT`."""

_FORMS: Final = tuple(form.value for form in Form if form is not Form.NULL)

_OPTIONS_OF_ONE_PROTOCOL: Final = {
    "ratstls": ("form", "endorse"),
    "rcar": (
        *("kbs_version", "tee_key", "init_data", "event_log", "token_file", "show_token"),
        *("allow_a256ctr", "ca", "insecure_plain_http", "insecure_no_tls_verification"),
    ),
}
_REQUESTS_OF_ONE_PROTOCOL: Final = {"ratstls": ("version", "echo"), "rcar": ("attest",)}


def build_parser() -> Parser:
    """Return the parser of `verdictd-py guest`."""
    parser = Parser(
        "verdictd-py guest",
        "A reference guest: attest to a broker, request a secret and write it to standard output.\n"
        "A broker accepts the simulated platform only with these options:\n"
        "--unsafe-tdx-root-ca DIR/root-ca.pem --collateral DIR/collateral.json",
        "environment, for options that are not given: "
        f"{', '.join(GUEST_PREFIX + name.upper() for name in _IN_ENVIRONMENT)}\n"
        "exit status: 0 done, 1 the broker refused, 2 wrong command line, 3 no broker reached",
    )
    _add_guest_options(parser)
    parser.add_argument("--base64", action="store_true", help="print base64 and a newline")
    requests = parser.add_subparsers(
        dest="request",
        required=True,
        metavar="WHAT",
        parser_class=_RequestParser,
        help="one of these; options may follow it",
    )
    for name, (argument, text) in _REQUESTS.items():
        request = requests.add_parser(name, description=text, help=text)
        if argument:
            request.add_argument("value", metavar=argument)
        request.add_argument(
            "--base64", action="store_true", default=SUPPRESS, help="print base64 and a newline"
        )
        _add_guest_options(request, after_request=True)
    text = "serve image tools of this host, as attestation-agent does"
    agent = requests.add_parser("agent", description=text, help=text)
    agent.add_argument(
        "--keyprovider",
        metavar="ADDR",
        required=True,
        help="listen here for ocicrypt: 127.0.0.1:port or unix:/path",
    )
    _add_guest_options(agent, after_request=True)
    return parser


def complete(options: Namespace) -> None:
    """Set the options that are not given from the environment, and the rest to their defaults.

    Raises:
        ConfigError: a variable is misspelled.
    """
    known = {GUEST_PREFIX + name.upper(): name for name in _IN_ENVIRONMENT}
    for variable in sorted(os.environ):
        if variable.startswith(GUEST_PREFIX) and variable not in known:
            raise ConfigError(
                f"{variable} in the environment is not an option; correct it"
                f"{did_you_mean(variable, known)}"
            )
    for variable, name in known.items():
        if name == "ca" and options.protocol != "rcar":
            continue  # the other protocol refuses this option
        value = os.environ.get(variable)
        if value and getattr(options, name) is None:
            setattr(options, name, value if name == "connect" else Path(value))
    if options.platform is None:
        options.platform = DEFAULT_PLATFORM


def platform_directory(options: Namespace) -> Path:
    """Return the directory of the simulated platform.

    Raises:
        ConfigError: it is below the home directory of a user who has none.
    """
    path: Path = options.platform
    try:
        return path.expanduser()
    except RuntimeError:  # neither HOME nor an entry in passwd
        raise ConfigError(
            f"there is no home directory for the simulated platform {path}; give --platform DIR"
        ) from None


def check(options: Namespace) -> None:
    """Check that the request and the options belong to the chosen protocol.

    Raises:
        ConfigError: one of them belongs to the other protocol.
    """
    other = "ratstls" if options.protocol == "rcar" else "rcar"
    if options.request in _REQUESTS_OF_ONE_PROTOCOL[other]:
        raise ConfigError(f"{options.request} is a request of --protocol {other}")
    for name in _OPTIONS_OF_ONE_PROTOCOL[other]:
        if getattr(options, name) not in (None, False):
            raise ConfigError(f"--{name.replace('_', '-')} is an option of --protocol {other}")
    if options.attester == "sample" and options.protocol != "rcar":
        raise ConfigError("--attester sample is evidence of --protocol rcar")


def _add_guest_options(parser: ArgumentParser, *, after_request: bool = False) -> None:
    """Add the options for the guest's identity and its broker.

    Args:
        after_request: whether they follow the request; there they override those before it.
    """

    def default(value: object) -> object:
        return SUPPRESS if after_request else value

    add = parser.add_argument
    add(
        "--connect",
        metavar="ADDR",
        default=default(None),
        help="host:port or [v6]:port; for rcar a URL too, http(s)://host:port; required",
    )
    add(
        "--protocol",
        choices=["ratstls", "rcar"],
        default=default("ratstls"),
        help="ratstls, or rcar of guests released since late 2024 (ratstls)",
    )
    add(
        "--attester",
        choices=["simulated", "tdx", "sample", "none"],
        default=default("simulated"),
        help="simulated; tdx: this machine is a TDX guest; sample: proves nothing (simulated)",
    )
    add(
        "--platform",
        metavar="DIR",
        type=Path,
        default=default(None),
        help=f"the simulated platform, created if it is missing ({DEFAULT_PLATFORM})",
    )
    add(
        "--timeout",
        metavar="S",
        type=_seconds,
        default=default(30.0),
        help="seconds for the whole request (30)",
    )
    add(
        "--log-level",
        choices=LOG_LEVELS,
        default=default("warning"),
        help="steps on standard error: info, or debug for each request (warning)",
    )
    _add_ratstls_options(parser, default(None), default(False))
    _add_rcar_options(parser, default(None), default(False))


def _add_ratstls_options(parser: ArgumentParser, nothing: object, no: object) -> None:
    add = parser.add_argument_group("with --protocol ratstls").add_argument
    usual = Form.CURRENT.value
    add("--form", choices=_FORMS, default=nothing, help=f"generation of certificate ({usual})")
    add("--endorse", action="store_true", default=no, help="also send the platform's collateral")


def _add_rcar_options(parser: ArgumentParser, nothing: object, no: object) -> None:
    group = parser.add_argument_group("with --protocol rcar")
    add = group.add_argument
    add(
        "--kbs-version",
        choices=[version.value for version in Version],
        default=nothing,
        help="version of the protocol (0.4.0)",
    )
    add(
        "--tee-key",
        choices=[kind.value for kind in TeeKeyKind],
        default=nothing,
        help="type of the key that answers are encrypted to (ec-p256; rsa with 0.1.1)",
    )
    for option, text in (
        ("--init-data", "init-data of the guest; a simulated guest measures it"),
        ("--event-log", "event log of its boot; a simulated guest measures it"),
        ("--ca", "CAs of the broker's certificate, PEM (the system's)"),
        (
            "--token-file",
            "use this token and its key instead of attesting; attest creates the file",
        ),
    ):
        add(option, metavar="FILE", type=Path, default=nothing, help=text)
    for option, text in (
        (
            "--show-token",
            "attest prints the token, a secret that gives access to the guest's resources",
        ),
        (
            "--allow-a256ctr",
            "decrypt A256CTR packets, which an attacker can change",
        ),
        (
            "--insecure-plain-http",
            "allow http:// to other hosts: an attacker in between can read and change it",
        ),
        (
            "--insecure-no-tls-verification",
            "accept any certificate: an attacker in between can act as the broker",
        ),
    ):
        add(option, action="store_true", default=no, help=text)


def _seconds(text: str) -> float:
    """Parse a finite time, because image tools wait for the agent without a timeout."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= MAX_TIMEOUT_SECONDS:  # also refuses NaN
        raise ArgumentTypeError(f"{text!r}: write seconds, above 0, at most {MAX_TIMEOUT_SECONDS}")
    return value


class _RequestParser(Parser):
    """Parser of a request, with the signature that argparse requires of a subparser."""

    def __init__(self, prog: str, description: str = "", **more: object) -> None:
        del more
        super().__init__(prog, description)
