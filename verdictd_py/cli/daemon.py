"""`verdictd-py --listen ...`: the daemon."""

from __future__ import annotations

import asyncio
import sys
import traceback
from argparse import SUPPRESS, Action, ArgumentError, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verdictd_py import __version__
from verdictd_py.cli.hardening import harden, require_local_sockets
from verdictd_py.cli.main import COMMANDS
from verdictd_py.cli.parsing import Parser
from verdictd_py.errors import VerdictdError

if TYPE_CHECKING:
    from verdictd_py.config import Settings, Unsafe

_SWITCH: Final = ""

OPTIONS: Final = (  # names; placeholder of the value, or _SWITCH; help
    (("--config",), "FILE", "settings as TOML"),
    (("-l", "--listen"), "ADDR", "attestation listener, host:port or [v6]:port (127.0.0.1:1234)"),
    (("--client-api",), "ADDR", "gRPC listener, also unix:/path ([::1]:60000)"),
    (("--keyprovider-api",), "ADDR", "gRPC listener that only wraps and unwraps (not given)"),
    (("--console",), "ADDR", "web console, host:port; needs TLS off loopback (not given)"),
    (("--console-read-only",), _SWITCH, "the console refuses every change"),
    (("--kbs-http",), "ADDR", "HTTP listener for current guests, host:port (not given)"),
    (("--kbs-tls-cert",), "FILE", "its certificate, PEM (self-signed; no TLS on loopback)"),
    (("--kbs-tls-key",), "FILE", "the certificate's private key, PEM"),
    (("--kbs-admins",), "FILE", "TOML: public keys of administrators over HTTP (none)"),
    (("--kbs-token-key",), "FILE", "P-256 key that signs attestation tokens, PEM (a new one)"),
    (
        ("--kbs-token-key-days",),
        "DAYS",
        "age at which brokers that share an engine add a new one (30)",
    ),
    (
        ("--kbs-sessions",),
        "STORE",
        "sessions that brokers share: valkeys://, postgresql://, or a SQLite file (memory)",
    ),
    (
        ("--verifier",),
        "NAME[,NAME]",
        "tdx, ... (tdx, and each other TEE once a measurement is pinned)",
    ),
    (("--attester",), "NAME", "evidence about the broker itself: tdx, or none (nullattester)"),
    (("-m", "--mutual"), _SWITCH, "accepted: guests are always attested"),
    (("--tls",), "NAME", "accepted: openssl"),
    (("--crypto",), "NAME", "accepted: openssl"),
    (("--data-dir",), "DIR", "keys, policies, resources (/opt/verdictd)"),
    (
        ("--seal",),
        "URI",
        "key that seals keys and resources: file:/path, credential:NAME, pkcs11:... (not sealed)",
    ),
    (("--seal-strict",), _SWITCH, "refuse objects that are not sealed, also without an index"),
    (
        ("--seal-cache-seconds",),
        "S",
        "use unwrapped data keys again for so long, also without the key's provider (never)",
    ),
    (("--store",), "URL", "postgresql://USER@HOST/DATABASE; needs --seal (the data directory)"),
    (("--store-password-file",), "FILE", "the password of that user (~/.pgpass, or none)"),
    (("--collateral",), "PATH", "JSON file or directory of collateral, instead of fetching it"),
    (("--collateral-url",), "URL[,URL]", "PCS or PCCS, tried in order; '' for none (Intel's)"),
    (("--collateral-ca",), "FILE", "CAs of the PCCS, PEM (the system's)"),
    (("--collateral-pin",), "SHA256[,SHA256]", "certificate or key of the first (second) URL"),
    (("--collateral-proxy",), "URL", "HTTP proxy to it (HTTPS_PROXY of the environment)"),
    (("--collateral-api-key-file",), "FILE", "subscription key, sent to the first URL only"),
    (("--collateral-update",), "NAME", "TCB recovery: standard or early (standard)"),
    (("--collateral-grace",), "DAYS", "accept collateral for so long after it expired (0)"),
    (("--refuse-endorsements",), _SWITCH, "never use collateral that guests sent"),
    (("--min-tcb-evaluation",), "N", "lowest TCB evaluation number accepted (0)"),
    (("--require-reference-values",), _SWITCH, "refuse guests while a measurement is not pinned"),
    (
        ("--allow-rtmr3-mismatch",),
        _SWITCH,
        "event logs: accept extensions of RTMR3 without entries",
    ),
    (("--keyprovider-name",), "NAME", "provider to serve (the only one in a request)"),
    (("--allow-a256ctr",), _SWITCH, "decrypt packets without a tag, which an attacker can change"),
    (
        ("--default-wrap-key",),
        "KEY",
        "NAME or keyid=kbs:///... for encryption without a parameter (one new key a layer)",
    ),
    (("--wrap-key-prefix",), "PATH", "new keys of callers who may only wrap (none)"),
    (("--max-new-keys-per-minute",), "N", "keys that a caller may create by wrapping (60)"),
    (("--client-api-cert",), "FILE", "server certificate of the gRPC listener, PEM"),
    (("--client-api-key",), "FILE", "its private key, PEM"),
    (("--client-api-ca",), "FILE", "CA of client certificates, PEM"),
    (("--client-api-roles",), "FILE", "TOML: wrap, operator or admin by certificate name"),
    (("--max-evidence-age",), "S", "maximum age of a guest's certificate, in seconds (no limit)"),
    (("--handshake-timeout",), "S", "seconds (10)"),
    (("--appraisal-timeout",), "S", "seconds (30)"),
    (("--request-timeout",), "S", "seconds from a request's first byte to its last (30)"),
    (("--idle-timeout",), "S", "seconds between HTTP requests, and to read an answer (300)"),
    (("--drain-timeout",), "S", "seconds for requests in flight at SIGTERM (5)"),
    (("--max-connections",), "N", "maximum number of guests at once (4096)"),
    (
        ("--max-unattested-per-address",),
        "N",
        "the same, unattested, of one address or IPv6 /64 (a quarter of them)",
    ),
    (
        ("--max-connections-per-platform",),
        "N",
        "the same, attested, of one machine (a quarter of them)",
    ),
    (
        ("--proxy-protocol-from",),
        "NET[,NET]",
        "proxies that send the PROXY protocol, version 2, to both listeners of guests (none)",
    ),
    (
        ("--forwarded-for-from",),
        "NET[,NET]",
        "proxies whose X-Forwarded-For the HTTP listener believes (none)",
    ),
    (("--audit-mode",), "MODE", "of audit files: 0600, or 0640 for a group (0600)"),
    (("--audit-group",), "NAME", "group that may read them (the daemon's)"),
    (("--audit-key",), "FILE", "Ed25519 key that signs the heads of audit files, PEM (unsigned)"),
    (
        ("--audit-rotate-bytes",),
        "N",
        "size at which an audit file is followed by another (256 MiB)",
    ),
    (
        ("--audit-rotate-hours",),
        "H",
        "age at which an audit file is followed by another (no limit)",
    ),
    (
        ("--audit-sink",),
        "SINK[,SINK]",
        "also send audit records to journald, syslog:/dev/log, syslog+tls://HOST ... (none)",
    ),
    (("--audit-reserve-bytes",), "N", "disk space reserved for audit records (16 MiB)"),
    (("--audit-keep-days",), "DAYS", "remove audit files after so long, with a proof (never)"),
    (("--audit-keep-bytes",), "N", "remove the oldest audit files beyond this size (no limit)"),
    (("--status",), "ADDR", "HTTP listener of /metrics, /livez and /readyz (not given)"),
    (("--traces",), "URL", "OpenTelemetry collector that receives traces, OTLP (not given)"),
    (
        ("--reload-on-change",),
        _SWITCH,
        "reload as on SIGHUP when a file of the settings has changed",
    ),
    (("--log-format",), "NAME", "text or json (text)"),
    (("--log-level",), "NAME", "least urgent level of the log: debug, info, warning, error (info)"),
    (
        ("--workers",),
        "N",
        "processes that serve guests, or auto: one for each core (1: guests and operators in one)",
    ),
)

