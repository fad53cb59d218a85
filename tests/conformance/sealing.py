"""Conformance suite of the port `KeyEncryptionKey`, for each provider."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

import pytest

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.formats.sealed import Header
from verdictd_py.ports.sealing import (
    DATA_KEY_BYTES,
    MAX_WRAPPED_BYTES,
    KeyEncryptionKey,
    SealBroken,
    SealedName,
    SealUnavailable,
)
from verdictd_py.sealing.sealer import EnvelopeSealer

DATA_KEY = SecretBytes(bytes(range(DATA_KEY_BYTES)))
CONTEXT = bytes(32)
NAME = SealedName("key", "keys/default/key/1", 7)


class KeyEncryptionKeySuite(ABC):
    """Subclasses say how a provider is opened, rotated and disturbed."""

    @abstractmethod
    async def opened(self) -> KeyEncryptionKey:
        """Open the KEK; all that are opened in one test are the same key."""

    @abstractmethod
    async def rotate(self) -> None:
        """Add a newer version, while the older ones can still unwrap."""

    @abstractmethod
    async def retire(self) -> None:
        """Remove every version but the newest."""

    @abstractmethod
    async def interrupt(self) -> None:
        """Make the provider unusable: its file, token or server is gone."""

    @abstractmethod
    async def restore(self) -> None:
        """End what `interrupt` did."""

    @pytest.fixture
    async def kek(self) -> AsyncIterator[KeyEncryptionKey]:
        kek = await self.opened()
        yield kek
        await kek.close()

    async def test_a_wrapped_key_is_unwrapped(self, kek: KeyEncryptionKey) -> None:
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        assert await kek.unwrap(kek.current, wrapped, CONTEXT) == DATA_KEY

    async def test_a_wrapped_key_says_nothing_about_the_key(self, kek: KeyEncryptionKey) -> None:
        first, second = [await kek.wrap(DATA_KEY, CONTEXT) for _ in range(2)]
        assert first != second
        assert len(first) <= MAX_WRAPPED_BYTES
        assert DATA_KEY.reveal() not in first

    async def test_the_id_of_a_version_fits_into_an_envelope(self, kek: KeyEncryptionKey) -> None:
        await kek.check()
        Header(0, kek.current, b"wrapped", bytes(12)).encode()

    async def test_another_process_unwraps_it(self, kek: KeyEncryptionKey) -> None:
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        other = await self.opened()
        try:
            assert await other.unwrap(kek.current, wrapped, CONTEXT) == DATA_KEY
            assert other.current == kek.current
        finally:
            await other.close()

    async def test_another_context_is_refused(self, kek: KeyEncryptionKey) -> None:
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        with pytest.raises(SealBroken):
            await kek.unwrap(kek.current, wrapped, bytes([1]) * 32)

    async def test_an_altered_key_is_refused(self, kek: KeyEncryptionKey) -> None:
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        altered = [
            wrapped[:-1] + bytes((wrapped[-1] ^ 1,)),
            wrapped[:-1],
            wrapped + b"x",
            b"x",
        ]
        for bad in altered:
            with pytest.raises(SealBroken):
                await kek.unwrap(kek.current, bad, CONTEXT)
        assert await kek.unwrap(kek.current, wrapped, CONTEXT) == DATA_KEY

    async def test_an_unknown_version_is_refused(self, kek: KeyEncryptionKey) -> None:
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        for unknown in ("", "unknown", "file:0000000000000000", kek.current + "9"):
            with pytest.raises(SealBroken):
                await kek.unwrap(unknown, wrapped, CONTEXT)

    async def test_older_versions_unwrap_after_a_rotation(self, kek: KeyEncryptionKey) -> None:
        old = await kek.wrap(DATA_KEY, CONTEXT)
        before = kek.current
        await self.rotate()
        await kek.check()
        assert kek.current != before
        new = await kek.wrap(DATA_KEY, CONTEXT)
        assert await kek.unwrap(kek.current, new, CONTEXT) == DATA_KEY
        assert await kek.unwrap(before, old, CONTEXT) == DATA_KEY

    async def test_a_rotation_is_noticed_by_the_next_wrap(self, kek: KeyEncryptionKey) -> None:
        await kek.check()
        before = kek.current
        await self.rotate()
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        assert await kek.unwrap(kek.current, wrapped, CONTEXT) == DATA_KEY
        await kek.check()
        assert kek.current != before

    async def test_a_retired_version_is_refused(self, kek: KeyEncryptionKey) -> None:
        old = await kek.wrap(DATA_KEY, CONTEXT)
        before = kek.current
        await self.rotate()
        await self.retire()
        await kek.check()
        with pytest.raises(SealBroken):
            await kek.unwrap(before, old, CONTEXT)

    async def test_an_outage_is_reported_and_no_verdict(self, kek: KeyEncryptionKey) -> None:
        wrapped = await kek.wrap(DATA_KEY, CONTEXT)
        version = kek.current
        await self.interrupt()
        with pytest.raises(SealUnavailable) as refused:
            await kek.check()
        assert str(refused.value)
        for call in (kek.wrap(DATA_KEY, CONTEXT), kek.unwrap(version, wrapped, CONTEXT)):
            with pytest.raises(SealUnavailable):
                await call
        await self.restore()
        await kek.check()
        assert await kek.unwrap(version, wrapped, CONTEXT) == DATA_KEY

    async def test_many_callers_at_once(self, kek: KeyEncryptionKey) -> None:
        keys = [SecretBytes(bytes((number,)) * DATA_KEY_BYTES) for number in range(20)]
        wrapped = await asyncio.gather(*(kek.wrap(key, CONTEXT) for key in keys))
        version = kek.current
        unwrapped = await asyncio.gather(*(kek.unwrap(version, w, CONTEXT) for w in wrapped))
        assert list(unwrapped) == keys

    async def test_a_whole_object_is_sealed_and_unsealed(self, kek: KeyEncryptionKey) -> None:
        sealer = EnvelopeSealer(kek)
        for content in (b"", b"content", bytes(100_000)):
            sealed = await sealer.seal(NAME, content)
            assert await sealer.unseal(NAME, sealed) == content
