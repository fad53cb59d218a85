"""`verdictd-py keyprovider`: ocicrypt's key provider on standard input and output.

Source: wire-keyprovider.md, "stdin/stdout". ocicrypt starts this command once for every layer,
so that it loads neither the daemon nor gRPC. It changes nothing in the data directory except for
the keys that it creates, and the audit trail, in which their records come first.
"""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.cli.commandtrail import CommandTrail
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, complain
from verdictd_py.config import DEFAULT_DATA_DIR, Settings, load
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import ConfigError, RequestError, StorageError, VerdictdError
from verdictd_py.formats.stored import KEYS, RESOURCES
from verdictd_py.ports import Events, KeyStore
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.keyprovider.parameter import KbsKey
from verdictd_py.sealing.registry import open_key
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import Objects, SealedObjects
from verdictd_py.storage.stores import DirectoryKeyStore, DirectoryResourceStore

_AUDIT: Final = "audit"
DATABASE_STATE: Final = "postgres"
"""Directory in the data directory of a broker with `--store` (`daemon.database.STATE`)."""


def run(argv: Sequence[str]) -> int:
    """Answer one request on standard output and return 0; 1 with an error on standard error.

    Raises:
        ConfigError: the command line or the data directory cannot be used.
    """
    parser = build_parser()
    options = parser.parse_args(list(argv))
    if options.check is not None:
        from verdictd_py.cli import keyproviderconf  # noqa: PLC0415  # it loads gRPC

        return keyproviderconf.check(options.check)
    request = sys.stdin.buffer.read(protocol.MAX_INPUT_BYTES + 1)
    try:
        answer = asyncio.run(_answer(request, options))
    except ConfigError:
        raise
    except VerdictdError as error:
        complain(parser.prog, str(error))
        return EXIT_REFUSED
    sys.stdout.buffer.write(answer)
    sys.stdout.flush()
    return EXIT_OK


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        "verdictd-py keyprovider",
        "ocicrypt's key provider for hosts without a daemon: it reads a request as JSON from\n"
        "standard input and writes the answer to standard output. In the file that "
        "OCICRYPT_KEYPROVIDER_CONFIG names:\n\n"
        '  {"key-providers":{"attestation-agent":{"cmd":{"path":"verdictd-py","args":'
        '["keyprovider"]}}}}',
        "exit status: 0 answered, 1 refused (standard error says why), 2 wrong command line, "
        "3 with --check: no key provider at an address",
    )
    parser.add_argument(
        "--check",
        metavar="FILE",
        nargs="?",
        const="",
        help="check the addresses in ocicrypt's file (that of OCICRYPT_KEYPROVIDER_CONFIG) instead",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings of the daemon, TOML: also for keys below a [[resource_backend]]",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        help=f"data directory of the daemon (that of --config, or {DEFAULT_DATA_DIR})",
    )
    parser.add_argument(
        "--seal", metavar="URI", help="key that seals its keys, as for the daemon (not sealed)"
    )
    parser.add_argument(
        "--audit-key",
        metavar="FILE",
        type=Path,
        help="key that signs its audit records, as for the daemon (unsigned)",
    )
    parser.add_argument(
        "--keyprovider-name",
        metavar="NAME",
        help="provider to serve (the only one in a request)",
    )
    parser.add_argument(
        "--default-wrap-key",
        metavar="KEY",
        help="NAME or keyid=kbs:///... for encryption without a parameter (one new key a layer)",
    )
    parser.add_argument(
        "--allow-a256ctr",
        action="store_const",
        const=True,
        help="decrypt packets without a tag, which an attacker can change",
    )
    add_timeout(parser)
    return parser


