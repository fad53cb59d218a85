"""OpenPGP keyrings as guests read them: public certificates, binary, one after the other.

Pure functions on bytes over pysequoia; no gpg program, no GnuPG home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from pysequoia import Cert
from pysequoia.packet import PacketPile, Tag

from verdictd_py.errors import NotFound, RequestError, StorageError, VerdictdError

MAX_IMPORT_BYTES: Final = 1024 * 1024
"""Certificates with many signatures on them reach some 100 KiB."""

MAX_CERTIFICATES: Final = 1000
"""In one keyring; guests read all of them for each image."""

_MAX_NAMED: Final = 20
"""Fingerprints in one message."""

_KEY_TAGS: Final = (Tag.PublicKey, Tag.PublicSubkey)
_SECRET_TAGS: Final = (Tag.SecretKey, Tag.SecretSubkey)

_ARMOUR_BEGINS: Final = b"-----BEGIN PGP "  # RFC 9580, 6.2
_ARMOUR_ENDS: Final = b"-----END PGP "
_DASHES: Final = b"-----"

_CAUSES: Final = {  # part of what the library says: what is said of it
    "Truncated packet": "it is cut off",
    "unexpected EOF": "it is cut off",
    "ASCII Armor": "its armour is damaged",
    "non-Cert packets": "there is something else in it",
    "Unsupported primary key": "a key in it is damaged, or of a kind that is not supported",
}
"""The library's own sentences are not repeated: some of them show bytes of the key."""


class SequoiaKeyringEditor:
    """Port `KeyringEditor`."""

    def added(self, keyring: bytes, certificates: bytes) -> bytes:
        if len(certificates) > MAX_IMPORT_BYTES:
            raise RequestError(f"the certificates are larger than {MAX_IMPORT_BYTES} bytes")
        kept = {cert.fingerprint: cert for cert in _stored(keyring)}
        found = _parse(certificates, _import_error)
        if not found:
            raise _import_error("there is none in it")
        for cert in found:
            known = kept.get(cert.fingerprint)
            kept[cert.fingerprint] = cert if known is None else known.merge(cert)
        if len(kept) > MAX_CERTIFICATES:
            raise RequestError(
                f"a keyring has at most {MAX_CERTIFICATES} certificates; delete some first"
            )
        return b"".join(bytes(cert) for cert in kept.values())

    def without(self, keyring: bytes, which: str) -> bytes:
        certs = _stored(keyring)
        meant = [cert for cert in certs if _names(cert, which)]
        if not meant:
            raise NotFound("the keyring has no certificate of that fingerprint, key id or e-mail")
        if len(meant) > 1:
            named = ", ".join(cert.fingerprint.upper() for cert in meant[:_MAX_NAMED])
            more = f" and {len(meant) - _MAX_NAMED} more" if len(meant) > _MAX_NAMED else ""
            raise RequestError(
                f"several certificates are meant; name one by fingerprint: {named}{more}"
            )
        return b"".join(bytes(cert) for cert in certs if cert is not meant[0])

    def listed(self, keyring: bytes) -> str:
        return "\n".join("\n".join(_lines(cert)) + "\n" for cert in _stored(keyring))


def _stored(keyring: bytes) -> list[Cert]:
    """The keyring's certificates; those that are there twice, once.

    Raises:
        StorageError: it cannot be read.
    """
    certs: dict[str, Cert] = {}
    for cert in _parse(keyring, _storage_error) if keyring else []:
        known = certs.get(cert.fingerprint)
        certs[cert.fingerprint] = cert if known is None else known.merge(cert)
    return list(certs.values())


def _parse(data: bytes, failure: Callable[[str], VerdictdError]) -> list[Cert]:
    certs: list[Cert] = []
    for block in _blocks(data, failure):
        try:
            found = Cert.split_bytes(block)
            for cert in found:
                bytes(cert)  # some that can be read cannot be written
            # Not the certificates' packets: those are without the secret keys that the library
            # knows, and with those that it does not.
            secret = next(_packets(block, *_SECRET_TAGS), None)
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]  # a backtrace of the library follows
            causes = (said for part, said in _CAUSES.items() if part in first_line)
            raise failure(next(causes, "it is damaged")) from None
        if secret is not None:
            raise failure("it holds a secret key, which must be considered as seen")
        certs += found
    return certs