SETTINGS_OF_TEES: Final[dict[str, tuple[str, str, object]]] = {
    "verifier": (
        "TEEs to serve; without it, tdx at once and each other TEE once a measurement is pinned.",
        "list of names",
        ["tdx", "sgx"],
    ),
    "attester": ("Evidence that the broker presents about itself.", "nullattester or tdx", "tdx"),
    "allow_rtmr3_mismatch": (
        "Whether guests may extend RTMR3 without an entry in their event log.",
        "true or false",
        True,
    ),
}
"""Sentence, unit and example of settings whose texts name TEEs, see `cli.config.explained`."""

UNSAFE_OPTIONS: Final = (
    (("--insecure-nullverifier",), _SWITCH, "with --verifier nullverifier: secrets for any client"),
    (("--insecure-client-api",), _SWITCH, "client API without TLS off loopback: for any client"),
    (("--insecure-loopback",), _SWITCH, "client API: every local user has all rights"),
    (("--insecure-kbs-http",), _SWITCH, "HTTP listener without TLS off loopback"),
    (("--insecure-sample-verifier",), _SWITCH, "HTTP guests without hardware: for any client"),
    (("--insecure-sample-data-dir",), _SWITCH, "also with the secrets of this --data-dir"),
    (("--unsafe-tdx-root-ca",), "FILE", "trust this root, not Intel's; needs --data-dir"),
    (("--unsafe-writable-files",), _SWITCH, "use files that other users may change"),
    (("--unsafe-store-tls",), _SWITCH, "--store: also with an sslmode that verifies no server"),
)


