"""Wraps layer keys for the image owner, and unwraps them for who may."""

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
    """The key provider's two operations.

    Args:
        max_new_keys_per_minute: keys that wrapping may create; whoever may only wrap
            must not be able to fill the store.
        allow_a256ctr: unwrap packets without a tag.
        random: so many random bytes.
        monotonic: seconds, for the bound per minute.
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
        """The packet for the layer's annotation.

        Raises:
            NotAuthorized: `caller` may not wrap.
            NotFound: the key does not exist, and the form of the parameter makes none.
            RequestError: the parameter is refused, or too many keys were made.
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
        """The packet for `optsdata` under `key`, in the form the parameter asks for.

        Raises:
            NotAuthorized: `caller` may not wrap.
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
        """The layer key's options that `packet` wraps.

        Raises:
            NotAuthorized: `caller` may not unwrap.
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
            pass  # coco_keyprovider's form makes a key that is missing
        try:
            return await self._create(caller, key_id)
        except AlreadyExists as taken:
            # Another wrap made it since; or something else has the name, and the store says what.
            try:
                return await self._keys.get(key_id)
            except NotFound:
                raise AlreadyExists(f"{taken}; wrap with another keyid") from None

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
