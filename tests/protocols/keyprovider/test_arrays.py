"""Large arrays of integers: the same bytes as in base64, and refused wherever JSON refuses them."""

from __future__ import annotations

import base64
import json

import pytest

from tests.protocols.keyprovider.test_protocol import wrap_json
from verdictd_py.encoding import decode_byte_string, decode_object
from verdictd_py.errors import RequestError
from verdictd_py.protocols.keyprovider import protocol
from verdictd_py.protocols.keyprovider.arrays import encode_array, shorten_arrays

OCTETS = bytes(range(256)) * 400
TEXT = json.dumps(list(OCTETS))
PARAMETERS = {"a": [""]}


def wrapping(array: str) -> bytes:
    """A request whose optsdata is this text of an array."""
    return wrap_json(PARAMETERS, "optsdata").replace(b'"optsdata": "optsdata"', _member(array))


def _member(array: str) -> bytes:
    return b'"optsdata": ' + array.encode()


@pytest.mark.parametrize(
    "array",
    [TEXT, TEXT.replace(" ", ""), TEXT.replace(", ", "\n\t,\r "), f"[ {TEXT[1:-1]} ]"],
    ids=["spaces", "compact", "white space", "inner spaces"],
)
def test_a_large_array_is_shortened(array: str) -> None:
    data = wrapping(array)
    assert len(shorten_arrays(data)) < len(base64.b64encode(OCTETS)) + 300
    assert protocol.decode_wrap(data, provider=None).optsdata.reveal() == OCTETS


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("255", "256"),
        ("255", "-1"),
        ("255", "1.0"),
        ("255", "1e0"),
        ("255", "true"),
        ("255", "null"),
        ("255", '"1"'),
        ("255", "[1]"),
        ("255", "01"),
        ("255", "2 5"),
        ("255", ""),
        ("255", "9" * 5000),
        ("[0, ", "[, "),
        ("[0, ", "[0, , "),
        ("255]", "255, ]"),
        ("255]", "]"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_an_array_with_another_element_is_refused(before: str, after: str, last: bool) -> None:
    head, separator, tail = TEXT.rpartition(before) if last else TEXT.partition(before)
    assert separator
    with pytest.raises(RequestError):
        protocol.decode_wrap(wrapping(head + after + tail), provider=None)


def test_commas_between_two_steps_are_refused() -> None:
    """Every comma is tried, so that one of them ends a step."""
    small = json.dumps([1] * 70_000, separators=(",", ":"))
    for at in range(2, 2 + 2 * 20_000, 2):
        changed = f'{{"a":{small[:at]},{small[at:]}}}'.encode()
        if shorten_arrays(changed) != changed:
            pytest.fail(f"an array without an element at {at} was shortened")
        if at > 33_000:
            break


@pytest.mark.parametrize(
    "data",
    [
        json.dumps({"a": TEXT}).encode(),
        json.dumps({"a": f"b:{TEXT}"}).encode(),
        json.dumps({"a": f'"b":{TEXT}'}).encode(),
        json.dumps({"\\": 1, "a": list(OCTETS)}).encode(),
        f"{{{TEXT}:1}}".encode(),
        f'{{"a":[{TEXT}]}}'.encode(),
        f'{{"a"{TEXT}}}'.encode(),
        TEXT.encode(),
    ],
    ids=[
        "text",
        "text with a colon",
        "text with quotes",
        "escape before",
        "name",
        "in array",
        "no colon",
        "no object",
    ],
)
def test_what_is_not_the_value_of_a_member_stays_as_it_is(data: bytes) -> None:
    assert shorten_arrays(data) == data


def test_several_arrays_are_shortened_where_they_stand() -> None:
    values = {"a": list(OCTETS), "b": [1, 2], "c": "[", "d": list(OCTETS[::-1]), "e": {"f": "]"}}
    data = json.dumps(values).encode()
    found = decode_object(shorten_arrays(data), "it")
    assert decode_byte_string(found.pop("a"), "a", len(OCTETS)) == OCTETS
    assert decode_byte_string(found.pop("d"), "d", len(OCTETS)) == OCTETS[::-1]
    assert found == {"b": [1, 2], "c": "[", "e": {"f": "]"}}


@pytest.mark.parametrize("filler", [b"[", b"]", b"[]", b'"', b'"[', b"\\", b"[1],"])
def test_the_time_is_linear(filler: bytes) -> None:
    """A search from each bracket to the next would take minutes."""
    shorten_arrays(filler * (8_000_000 // len(filler)))


@pytest.mark.parametrize("size", [0, 1, 255, 16 * 1024, 16 * 1024 + 1, 100_000])
def test_arrays_are_written_as_json(size: int) -> None:
    octets = OCTETS[:size]
    assert encode_array(octets) == json.dumps(list(octets), separators=(",", ":")).encode()