def run(argv: Sequence[str]) -> int:
    """Run until SIGTERM; return 0 after a clean stop, 1 after a failure that ended the daemon.

    Raises:
        ConfigError: the daemon cannot start; the message is one line.
    """
    arguments = vars(build_parser().parse_args(list(argv)))
    # Late: `--help` and a wrong option need not load the broker, which takes a second.
    from verdictd_py import daemon as app  # noqa: PLC0415
    from verdictd_py.daemon.process import EXIT_FAILED, end_within  # noqa: PLC0415

    given = settings_given(arguments)
    harden()
    require_local_sockets()
    try:
        running = app.run(given.load(), given.unsafe, reread=given.load, on_stopping=end_within)
        return asyncio.run(running)
    except VerdictdError:
        raise
    except Exception as error:  # noqa: BLE001  # a traceback is no line, and could quote a secret
        print(f"verdictd-py: {described(error)}", file=sys.stderr)
        return EXIT_FAILED


@dataclass(frozen=True, slots=True)
class Given:
    """The settings on a command line.

    Attributes:
        flags: values by field name.
        file: the file of `--config`.
    """

    flags: dict[str, Any]
    unsafe: Unsafe
    file: Path | None

    def load(self) -> Settings:
        """Load the settings from every source.

        Raises:
            ConfigError: a setting is wrong.
        """
        from verdictd_py import config  # noqa: PLC0415  # late, as in `run`

        return config.load(self.flags, file=self.file)


def settings_given(arguments: Mapping[str, Any]) -> Given:
    """Return the settings among parsed arguments, see `add_settings`."""
    from verdictd_py import config  # noqa: PLC0415  # late, as in `run`

    names = {_field(options) for options, _, _ in OPTIONS}
    flags = {name: value for name, value in arguments.items() if name in names - {"config"}}
    unsafe = {name: value for name, value in arguments.items() if name in config.UNSAFE_NAMES}
    if "unsafe_tdx_root_ca" in unsafe:
        unsafe["unsafe_tdx_root_ca"] = Path(unsafe["unsafe_tdx_root_ca"])
    file = arguments.get("config")
    return Given(flags, config.Unsafe(**unsafe), None if file is None else Path(file))


def _field(names: Sequence[str]) -> str:
    return names[-1].removeprefix("--").replace("-", "_")


def described(error: Exception) -> str:
    """Describe an exception that no message was written for; without its text."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    cause = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
    name = f"{type(error).__name__}{cause} in {Path(place.filename).name}:{place.lineno}"
    return f"internal error, {name}; report it with the version of verdictd-py"


def build_parser() -> Parser:
    """Return the parser of the daemon's command line."""
    commands = "\n".join(f"  verdictd-py {name:12} {text}" for name, text in COMMANDS.items())
    parser = Parser(
        "verdictd-py",
        "A key broker: releases secrets only to workloads whose hardware evidence it accepts.",
        f"commands (each has its own --help):\n{commands}\n\n"
        "Every option above the unsafe ones is also a key of the file given by --config\n"
        '(listen = "0.0.0.0:20002") and an environment variable (VERDICTD_LISTEN).\n'
        "The command line overrides the environment, which overrides the file.\n\n"
        "exit status: 0 stopped by SIGTERM, 1 a failure ended it, 2 it could not start",
    )
    parser.add_argument("-V", "--version", action="version", version=f"verdictd-py {__version__}")
    add_settings(parser)
    return parser


def add_settings(parser: Parser) -> None:
    """Add every setting of the daemon and `--config`, without defaults, and the unsafe options."""
    unsafe = parser.add_argument_group("unsafe, on the command line only")
    for group, options in ((parser, OPTIONS), (unsafe, UNSAFE_OPTIONS)):
        for names, placeholder, text in options:
            if placeholder == _SWITCH:
                group.add_argument(*names, action="store_true", default=SUPPRESS, help=text)
            else:
                action = _List if "[," in placeholder else "store"
                group.add_argument(
                    *names, metavar=placeholder, default=SUPPRESS, help=text, action=action
                )


class _List(Action):
    """A list in one option. Of two, argparse would silently take the last one only."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        if hasattr(namespace, self.dest):
            reason = "it is given twice; separate the values by commas in one option"
            raise ArgumentError(self, reason)
        setattr(namespace, self.dest, values)
