"""Editor of OpenPGP keyrings as guests read them: concatenated binary public certificates.

It works on bytes with pysequoia; it needs neither a gpg program nor a GnuPG home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from pysequoia import Cert
from pysequoia.packet import PacketPile, Tag

from verdictd_py.errors import NotFound, RequestError, StorageError, VerdictdError

MAX_IMPORT_BYTES: Final = 1024 * 1024
"""Maximum size of an import. A certificate with many signatures reaches some 100 KiB."""

MAX_CERTIFICATES: Final = 1000
"""Maximum number in one keyring; guests read all of them for each image."""

_MAX_NAMED: Final = 20
"""Maximum number of fingerprints in one message."""

_KEY_TAGS: Final = (Tag.PublicKey, Tag.PublicSubkey)
_SECRET_TAGS: Final = (Tag.SecretKey, Tag.SecretSubkey)

_ARMOUR_BEGINS: Final = b"-----BEGIN PGP "  # RFC 9580, 6.2
_ARMOUR_ENDS: Final = b"-----END PGP "
_DASHES: Final = b"-----"

_CAUSES: Final = {
    "Truncated packet": "the data is cut off",
    "unexpected EOF": "the data is cut off",
    "ASCII Armor": "the ASCII armour is damaged",
    "non-Cert packets": "the data contains packets other than certificates",
    "Unsupported primary key": "a key is damaged or of an unsupported type",
}
"""Causes in our words, by a part of the library's error text. The library's own text is not
repeated, because it can contain bytes of the key."""


class SequoiaKeyringEditor:
    """Implementation of the port `KeyringEditor` with pysequoia."""

    def add(self, keyring: bytes, certificates: bytes) -> bytes:
        if len(certificates) > MAX_IMPORT_BYTES:
            raise RequestError(f"the certificates are larger than {MAX_IMPORT_BYTES} bytes")
        stored = {cert.fingerprint: cert for cert in _stored(keyring)}
        imported = _parse(certificates, _import_error)
        if not imported:
            raise _import_error("the data contains no certificate")
        for cert in imported:
            known = stored.get(cert.fingerprint)
            stored[cert.fingerprint] = cert if known is None else known.merge(cert)
        if len(stored) > MAX_CERTIFICATES:
            raise RequestError(
                f"a keyring has at most {MAX_CERTIFICATES} certificates; delete some first"
            )
        return b"".join(bytes(cert) for cert in stored.values())

    def remove(self, keyring: bytes, which: str) -> bytes:
        certs = _stored(keyring)
        matching = [cert for cert in certs if _names(cert, which)]
        if not matching:
            raise NotFound("the keyring has no certificate of that fingerprint, key id or e-mail")
        if len(matching) > 1:
            named = ", ".join(cert.fingerprint.upper() for cert in matching[:_MAX_NAMED])
            more = f" and {len(matching) - _MAX_NAMED} more" if len(matching) > _MAX_NAMED else ""
            raise RequestError(
                f"several certificates match; name one by its fingerprint: {named}{more}"
            )
        return b"".join(bytes(cert) for cert in certs if cert is not matching[0])

    def describe(self, keyring: bytes) -> str:
        return "\n".join("\n".join(_lines(cert)) + "\n" for cert in _stored(keyring))


def _stored(keyring: bytes) -> list[Cert]:
    """Return the keyring's certificates, with duplicates merged.

    Raises:
        StorageError: the keyring cannot be read.
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
            parsed = Cert.split_bytes(block)
            for cert in parsed:
                bytes(cert)  # some certificates can be read but not written
            # The packets of the block, not of the parsed certificates: the library drops those
            # secret keys that it can read, and retains those that it cannot.
            secret = next(_packets(block, *_SECRET_TAGS), None)
        except RuntimeError as error:
            first_line = str(error).partition("\n")[0]  # a backtrace of the library follows
            causes = (cause for part, cause in _CAUSES.items() if part in first_line)
            raise failure(next(causes, "the data is damaged")) from None
        if secret is not None:
            raise failure("the data contains a secret key, which must be considered compromised")
        certs += parsed
    return certs


def _blocks(data: bytes, failure: Callable[[str], VerdictdError]) -> Iterator[bytes]:
    """Yield binary data as it is, or each armoured block; only text may stand between blocks.

    The check is needed because the library ignores everything after the data that it can read.
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
            raise failure("the data is cut off")
        at = closing + len(_DASHES)
        yield data[begin:at]
    _check_text(data[at:], failure)


def _check_text(data: bytes, failure: Callable[[str], VerdictdError]) -> None:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        raise failure("there is binary data next to the armour") from None


def _import_error(cause: str) -> VerdictdError:
    return RequestError(f"the certificates are refused: {cause}; give what gpg --export writes")


def _storage_error(cause: str) -> VerdictdError:
    return StorageError(f"the keyring cannot be read: {cause}; store what gpg --export writes")


def _packets(data: bytes, *tags: Any) -> Iterator[Any]:  # noqa: ANN401  # the library has no types
    return (packet for packet in PacketPile.from_bytes(data) if _tag(packet) in tags)


def _tag(packet: Any) -> Any:  # noqa: ANN401  # as above
    try:
        return packet.tag
    except RuntimeError:  # a tag unknown to the library, which certificates may contain
        return None


def _names(cert: Cert, which: str) -> bool:
    """Return whether `which` names the certificate.

    Names are the fingerprints and key ids of its keys and subkeys, and its e-mail addresses.
    """
    wanted = which.strip().lower()
    if "@" in wanted:
        wanted = wanted.strip("<>")
        return any(_email(packet).lower() == wanted for packet in _packets(bytes(cert), Tag.UserID))
    wanted = "".join(wanted.removeprefix("0x").split())
    return any(
        wanted == name.lower()
        for packet in _packets(bytes(cert), *_KEY_TAGS)
        for name in (packet.fingerprint, packet.key_id)
        if name is not None  # None for key versions unknown to the library
    )


def _email(packet: Any) -> str:  # noqa: ANN401  # as above
    try:
        return packet.user_id_email or ""
    except RuntimeError:  # a user id may be any text
        return ""


def _lines(cert: Cert) -> Iterator[str]:
    """Yield the description of a certificate in lines like those of gpg."""
    primary = next(_packets(bytes(cert), Tag.PublicKey))
    yield f"pub   {_algorithm(primary)} {primary.key_created:%Y-%m-%d}{_state(cert)}"
    yield f"      {cert.fingerprint.upper()}"
    try:
        names = [str(user_id) for user_id in cert.user_ids]
        mark = ""
    except RuntimeError:  # no valid self-signature (`_state`): the names may be forged
        packets = _packets(bytes(cert), Tag.UserID)
        names = [packet.body.decode("utf-8", "replace") for packet in packets]
        mark = "[unverified] "
    for name in names:
        yield f"uid   {mark}{''.join(c if c.isprintable() else ascii(c)[1:-1] for c in name)}"


def _state(cert: Cert) -> str:
    """Return the marks for revocation, expiry, or a missing self-signature.

    The library reports no expiry for certificates without a self-signature or with one of
    SHA-1 only; guests may accept such certificates all the same.
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
    except RuntimeError:  # an algorithm unknown to the library
        return "unknown"
