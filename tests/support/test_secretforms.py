"""The search for secrets finds a secret in each form, and nothing else."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

import pytest

from tests.support.secretforms import forms, secrets_in

RANDOM = random.Random(19)  # noqa: S311  # repeatable

WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda secret: secret,
    "hex": lambda secret: secret.hex().encode(),
    "HEX": lambda secret: secret.hex().upper().encode(),
    "base64": base64.b64encode,
    "base64url": base64.urlsafe_b64encode,
    "base64url without padding": lambda secret: base64.urlsafe_b64encode(secret).rstrip(b"="),
    "bytea of a dump": lambda secret: b"\\\\x" + secret.hex().encode() + b"\t7",
    "hex of base64": lambda secret: base64.b64encode(secret).hex().encode(),
    "base64 of hex": lambda secret: base64.b64encode(secret.hex().encode()),
    "bytea of a document": lambda secret: (
        json.dumps({"key": base64.b64encode(secret).decode()}).encode().hex().encode()
    ),
    "payload of a token": lambda secret: base64.urlsafe_b64encode(
        json.dumps({"key": secret.hex()}).encode()
    ).rstrip(b"="),
}


@pytest.mark.parametrize("size", [16, 31, 32, 33, 48])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_planted_secret_is_found_in_each_form(write: Callable[[bytes], bytes], size: int) -> None:
    secrets = {"planted": RANDOM.randbytes(size), "other": RANDOM.randbytes(size)}
    noise = RANDOM.randbytes(5000) + bytes(5000)
    content = noise + b'"' + write(secrets["planted"]) + b'"' + noise
    assert secrets_in(content, secrets) == {"planted"}


@pytest.mark.parametrize("size", [16, 17, 18, 32])
@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("behind", range(4))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_each_alignment_of_base64_is_a_form(
    size: int, before: int, behind: int, encode: Callable[[bytes], bytes]
) -> None:
    """Without the decoding of whole runs, which does not find the beginning of every run."""
    secret = RANDOM.randbytes(size)
    text = encode(RANDOM.randbytes(before) + secret + RANDOM.randbytes(behind))
    assert any(form in text for form in forms(secret))


def test_other_bytes_are_not_found() -> None:
    secret = RANDOM.randbytes(32)
    for content in (RANDOM.randbytes(1_000_000), secret[:31], secret[1:].hex().encode(), b""):
        assert not secrets_in(content, {"secret": secret})


def test_a_short_secret_cannot_be_searched() -> None:
    with pytest.raises(ValueError, match="too short"):
        forms(b"hunter2")
