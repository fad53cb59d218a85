"""Wrapping of layer keys for image owners, and unwrapping for callers with the right."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import uuid4

from verdictd_py.broker import ciphers
from verdictd_py.broker.recording import record_and_change
from verdictd_py.broker.release import decrypt_blob
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import (
    ImageKeyUnwrapped,
    ImageKeyWrapped,
    KeyCreated,
    KeyRead,
    WrapRefused,
    WrapRequested,
)
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.domain.wrapping import WrappedBlob
from verdictd_py.errors import (
    AlreadyExists,
    NotAuthorized,
    NotFound,
    Overloaded,
    RequestError,
    StorageError,
    VerdictdError,
)
from verdictd_py.ports import Events, KeyStore
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, KbsKey, NewKey, Parameter

_MINUTE: Final = 60.0
_PATH_SEGMENTS: Final = 3

_UNAVAILABLE: Final = (
    "the key is not available for wrapping; ask the operator: the log event wrap.refused has the "
    "reason, and 'verdict-py key adopt PATH' makes a resource of 32 bytes a key"
)
"""The same for every reason: a caller who may only wrap must not learn which names exist."""


class Wrapper:
    """The two operations of the key provider.

    Callers with the right to manage may create any key by wrapping. Other callers may create
    keys below a prefix only, and get the same refusal for all reasons. A request without a
    parameter names no key, so its refusal at the limit of new keys discloses no name.

    ocicrypt sends one request for each layer of an image, so a request without a parameter creates
    one key a layer.

    Args:
        max_new_keys_per_minute: maximum number of keys that a caller may create by wrapping.
        new_keys_below: first segments of the names of keys that callers without the right to
            manage may create; None for no keys.
        default_key: key for requests without a parameter; None to create one for each.
        allow_a256ctr: unwrap packets without a tag.
        random: returns as many random bytes as its argument says.
        monotonic: monotonic clock in seconds, for the limit of each minute.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        events: Events,
        max_new_keys_per_minute: int = 60,
        new_keys_below: tuple[str, ...] | None = None,
        default_key: ExistingKey | KbsKey | None = None,
        allow_a256ctr: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._events = events
        self._new_keys_below = new_keys_below
        self._default_key = default_key
        self._allow_a256ctr = allow_a256ctr
        self._random = random
        self._monotonic = monotonic
        self._creating = asyncio.Lock()
        self._quotas = _Quotas(max_new_keys_per_minute)

    def limit_new_keys(self, per_minute: int) -> None:
        """Change the maximum number of keys that a caller may create by wrapping in a minute."""
        self._quotas.most = per_minute

    async def wrap(
        self, caller: Caller, parameter: Parameter, optsdata: SecretBytes
    ) -> AnnotationPacket:
        """Return the packet for the layer's annotation.

        Raises:
            NotAuthorized: `caller` may not wrap, or the key is not available to a caller without
                the right to manage.
            RequestError: the parameter is refused.
            NotFound: the key does not exist, and the form of the parameter creates none.
            Overloaded: the caller created too many keys.
            AlreadyExists, StorageError: the key cannot be created or used.
        """
        caller.require(Right.WRAP)
        if isinstance(parameter, NewKey) and self._default_key is not None:
            parameter = self._default_key
        self._events.record(
            WrapRequested(caller=caller.name, parameter=type(parameter).__name__, optsdata=optsdata)
        )
        if isinstance(parameter, KbsKey) and parameter.keypath is not None:
            raise RequestError(
                "keypath= names a file of the client's host, which the broker does not open; "
                "leave it out, or use verdictd-py keyprovider"
            )
        named = self._named(caller, parameter)
        try:
            key = await self._key(caller, parameter, named.key_id)
        except (AlreadyExists, NotAuthorized, NotFound, Overloaded, StorageError) as error:
            if Right.MANAGE in caller.rights:
                raise _with_remedy(error, named.key_id) from None
            self._events.record(
                WrapRefused(caller=caller.name, kid=named.kid, code=error.code, reason=str(error))
            )
            if isinstance(parameter, NewKey) and isinstance(error, Overloaded):
                raise
            raise NotAuthorized(_UNAVAILABLE) from None
        return await self.seal(caller, named, key, optsdata)

    def _named(self, caller: Caller, parameter: Parameter) -> ExistingKey | KbsKey:
        """Return the parameter; a new key gets a name that no other key has."""
        if not isinstance(parameter, NewKey):
            return parameter
        name = str(uuid4())
        if Right.MANAGE in caller.rights or self._new_keys_below is None:
            return ExistingKey(KeyId((name,)))
        return ExistingKey(KeyId((*self._new_keys_below, "image", name)[-3:]))

    async def _key(self, caller: Caller, parameter: Parameter, key_id: KeyId) -> SecretBytes:
        match parameter:
            case ExistingKey():
                return await self._keys.get(key_id)
            case NewKey():
                return await self._create(caller, key_id)
            case KbsKey():
                return await self._get_or_create(caller, key_id)

    async def seal(
        self,
        caller: Caller,
        parameter: ExistingKey | KbsKey,
        key: SecretBytes,
        optsdata: SecretBytes,
    ) -> AnnotationPacket:
        """Return the packet with `optsdata` encrypted by `key`, in the requested form.

        Raises:
            NotAuthorized: `caller` is not allowed to wrap.
            StorageError: the use of the key cannot be recorded.
        """
        caller.require(Right.WRAP)
        algorithm = parameter.algorithm
        self._events.record(KeyRead(kid=parameter.kid, key=key))
        iv = self._random(algorithm.iv_bytes)
        ciphertext = ciphers.encrypt(algorithm, key, iv, optsdata)
        await self._events.commit(
            ImageKeyWrapped(caller=caller.name, kid=parameter.kid, algorithm=algorithm.value)
        )
        blob = WrappedBlob(parameter.key_id, algorithm, iv, ciphertext)
        return AnnotationPacket(parameter.form, parameter.kid, blob)

    async def unwrap(self, caller: Caller, packet: AnnotationPacket) -> SecretBytes:
        """Return the options of the layer that `packet` wraps.

        Raises:
            NotAuthorized: `caller` is not allowed to unwrap.
            NotFound, StorageError, RequestError, DecryptionFailed: see `decrypt_blob`.
        """
        caller.require(Right.UNWRAP)
        key = await self._keys.get(packet.blob.key_id)
        optsdata = decrypt_blob(packet.blob, key, allow_a256ctr=self._allow_a256ctr)
        await self._events.commit(ImageKeyUnwrapped(caller=caller.name, kid=packet.kid))
        return optsdata

    async def _get_or_create(self, caller: Caller, key_id: KeyId) -> SecretBytes:
        try:
            return await self._keys.get(key_id)
        except NotFound:
            pass  # coco_keyprovider creates a missing key for this form of the parameter
        async with self._creating:  # concurrent wraps create, and record, a key once
            with suppress(NotFound):
                return await self._keys.get(key_id)
            try:
                return await self._create(caller, key_id)
            except AlreadyExists as error:
                # Another broker created the key meanwhile; or another object has its name.
                try:
                    return await self._keys.get(key_id)
                except NotFound:
                    raise AlreadyExists(f"{error}; wrap with another keyid") from None

    async def _create(self, caller: Caller, key_id: KeyId) -> SecretBytes:
        if Right.MANAGE not in caller.rights:
            self._require_below(key_id)
        self._quotas.take(caller.name, self._monotonic())
        key = SecretBytes(self._random(KEY_BYTES))
        created = KeyCreated(caller=caller.name, kid=str(key_id))
        await record_and_change(
            self._events, caller, str(key_id), (created,), lambda: self._keys.create(key_id, key)
        )
        return key

    def _require_below(self, key_id: KeyId) -> None:
        prefix = self._new_keys_below
        if prefix is None:
            raise NotAuthorized(
                "callers who may only wrap create no keys; create it with 'verdict-py key create', "
                "or set wrap_key_prefix"
            )
        if len(key_id.segments) <= len(prefix) or key_id.segments[: len(prefix)] != prefix:
            raise NotAuthorized(
                f"callers who may only wrap create keys below {'/'.join(prefix)}/ only; "
                "create it with 'verdict-py key create', or change wrap_key_prefix"
            )