def _blocks(data: bytes, failure: Callable[[str], VerdictdError]) -> Iterator[bytes]:
    """Binary packets whole, or each block of armour; between these there may be text only.

    The library reads as far as it understands and is silent about the rest.
    """
    if _ARMOUR_BEGINS not in data:
        yield data
        return
    at = 0
    while (begin := data.find(_ARMOUR_BEGINS, at)) >= 0:
        _check_text(data[at:begin], failure)
        end = data.find(_ARMOUR_ENDS, begin)
        closing = data.find(_DASHES, end + len(_ARMOUR_ENDS))
        if end < 0 or closing < 0:
            raise failure("it is cut off")
        at = closing + len(_DASHES)
        yield data[begin:at]
    _check_text(data[at:], failure)


def _check_text(data: bytes, failure: Callable[[str], VerdictdError]) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise failure("there is binary data beside the armour") from None


def _import_error(cause: str) -> VerdictdError:
    return RequestError(f"the certificates are refused: {cause}; give what gpg --export writes")


def _storage_error(cause: str) -> VerdictdError:
    return StorageError(f"the keyring cannot be read: {cause}; store what gpg --export writes")


def _packets(data: bytes, *tags: Any) -> Iterator[Any]:  # noqa: ANN401  # the library has no types
    return (packet for packet in PacketPile.from_bytes(data) if _tag(packet) in tags)


def _tag(packet: Any) -> Any:  # noqa: ANN401  # as above
    try:
        return packet.tag
    except RuntimeError:  # a tag that the library does not know; certificates may have such packets
        return None


def _names(cert: Cert, which: str) -> bool:
    """Whether `which` is a fingerprint or key id of it or its subkeys, or an e-mail address."""
    wanted = which.strip().lower()
    if "@" in wanted:
        wanted = wanted.strip("<>")
        return any(_email(packet).lower() == wanted for packet in _packets(bytes(cert), Tag.UserID))
    wanted = "".join(wanted.removeprefix("0x").split())
    return any(
        wanted == name.lower()
        for packet in _packets(bytes(cert), *_KEY_TAGS)
        for name in (packet.fingerprint, packet.key_id)
        if name is not None  # a version that the library does not know
    )


def _email(packet: Any) -> str:  # noqa: ANN401  # as above
    try:
        return packet.user_id_email or ""
    except RuntimeError:  # a user id is any text
        return ""


def _lines(cert: Cert) -> Iterator[str]:
    """As gpg shows a certificate."""
    primary = next(_packets(bytes(cert), Tag.PublicKey))
    yield f"pub   {_algorithm(primary)} {primary.key_created:%Y-%m-%d}{_state(cert)}"
    yield f"      {cert.fingerprint.upper()}"
    try:
        names = [str(user_id) for user_id in cert.user_ids]
        mark = ""
    except RuntimeError:  # see `_state`: anybody may have written these names
        packets = _packets(bytes(cert), Tag.UserID)
        names = [packet.body.decode("utf-8", "replace") for packet in packets]
        mark = "[unverified] "
    for name in names:
        yield f"uid   {mark}{''.join(c if c.isprintable() else ascii(c)[1:-1] for c in name)}"


def _state(cert: Cert) -> str:
    """The library knows nothing of a certificate whose own signature it does not accept.

    That is one without any, or of SHA-1 alone; guests may take it all the same.
    """
    if cert.is_revoked:
        return " [revoked]"
    try:
        expiration = cert.expiration
    except RuntimeError:
        return " [no valid self-signature]"
    return f" [expires: {expiration:%Y-%m-%d}]" if expiration else ""


def _algorithm(primary: Any) -> str:  # noqa: ANN401  # as above
    try:
        return str(primary.key_algorithm).rpartition(".")[2]
    except RuntimeError:  # a number that the library has no name for
        return "unknown"