async def _answer(content: bytes, options: Namespace) -> bytes:
    """Return the answer to one request.

    Raises:
        ConfigError: the data directory, or its audit trail, cannot be used.
        VerdictdError: the request is refused; see `Wrapper`.
    """
    settings = _settings(options)
    request = protocol.decode(content, provider=settings.keyprovider_name)
    directory = Directory.open(settings.data_dir)
    _require_keys_in(directory, settings)
    for name in (KEYS, RESOURCES, _AUDIT):  # a key must not have the name of a resource
        directory.make(name)
    trail = CommandTrail(settings.data_dir / _AUDIT, settings.audit_key)
    keys, close = _keys(directory, settings, trail)
    wrapper = Wrapper(
        keys=keys,
        events=trail,
        default_key=settings.default_wrap_parameter,
        allow_a256ctr=settings.allow_a256ctr,
    )
    try:
        return await _answer_to(request, wrapper)
    finally:
        await close()
        trail.close()


def _keys(
    directory: Directory, settings: Settings, events: Events
) -> tuple[KeyStore, Callable[[], Awaitable[None]]]:
    """Return the store of the keys, those of backends included, and what closes it."""
    objects = _objects(directory, settings.seal)
    keys = DirectoryKeyStore(directory, objects)
    if not settings.resource_backend:
        return keys, _nothing
    from verdictd_py.daemon.vaultsources import sources_of  # noqa: PLC0415  # it loads the daemon

    digests = DigestLog(events)
    resources = DirectoryResourceStore(directory, events=events, digests=digests, objects=objects)
    sources = sources_of(settings, keys, resources)
    return sources.keys, sources.close


async def _nothing() -> None:
    """Do nothing: no connection is open."""


def _settings(options: Namespace) -> Settings:
    """Return the settings of the daemon, and those of the command line in their place.

    Without `--config`, only those of the command line and the environment are in force.

    Raises:
        ConfigError: a setting cannot be used.
    """
    names = (
        *("data_dir", "audit_key", "seal"),
        *("keyprovider_name", "default_wrap_key", "allow_a256ctr"),
    )
    flags = {name: value for name in names if (value := getattr(options, name)) is not None}
    return load(flags, file=options.config)


def _require_keys_in(directory: Directory, settings: Settings) -> None:
    """Refuse a data directory of a broker whose keys are in a database.

    Raises:
        ConfigError: they are; a key that is created in the directory would be of no use.
    """
    if settings.store is not None or directory.exists((DATABASE_STATE,)):
        raise ConfigError(
            "the keys of this broker are in a database (--store), which this command does not "
            "use; name the address of --keyprovider-api or --client-api in ocicrypt's file "
            f'("grpc"), or remove {settings.data_dir / DATABASE_STATE} if the broker no longer '
            "uses a database"
        )


async def _answer_to(
    request: protocol.WrapRequest | protocol.UnwrapRequest, wrapper: Wrapper
) -> bytes:
    # Permissions of the data directory restrict the user who starts this command.
    caller = Caller(f"uid {os.getuid()}, verdictd-py keyprovider", ROLES["admin"])
    if isinstance(request, protocol.UnwrapRequest):
        packet = AnnotationPacket.decode(request.annotation)
        return protocol.encode_unwrapped(await wrapper.unwrap(caller, packet))
    parameter = request.parameter
    if isinstance(parameter, KbsKey) and parameter.keypath is not None:
        key = _read_key(Path(parameter.keypath))
        packet = await wrapper.seal(caller, parameter, key, request.optsdata)
    else:
        packet = await wrapper.wrap(caller, parameter, request.optsdata)
    return protocol.encode_wrapped(packet)


def _objects(directory: Directory, location: str | None) -> Objects | None:
    """Return the sealed objects of the data directory; None without `--seal`."""
    if location is None:
        return None
    return SealedObjects(directory, EnvelopeSealer(open_key(location)))


def _read_key(path: Path) -> SecretBytes:
    """Read the key file that `keypath=` names, with the rights of the user.

    Raises:
        RequestError: the file cannot be read.
        StorageError: the key is not 32 bytes long.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(KEY_BYTES + 1)
    except OSError as error:
        raise RequestError(f"cannot read keypath={path}: {error.strerror}") from error
    if len(content) != KEY_BYTES:
        size = f"more than {KEY_BYTES}" if len(content) > KEY_BYTES else len(content)
        raise StorageError(f"keypath={path} holds {size} bytes: a key has {KEY_BYTES}")
    return SecretBytes(content)