def _with_remedy(error: VerdictdError, key_id: KeyId) -> VerdictdError:
    """Return the error for a caller who may know which names exist, with a remedy if it has none.

    Sites that move from trustee have keys that were uploaded as resources.
    """
    if not isinstance(error, (AlreadyExists, NotFound)) or len(key_id.segments) != _PATH_SEGMENTS:
        return error
    return type(error)(
        f"{error}; if this is a resource of 32 bytes, make it a key: verdict-py key adopt {key_id}"
    )


class _Quotas:
    """Counter of the keys that each caller created within the last minute.

    Attributes:
        most: maximum number of keys of a caller.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._created: dict[str, deque[float]] = {}

    def take(self, caller: str, now: float) -> None:
        """Count a key.

        Raises:
            Overloaded: the caller created too many.
        """
        for name, times in tuple(self._created.items()):
            while times and now - times[0] >= _MINUTE:
                times.popleft()
            if not times:
                del self._created[name]
        times = self._created.setdefault(caller, deque())
        if len(times) >= self.most:
            raise Overloaded(
                f"{self.most} keys were created within a minute (one key a layer without a "
                "parameter); wrap with an existing key, provider:attestation-agent:NAME, or have "
                "the operator set default_wrap_key or raise max_new_keys_per_minute",
                limit="new-keys",
            )
        times.append(now)
