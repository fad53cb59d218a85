"""Secrets are never displayed by accident."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports import Kind, StoredObject

BYTES = b"hunter2-hunter2-hunter2-hunter2!"
SECRET = SecretBytes(BYTES)


@dataclass
class Holder:
    """A dataclass with a secret in a field."""

    secret: SecretBytes


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        lambda secret: f"{secret} {secret!r} {secret!s} {secret!a}",
        lambda secret: f"{secret:x}{secret:>100}",
        lambda secret: "{} {:s}".format(secret, secret),  # noqa: UP032  # what is tested
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031  # what is tested
        lambda secret: repr([secret, (secret,), {"key": secret}]),
        lambda secret: str(Holder(secret)),
        lambda secret: repr(StoredObject(Kind.KEY, "keys/x", secret)),
        lambda secret: repr(ValueError(secret)) + str(ValueError("of", secret)),
        lambda secret: logging.makeLogRecord({"msg": "%s", "args": (secret,)}).getMessage(),
        lambda secret: json.dumps({"secret": secret}, default=str),
        lambda secret: str(dir(secret)),
        lambda secret: str(secret.__reduce_ex__) + str(SecretBytes.__doc__),
    ],
)
def test_no_text_form_contains_the_bytes(show: Callable[[SecretBytes], str]) -> None:
    """defects.md 2."""
    text = show(SECRET)
    assert "hunter2" not in text
    assert BYTES.hex() not in text


def test_a_traceback_with_values_does_not_contain_the_bytes() -> None:
    """defects.md 2."""

    def fails(secret: SecretBytes) -> None:
        raise ValueError(f"cannot use {secret}")

    try:
        fails(SECRET)
    except ValueError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(shown.format())
    assert "<32 secret bytes>" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "leave",
    [
        *(lambda secret, n=number: pickle.dumps(secret, n) for number in range(6)),
        lambda secret: pickle.dumps({"nested": [secret]}),
        copy.copy,
        copy.deepcopy,
        lambda secret: asdict(Holder(secret)),
        json.dumps,
        vars,
        bytes,
        bytearray,
        memoryview,
        list,
        hash,
        lambda secret: {secret},
        lambda secret: secret + b"",
        lambda secret: b"" + secret,
        lambda secret: b"".join([secret]),
        lambda secret: secret[0],
        lambda secret: b"h" in secret,
        lambda secret: secret < SecretBytes(b""),
    ],
)
def test_only_reveal_returns_the_bytes(leave: Callable[[SecretBytes], object]) -> None:
    """defects.md 2."""
    with pytest.raises(TypeError) as refused:
        leave(SECRET)
    assert "hunter2" not in str(refused.value)


@given(st.binary(), st.binary())
def test_secrets_with_equal_bytes_are_equal(left: bytes, right: bytes) -> None:
    assert (SecretBytes(left) == SecretBytes(right)) is (left == right)
    assert SecretBytes(left) != left
    assert SecretBytes(left).reveal() == left
    assert len(SecretBytes(left)) == len(left)


def test_formatting_shows_the_size_of_the_secret() -> None:
    assert f"{SECRET}" == f"{SECRET:>99}" == repr(SECRET)
