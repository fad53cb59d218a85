"""Provider `pkcs11:`: key-encryption keys in a hardware security module (PKCS#11, RFC 7512).

The versions are the AES keys with the label that the URI names. CKA_ID distinguishes them: the one
with the greatest id is the newest, unless the URI names an id. The token wraps and unwraps with
AES-GCM (CKM_AES_GCM); the key never leaves it.

All calls of the library are made in one thread, because not every library can do more. A token
that does not answer in time counts as unavailable; another thread takes the place of this one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.formats.pkcs11uri import Pkcs11Uri
from verdictd_py.ports.sealing import DATA_KEY_BYTES, SealBroken, SealUnavailable
from verdictd_py.secretfiles import (
    CREDENTIAL,
    SecretFileUnusable,
    credential_file,
    read_secret_file,
)

if TYPE_CHECKING:
    from types import ModuleType

SECONDS: Final = 10.0
"""Time limit of one call, including the login."""

_NONCE_BYTES: Final = 12
_TAG_BITS: Final = 128
_WRAPPED_BYTES: Final = _NONCE_BYTES + DATA_KEY_BYTES + _TAG_BITS // 8
_MAX_PIN_BYTES: Final = 256
_PREFIX: Final = "pkcs11:"

Result = TypeVar("Result")


def open_key(location: str) -> Pkcs11Key:
    """Open a `pkcs11:` URI; see `OpenKey`."""
    uri = Pkcs11Uri.parse(location)
    try:
        import pkcs11  # noqa: PLC0415  # an optional dependency
    except ImportError:
        raise ConfigError(
            "--seal pkcs11: needs python-pkcs11; run 'pip install verdictd-py[pkcs11]'"
        ) from None
    return Pkcs11Key(uri, pkcs11)


class Pkcs11Key:
    """Port `KeyEncryptionKey` on a token.

    Args:
        library: the module `pkcs11`.
    """

    def __init__(self, uri: Pkcs11Uri, library: ModuleType) -> None:
        self._token = _Token(uri, library)
        self._thread = _new_thread()

    @property
    def current(self) -> str:
        return self._token.newest

    async def wrap(self, data_key: SecretBytes, context: bytes) -> bytes:
        return await self._call(lambda: self._token.wrap(data_key.reveal(), context))

    async def unwrap(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes:
        return await self._call(lambda: self._token.unwrap(version, wrapped, context))

    async def check(self) -> None:
        await self._call(self._token.check)

    async def close(self) -> None:
        self._thread.submit(self._token.close)
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[], Result]) -> Result:
        """Do work in the thread.

        Raises:
            SealUnavailable: the token does not answer in time.
        """
        thread = self._thread
        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.get_running_loop().run_in_executor(thread, work)
        except TimeoutError:
            if thread is self._thread:
                self._thread = _new_thread()
                self._token = self._token.replaced()
                thread.shutdown(wait=False, cancel_futures=True)
            raise SealUnavailable(
                f"the PKCS#11 token does not answer within {SECONDS:g} s; check its connection"
            ) from None


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="pkcs11")


class _Token:
    """A session with a token; only the thread of `Pkcs11Key` uses it.

    Attributes:
        newest: id of the newest version; empty before the first use.
    """

    def __init__(
        self, uri: Pkcs11Uri, library: ModuleType, refused: SecretBytes | None = None
    ) -> None:
        self.newest = ""
        self._uri = uri
        self._p = library
        self._refused = refused
        self._session: Any = None
        self._keys: dict[str, Any] = {}

    def replaced(self) -> _Token:
        """Return a token without a session, in place of one that does not answer."""
        return _Token(self._uri, self._p, self._refused)

    def wrap(self, data_key: bytes, context: bytes) -> bytes:
        def work() -> bytes:
            self._find_keys()  # a newer version may have been created
            nonce = secrets.token_bytes(_NONCE_BYTES)
            return nonce + bytes(self._encrypt(self._keys[self.newest], nonce, data_key, context))

        return self._with_session(work)

    def unwrap(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes:
        """Unwrap a data key.

        Libraries report a wrong tag by different errors, some of which have other causes, too.
        Therefore a failure is a verdict only if the token still works.
        """
        nonce, ciphertext = wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:]

        def work() -> SecretBytes | None:
            if version not in self._keys:
                self._find_keys()
            key = self._keys.get(version)
            if key is None:
                raise SealBroken(f"the token has no key with the version {version}; restore it")
            if len(wrapped) != _WRAPPED_BYTES:
                raise SealBroken("the wrapped data key has another size")
            try:
                return SecretBytes(self._decrypt(key, nonce, ciphertext, context))
            except self._p.PKCS11Error:
                self._try(key)
                return None

        data_key = self._with_session(work)
        if data_key is None:
            raise SealBroken("the wrapped data key does not authenticate")
        return data_key

    def check(self) -> None:
        def work() -> None:
            self._find_keys()
            self._try(self._keys[self.newest])

        self._with_session(work)

    def close(self) -> None:
        session, self._session, self._keys = self._session, None, {}
        if session is not None:
            try:
                session.close()
            except self._p.PKCS11Error:
                return  # the token is gone

    def _with_session(self, work: Callable[[], Result]) -> Result:
        """Do work with a session; once more with another session if it has failed.

        Raises:
            SealUnavailable: the token cannot be used.
        """
        try:
            if self._session is not None:
                return work()
        except self._p.PKCS11Error:
            self.close()
        try:
            self._open()
            return work()
        except self._p.PKCS11Error as error:
            self.close()
            cause = str(error) or type(error).__name__
            raise SealUnavailable(
                f"the PKCS#11 token cannot be used: {cause}; check the token, the PIN and the key "
                "that --seal names"
            ) from None

    def _open(self) -> None:
        uri = self._uri
        try:
            library = self._p.lib(uri.module)
        except (self._p.PKCS11Error, RuntimeError, OSError) as error:
            raise SealUnavailable(
                f"the PKCS#11 library {uri.module} cannot be loaded: {error}; correct module-path"
            ) from None
        pin = None if uri.pin_source is None else read_pin(uri.pin_source)
        if pin is not None and pin == self._refused:
            # The check of the health would lock the token within a minute otherwise.
            raise SealUnavailable(
                "the PKCS#11 token has refused this PIN, which is not tried again, because tokens "
                "lock themselves; write the right one to pin-source, or start the broker again"
            )
        try:
            token = self._find_token(library)
        except self._p.PKCS11Error:
            library.reinitialize()  # it may know only the tokens of its start
            token = self._find_token(library)
        try:
            self._session = token.open(user_pin=None if pin is None else pin.reveal().decode())
        except self._p.UserAlreadyLoggedIn:  # by another session of this process
            self._session = token.open()
        except (self._p.PinIncorrect, self._p.PinInvalid, self._p.PinLenRange):
            self._refused = pin
            raise
        self._refused = None
        self._find_keys()

    def _find_token(self, library: Any) -> Any:  # noqa: ANN401  # of an untyped library
        named = self._uri.token
        slot = self._uri.slot
        found = [
            token
            for each in library.get_slots(token_present=True)
            if slot is None or each.slot_id == slot
            for token in (each.get_token(),)
            if all(_field(token, name) == wanted for name, wanted in named.items())
        ]
        if len(found) != 1:
            raise self._p.NoSuchToken(f"{len(found)} tokens have the attributes of the URI")
        return found[0]

    def _find_keys(self) -> None:
        p, uri = self._p, self._uri
        template = {p.Attribute.CLASS: p.ObjectClass.SECRET_KEY}
        if uri.label is not None:
            template[p.Attribute.LABEL] = uri.label
        else:
            template[p.Attribute.ID] = uri.key_id
        keys = {bytes(key.id): key for key in self._session.get_objects(template)}
        named = uri.key_id if uri.key_id is not None else max(keys, key=_order, default=b"")
        if named not in keys:
            raise p.NoSuchKey("the token has no key of this label and id")
        self._keys = {version_of(key_id): key for key_id, key in keys.items()}
        self.newest = version_of(named)

    def _try(self, key: Any) -> None:  # noqa: ANN401  # of an untyped library
        """Wrap and unwrap a constant.

        Raises:
            PKCS11Error: the token cannot do that now.
        """
        nonce, context = secrets.token_bytes(_NONCE_BYTES), b"check"
        ciphertext = self._encrypt(key, nonce, bytes(DATA_KEY_BYTES), context)
        self._decrypt(key, nonce, ciphertext, context)

    def _encrypt(self, key: Any, nonce: bytes, text: bytes, context: bytes) -> bytes:  # noqa: ANN401
        return bytes(key.encrypt(text, **self._mechanism(nonce, context)))

    def _decrypt(self, key: Any, nonce: bytes, text: bytes, context: bytes) -> bytes:  # noqa: ANN401
        return bytes(key.decrypt(text, **self._mechanism(nonce, context)))

    def _mechanism(self, nonce: bytes, context: bytes) -> dict[str, Any]:
        p = self._p
        parameters = p.GCMParams(nonce, aad=context, tag_bits=_TAG_BITS)
        return {"mechanism": p.Mechanism.AES_GCM, "mechanism_param": parameters}


def version_of(key_id: bytes) -> str:
    """Return the id of a version: its CKA_ID in hex, at most 120 bytes of it."""
    return f"{_PREFIX}{key_id[:120].hex()}"


def read_pin(source: str) -> SecretBytes:
    """Read a PIN from a file, `file:/path`, `/path`, or `credential:NAME` of systemd.

    Raises:
        SealUnavailable: it cannot be used (see `read_secret_file`), or is not ASCII.
    """
    try:
        path = Path(source.removeprefix("file:"))
        if source.startswith(CREDENTIAL):
            path = credential_file(source)
        pin = read_secret_file(path, "PIN", max_bytes=_MAX_PIN_BYTES).reveal().rstrip(b"\r\n")
    except (SecretFileUnusable, ValueError) as error:
        raise SealUnavailable(f"pin-source: {error}") from None
    if not pin or not pin.isascii():
        raise SealUnavailable(f"the file {path} has no PIN; write it there, without anything else")
    return SecretBytes(pin)


def _order(key_id: bytes) -> tuple[int, bytes]:
    """Order of ids: as numbers."""
    number = key_id.lstrip(b"\0")
    return len(number), number


def _field(token: Any, name: str) -> str:  # noqa: ANN401  # of an untyped library
    names = {"token": "label", "manufacturer": "manufacturer_id"}
    value = getattr(token, names.get(name, name))
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value)).strip()
