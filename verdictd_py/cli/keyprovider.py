"""`verdictd-py keyprovider`: ocicrypt's key provider on standard input and output.

Source: wire-keyprovider.md, "stdin/stdout". ocicrypt starts this command once for every layer,
so that it loads neither the daemon nor gRPC. It changes nothing in the data directory except for
the keys that it creates, and the audit trail, in which their records come first.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from verdictd_py.broker.wrapping import Wrapper
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, Silent, complain
from verdictd_py.config import DEFAULT_DATA_DIR, parse_default_key
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import ConfigError, RequestError, StorageError, VerdictdError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.heads import HeadSigner
from verdictd_py.formats.stored import KEYS, RESOURCES
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, KbsKey
from verdictd_py.sealing.registry import open_key
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import Objects, SealedObjects
from verdictd_py.storage.stores import DirectoryKeyStore

_AUDIT: Final = "audit"


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
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DATA_DIR,
        help=f"data directory of the daemon ({DEFAULT_DATA_DIR})",
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
        action="store_true",
        help="decrypt packets without a tag, which an attacker can change",
    )
    return parser


async def _answer(content: bytes, options: Namespace) -> bytes:
    """Return the answer to one request.

    Raises:
        ConfigError: the data directory, or its audit trail, cannot be used.
        VerdictdError: the request is refused; see `Wrapper`.
    """
    request = protocol.decode(content, provider=options.keyprovider_name)
    directory = Directory.open(options.data_dir)
    for name in (KEYS, RESOURCES, _AUDIT):  # a key must not have the name of a resource
        directory.make(name)
    trail = _Trail(options.data_dir / _AUDIT, options.audit_key)
    wrapper = Wrapper(
        keys=DirectoryKeyStore(directory, _objects(directory, options.seal)),
        events=trail,
        default_key=_default_key(options.default_wrap_key),
        allow_a256ctr=options.allow_a256ctr,
    )
    try:
        return await _answer_to(request, wrapper)
    finally:
        trail.close()


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


def _default_key(text: str | None) -> ExistingKey | KbsKey | None:
    """Return the key that `--default-wrap-key` names.

    Raises:
        ConfigError: it names no key.
    """
    try:
        return None if text is None else parse_default_key(text)
    except ValueError as error:
        raise ConfigError(f"--default-wrap-key: {error}") from None


class _Trail:
    """Port `Events`: the audit trail of the data directory; other events are discarded.

    The file of this process is created with its first record, so that a refusal leaves none.
    Files are readable for a group if the daemon's are (`--audit-mode`).
    """

    def __init__(self, directory: Path, key: Path | None) -> None:
        status = directory.stat()
        signer = None if key is None else HeadSigner.read(key)
        shared = status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IRGRP
        mode = 0o640 if shared else 0o600
        self._trail = AuditTrail(directory, Silent(), mode=mode, signer=signer)
        self._is_open = False

    def record(self, event: Event) -> None:
        if self._is_audited(event):
            self._trail.record(event)

    async def commit(self, *events: Event) -> None:
        if any(self._is_audited(event) for event in events):
            await self._trail.commit(*events)

    def close(self) -> None:
        self._trail.close()

    def _is_audited(self, event: Event) -> bool:
        """Return whether the trail must have this event, and open the trail if so.

        Raises:
            ConfigError: the trail cannot be written.
        """
        if event.spec.audit is not Audit.YES:
            return False
        if not self._is_open:
            self._trail.open()
            self._is_open = True
        return True


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
