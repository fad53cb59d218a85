"""Wrapping of layer keys for image owners, and unwrapping for callers with the right."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from verdictd_py.broker import ciphers
from verdictd_py.broker.release import decrypt_blob
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import (
    ImageKeyUnwrapped,
    ImageKeyWrapped,
    KeyCreated,
    KeyRead,
    WrapRequested,
)
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.domain.wrapping import WrappedBlob
from verdictd_py.errors import AlreadyExists, NotFound, RequestError
from verdictd_py.ports import Events, KeyStore
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, KbsKey, NewKey, Parameter

_MINUTE: Final = 60.0


class Wrapper:
    """The two operations of the key provider.

    Args:
        max_new_keys_per_minute: maximum number of keys that wrapping creates, so that callers
            allowed only to wrap cannot fill the store.
        allow_a256ctr: whether packets without a tag are unwrapped.
        random: returns a number of random bytes.
        monotonic: returns seconds, for the limit per minute.
    """

    def __init__(
        self,
        *,
        keys: KeyStore,
        events: Events,
        max_new_keys_per_minute: int = 60,
        allow_a256ctr: bool = False,
        random: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._events = events
        self._allow_a256ctr = allow_a256ctr
        self._random = random
        self._monotonic = monotonic
        self._created: deque[float] = deque(maxlen=max_new_keys_per_minute)

    async def wrap(
        self, caller: Caller, parameter: Parameter, optsdata: SecretBytes
    ) -> AnnotationPacket:
        """Wrap the options of a layer, and return the packet for its annotation.

        Raises:
            NotAuthorized: `caller` is not allowed to wrap.
            NotFound: the key does not exist, and this form of the parameter does not create it.
            RequestError: the parameter is refused, or too many keys were created.
            StorageError: the key cannot be used.
        """
        caller.require(Right.WRAP)
        self._events.record(
            WrapRequested(caller=caller.name, parameter=type(parameter).__name__, optsdata=optsdata)
        )
        match parameter:
            case ExistingKey():
                key = await self._keys.get(parameter.key_id)
            case NewKey():
                parameter = ExistingKey(KeyId((str(uuid4()),)))
                key = await self._create(caller, parameter.key_id)
            case KbsKey(keypath=None):
                key = await self._get_or_create(caller, parameter.key_id)
            case KbsKey():
                raise RequestError(
                    "keypath= names a file of the client's host, which the broker does not open; "
                    "leave it out, or use verdictd-py keyprovider"
                )
        return self.seal(caller, parameter, key, optsdata)

    def seal(
        self,
        caller: Caller,
        parameter: ExistingKey | KbsKey,
        key: SecretBytes,
        optsdata: SecretBytes,
    ) -> AnnotationPacket:
        """Return the packet with `optsdata` encrypted by `key`, in the requested form.

        Raises:
            NotAuthorized: `caller` is not allowed to wrap.
        """
        caller.require(Right.WRAP)
        algorithm = parameter.algorithm
        self._events.record(KeyRead(kid=parameter.kid, key=key))
        iv = self._random(algorithm.iv_bytes)
        ciphertext = ciphers.encrypt(algorithm, key, iv, optsdata)
        self._events.record(
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
        self._events.record(ImageKeyUnwrapped(caller=caller.name, kid=packet.kid))
        return optsdata

    async def _get_or_create(self, caller: Caller, key_id: KeyId) -> SecretBytes:
        try:
            return await self._keys.get(key_id)
        except NotFound:
            pass  # coco_keyprovider creates a missing key for this form of the parameter
        try:
            return await self._create(caller, key_id)
        except AlreadyExists as error:
            # Another wrap created the key meanwhile; or another object has its name.
            try:
                return await self._keys.get(key_id)
            except NotFound:
                raise AlreadyExists(f"{error}; wrap with another keyid") from None

    async def _create(self, caller: Caller, key_id: KeyId) -> SecretBytes:
        now = self._monotonic()
        if len(self._created) == self._created.maxlen and now - self._created[0] < _MINUTE:
            raise RequestError(
                f"{self._created.maxlen} keys were created within a minute; wait, wrap with an "
                "existing key, or have the operator raise max_new_keys_per_minute"
            )
        self._created.append(now)
        key = SecretBytes(self._random(KEY_BYTES))
        await self._keys.create(key_id, key)
        self._events.record(KeyCreated(caller=caller.name, kid=str(key_id)))
        return key
