"""Attack: an input that a parser neither reads nor refuses with its own error, or that takes long.

Each parser reads its seeds, and a fixed number of changes of them. `./dev fuzz` is the long form.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.parsers import PARSERS, Parser
from verdictd_py import daemon as app
from verdictd_py.errors import ConfigError
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.tees.intel.collateral import sources

CHANGES = 60
MAX_SECONDS = 0.1
"""CPU time of one input of the sizes below."""

INTERESTING = (b"\x00", b"\xff", b"\x80", b'"', b"\\", b"{", b"[", b"-", b"9" * 40, b"\xed\xa0\x80")


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
@pytest.mark.timing
def test_every_input_is_read_or_refused(parser: Parser) -> None:
    chance = random.Random(13)  # noqa: S311  # the same inputs each time
    seeds = list(parser.seeds())
    assert seeds
    for seed in seeds:
        parser.run(seed)  # the first run loads tables, too
    for _ in range(CHANGES):
        data = changed(chance.choice(seeds), chance)
        if seconds(parser, data) > MAX_SECONDS:  # only a time that repeats counts
            assert min(seconds(parser, data) for _ in range(3)) < MAX_SECONDS, data[:200]


def changed(seed: bytes, chance: random.Random) -> bytes:
    """Return a seed with some bytes replaced, removed, repeated or inserted."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice([0, 1, 1, 2, 4, 16, 256]))
        insert = chance.choice([b"", bytes(data[at:end]) * 2, *INTERESTING, chance.randbytes(2)])
        data[at:end] = insert
    return bytes(data)


def seconds(parser: Parser, data: bytes) -> float:
    begin = time.process_time()
    parser.run(data)
    return time.process_time() - begin


def of_unknown_version(crl: bytes) -> bytes:
    """Return a revocation list with version 17 in place of 2."""
    return crl.replace(bytes.fromhex("020101"), bytes.fromhex("020110"), 1)


def with_a_bit_string_as_name(crl: bytes) -> bytes:
    """Return a revocation list whose issuer's first name is a BIT STRING."""
    return crl.replace(
        bytes.fromhex("0603550403") + b"\x0c", bytes.fromhex("0603550403") + b"\x03", 1
    )


@pytest.mark.parametrize("change", [of_unknown_version, with_a_bit_string_as_name])
def test_a_file_with_an_unusual_revocation_list_is_refused_by_name(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """Found by fuzzing: the library's errors for them are not ValueError."""
    platform = SimulatedPlatform.create(now=app.utc_now())
    collateral = platform.collateral(app.utc_now())
    crl = change(collateral.pck_crl)
    assert crl != collateral.pck_crl
    file = tmp_path / "collateral.json"
    text = collateral_json(collateral)
    file.write_text(text.replace(collateral.pck_crl.hex(), crl.hex()))
    with pytest.raises(ConfigError, match="revocation list"):
        sources.FileCollateral(file)
