"""Envelopes: what they authenticate, and the cache of data keys."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.formats.sealed import MAX_OVERHEAD_BYTES, Envelope, parse_header
from verdictd_py.ports.sealing import (
    DATA_KEY_BYTES,
    SealBroken,
    SealedName,
    SealUnavailable,
)
from verdictd_py.sealing.datakeys import MAX_DATA_KEYS, DataKeys
from verdictd_py.sealing.keyfile import KeyFile
from verdictd_py.sealing.sealer import EnvelopeSealer

NAME = SealedName("key", "keys/default/key/1", 7)
CONTENT = b"the content"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kek"
    path.write_bytes(secrets.token_bytes(32))
    path.chmod(0o400)
    return path


@pytest.fixture
def sealer(path: Path) -> EnvelopeSealer:
    return EnvelopeSealer(KeyFile(path))


async def test_the_content_is_not_in_the_envelope(sealer: EnvelopeSealer) -> None:
    first, second = [await sealer.seal(NAME, CONTENT) for _ in range(2)]
    assert CONTENT not in first
    assert first != second
    assert parse_header(first).revision == 7
    assert len(first) == parse_header(first).overhead + len(CONTENT)
    assert parse_header(first).overhead <= MAX_OVERHEAD_BYTES


@pytest.mark.parametrize(
    "other",
    [
        replace(NAME, kind="resource"),
        replace(NAME, path="keys/default/key/2"),
        replace(NAME, kind="keykeys/", path="default/key/1"),
        replace(NAME, revision=6),
        replace(NAME, revision=8),
    ],
)
async def test_an_envelope_of_another_name_is_refused_and_named(
    sealer: EnvelopeSealer, other: SealedName
) -> None:
    sealed = await sealer.seal(NAME, CONTENT)
    with pytest.raises(SealBroken, match=other.path):
        await sealer.unseal(other, sealed)


async def test_every_altered_byte_is_refused(sealer: EnvelopeSealer) -> None:
    sealed = await sealer.seal(NAME, CONTENT)
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises(SealBroken):
            await sealer.unseal(NAME, bytes(altered))


async def test_every_truncated_envelope_is_refused(sealer: EnvelopeSealer) -> None:
    sealed = await sealer.seal(NAME, CONTENT)
    for size in range(len(sealed)):
        with pytest.raises(SealBroken):
            await sealer.unseal(NAME, sealed[:size])


async def test_a_plain_object_is_refused(sealer: EnvelopeSealer) -> None:
    for plain in (b"", bytes(32), b"a longer text without any magic"):
        with pytest.raises(SealBroken, match="not sealed"):
            await sealer.unseal(NAME, plain)


async def test_a_data_key_of_another_envelope_does_not_fit(sealer: EnvelopeSealer) -> None:
    one, two = [Envelope.parse(await sealer.seal(NAME, CONTENT)) for _ in range(2)]
    mixed = replace(one.header, wrapped=two.header.wrapped).encode() + one.ciphertext
    with pytest.raises(SealBroken):
        await sealer.unseal(NAME, mixed)


async def test_another_kek_is_refused(sealer: EnvelopeSealer, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(secrets.token_bytes(32))
    other.chmod(0o400)
    sealed = await sealer.seal(NAME, CONTENT)
    with pytest.raises(SealBroken):
        await EnvelopeSealer(KeyFile(other)).unseal(NAME, sealed)


async def test_without_a_cache_an_outage_refuses_at_once(
    sealer: EnvelopeSealer, path: Path
) -> None:
    sealed = await sealer.seal(NAME, CONTENT)
    await sealer.unseal(NAME, sealed)
    path.rename(path.with_name("away"))
    with pytest.raises(SealUnavailable):
        await sealer.check()
    with pytest.raises(SealUnavailable, match=NAME.path):
        await sealer.unseal(NAME, sealed)


async def test_a_cached_data_key_serves_an_outage_until_it_expires(path: Path) -> None:
    now = 0.0
    sealer = EnvelopeSealer(KeyFile(path), DataKeys(60, lambda: now))
    sealed = await sealer.seal(NAME, CONTENT)
    other = await sealer.seal(replace(NAME, revision=8), CONTENT)
    await sealer.unseal(NAME, sealed)
    path.rename(path.with_name("away"))
    with pytest.raises(SealUnavailable):
        await sealer.check()
    now = 59.0
    assert await sealer.unseal(NAME, sealed) == CONTENT  # its use does not extend the time
    with pytest.raises(SealUnavailable):
        await sealer.unseal(replace(NAME, revision=8), other)
    altered = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    with pytest.raises(SealBroken):
        await sealer.unseal(NAME, altered)
    now = 60.0
    with pytest.raises(SealUnavailable):
        await sealer.unseal(NAME, sealed)


def test_the_cache_is_bounded_and_empties_itself() -> None:
    now = 0.0
    cache = DataKeys(60, lambda: now)
    key = SecretBytes(bytes(DATA_KEY_BYTES))
    for number in range(MAX_DATA_KEYS + 5):
        cache.add("v", number.to_bytes(4, "big"), b"", key)
    assert len(cache) == MAX_DATA_KEYS
    assert cache.get("v", (0).to_bytes(4, "big"), b"") is None
    assert cache.get("v", (MAX_DATA_KEYS).to_bytes(4, "big"), b"") is not None
    assert cache.get("v", (MAX_DATA_KEYS).to_bytes(4, "big"), b"other") is None
    now = 60.0
    cache.expire()
    assert len(cache) == 0
