"""OpenPGP keyrings as guests read them: public certificates, binary, one after the other.

Pure functions on bytes over pysequoia; no gpg program, no GnuPG home.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from pysequoia import Cert
from pysequoia.packet import PacketPile, Tag

from verdictd_py.errors import NotFound, RequestError, StorageError, VerdictdError

MAX_IMPORT_BYTES: Final = 1024 * 1024
"""Certificates with many signatures on them reach some 100 KiB."""

MAX_CERTIFICATES: Final = 1000
"""In one keyring; guests read all of them for each image."""

_KEY_TAGS: Final = (Tag.PublicKey, Tag.PublicSubkey)


class SequoiaKeyringEditor:
    """Port `KeyringEditor`."""

    def added(self, keyring: bytes, certificates: bytes) -> bytes:
        if len(certificates) > MAX_IMPORT_BYTES:
            raise RequestError(f"the certificates are larger than {MAX_IMPORT_BYTES} bytes")
        kept = {cert.fingerprint: cert for cert in _stored(keyring)}
        found = _parse(certificates, _import_error)
        if not found:
            raise RequestError(
                "there is no OpenPGP certificate in it; give what gpg --export writes"
            )
        if any(_is_secret(cert) for cert in found):
            raise RequestError(
                "it holds a secret key, which no broker needs; give what gpg --export writes, "
                "and consider that key as seen"
            )
        for cert in found:
            known = kept.get(cert.fingerprint)
            kept[cert.fingerprint] = cert if known is None else known.merge(cert)
        if len(kept) > MAX_CERTIFICATES:
            raise RequestError(f"a keyring has at most {MAX_CERTIFICATES} certificates")
        return b"".join(bytes(cert) for cert in kept.values())

    def without(self, keyring: bytes, which: str) -> bytes:
        certs = _stored(keyring)
        meant = [cert for cert in certs if _names(cert, which)]
        if not meant:
            raise NotFound("the keyring has no certificate of that fingerprint, key id or e-mail")
        if len(meant) > 1:
            listed = ", ".join(cert.fingerprint.upper() for cert in meant)
            raise RequestError(f"several certificates are meant; name one by fingerprint: {listed}")
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return Cert.split_bytes(data)
    except RuntimeError as error:
        # The first line is the cause; a backtrace of the library follows.
        raise failure(str(error).partition("\n")[0]) from None


def _import_error(cause: str) -> VerdictdError:
    return RequestError(f"it is no OpenPGP certificate: {cause}; give what gpg --export writes")


def _storage_error(cause: str) -> VerdictdError:
    return StorageError(f"the keyring cannot be read: {cause}; store what gpg --export writes")


def _is_secret(cert: Cert) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the library has no other way to ask
        return bool(cert.has_secret_keys)


def _packets(cert: Cert, *tags: Any) -> Iterator[Any]:  # noqa: ANN401  # the library has no types
    return (packet for packet in PacketPile.from_bytes(bytes(cert)) if packet.tag in tags)


def _names(cert: Cert, which: str) -> bool:
    """Whether `which` is a fingerprint or key id of it or its subkeys, or an e-mail address."""
    wanted = which.strip().lower()
    if "@" in wanted:
        wanted = wanted.strip("<>")
        return any(_email(packet).lower() == wanted for packet in _packets(cert, Tag.UserID))
    wanted = wanted.removeprefix("0x").replace(" ", "")
    return any(
        wanted in {str(packet.fingerprint).lower(), str(packet.key_id).lower()}
        for packet in _packets(cert, *_KEY_TAGS)
    )


def _email(packet: Any) -> str:  # noqa: ANN401  # as above
    try:
        return packet.user_id_email or ""
    except RuntimeError:  # a user id is any text
        return ""


def _lines(cert: Cert) -> Iterator[str]:
    """As gpg shows a certificate."""
    primary = next(_packets(cert, Tag.PublicKey))
    algorithm = str(primary.key_algorithm).rpartition(".")[2]
    state = f" [expires: {cert.expiration:%Y-%m-%d}]" if cert.expiration else ""
    if cert.is_revoked:
        state = " [revoked]"
    yield f"pub   {algorithm} {primary.key_created:%Y-%m-%d}{state}"
    yield f"      {cert.fingerprint.upper()}"
    for user_id in cert.user_ids:
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(user_id))
        yield f"uid   {text}"
