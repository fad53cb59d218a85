"""Splitting the byte stream into requests: every split, size and abuse."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from verdictd_py.encoding import MAX_CONTAINERS, MAX_DEPTH
from verdictd_py.errors import RequestError
from verdictd_py.protocols.eaa.reader import MAX_REQUEST_BYTES, RequestReader

_SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(st.text(max_size=8), _VALUES, max_size=5)


def read_all(chunks: list[bytes]) -> tuple[list[Any], bool, bool]:
    """Return the requests, whether the stream then failed, and whether one is incomplete."""
    reader = RequestReader()
    requests: list[Any] = []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (request := reader.next_request()) is not None:
                requests.append(request)
    except RequestError:
        return requests, True, reader.pending
    return requests, False, reader.pending


def singles(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


@given(
    objects=st.lists(_OBJECTS, max_size=4),
    space=st.text(alphabet=" \t\r\n", max_size=3),
    escape=st.booleans(),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_any_split_gives_the_same_requests(
    objects: list[Any], space: str, escape: bool, cuts: list[int]
) -> None:
    """Requests may share a record, span records and have white space (defects.md 5)."""
    text = space.join(["", *(json.dumps(o, ensure_ascii=escape) for o in objects), ""])
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[a:b] for a, b in pairwise(edges)]
    assert read_all([data]) == (objects, False, False)
    assert read_all(chunks) == (objects, False, False)
    assert read_all(singles(data)) == (objects, False, False)


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\\u0dD8 1eN-', max_size=60))
@examples(400)
def test_arbitrary_bytes_raise_only_request_errors(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    for stream in (raw, b"{" + raw, b'{"a":' + raw + b"}"):
        assert read_all([stream]) == read_all(singles(stream))


@pytest.mark.parametrize(
    "data",
    [
        b"version",
        b"[1]",
        b'"command"',
        b"\xff{}",
        b"\xef\xbb\xbf{}",
        b"\0{}",
        b'{"command":"\xff"}',
        b'{"command":version}',
        b'{"command":"version",}',
        b"{]",
        b'{"a":[}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":"\\ud800"}',
        b'{"\\uDFFF":1}',
        b'{"a":1,"a":2}',
        b'{"a":"line\nbreak"}',
    ],
)
def test_what_is_no_request(data: bytes) -> None:
    """Malformed JSON and UTF-8 raise, and nothing else (defects.md 4)."""
    reader = RequestReader()
    reader.feed(data)
    with pytest.raises(RequestError):
        reader.next_request()
    reader.feed(b"{}")
    with pytest.raises(RequestError):  # the stream stays broken
        reader.next_request()
    assert not reader.pending


def test_requests_before_an_error_are_still_read() -> None:
    reader = RequestReader()
    reader.feed(b' {"a":1}{"b":2} oops')
    assert reader.next_request() == {"a": 1}
    assert reader.next_request() == {"b": 2}
    with pytest.raises(RequestError, match="begins with"):
        reader.next_request()


def test_surrogate_pairs_are_text() -> None:
    assert read_all([rb'{"a":"\ud83d\ude00"}']) == ([{"a": "\U0001f600"}], False, False)


def test_pending_is_from_the_first_byte_to_the_last() -> None:
    reader = RequestReader()
    seen = []
    for chunk in (b"", b" \n", b"{", b'"a":1', b"} \n", b" {"):
        reader.feed(chunk)
        request = reader.next_request()
        seen.append((request is not None, reader.pending))
    assert seen == [
        (False, False),
        (False, False),
        (False, True),
        (False, True),
        (True, False),
        (False, True),
    ]


def padded(size: int) -> bytes:
    """Return a request of exactly `size` bytes."""
    frame = b'{"command":"echo","data":""}'
    return frame[:-2] + b"x" * (size - len(frame)) + frame[-2:]


@pytest.mark.parametrize("size", [4095, 4096, 4097, 5000, 16_383, 16_384, 16_385])
@pytest.mark.parametrize("record", [1, 4096, 16_384, 1 << 20])
def test_sizes_mean_nothing(size: int, record: int) -> None:
    """A request over 4096 bytes, or over several records, is one request (defects.md 5)."""
    data = padded(size)
    assert len(data) == size
    chunks = [data[i : i + record] for i in range(0, size, record)]
    assert read_all(chunks) == ([json.loads(data)], False, False)


@pytest.mark.parametrize("record", [1000, 65_536, 1 << 21])
def test_cap(record: int) -> None:
    for size, refused in ((MAX_REQUEST_BYTES, False), (MAX_REQUEST_BYTES + 1, True)):
        data = padded(size) + b'{"next":1}'
        chunks = [data[i : i + record] for i in range(0, len(data), record)]
        requests, failed, _ = read_all(chunks)
        assert failed is refused
        assert len(requests) == (0 if refused else 2)


def test_an_endless_request_is_refused_at_the_cap() -> None:
    reader = RequestReader()
    reader.feed(b'{"a":"' + b"x" * (MAX_REQUEST_BYTES - 7))
    assert reader.next_request() is None
    reader.feed(b"x")
    with pytest.raises(RequestError, match="longer than"):
        reader.next_request()
    assert not reader.pending


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return b'{"a":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth(opening: bytes, closing: bytes) -> None:
    """The depth is bounded before the decoder recurses."""
    requests, failed, _ = read_all([nested(MAX_DEPTH, opening, closing)])
    assert (len(requests), failed) == (1, False)
    for depth in (MAX_DEPTH + 1, 100_000):
        assert read_all([nested(depth, opening, closing)]) == ([], True, False)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 255, 256, 257, 10_000])
def test_many_escapes_and_strings_are_read_whatever_their_number(size: int) -> None:
    """The reader skips 256 of each at a time."""
    members = {"a": "\\}" * 700, "b": '"' * 257, **{f"{number}{{": "]" for number in range(600)}}
    data = json.dumps(members).encode()
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert read_all([*chunks, *chunks]) == ([members] * 2, False, False)


def test_brackets_in_strings_are_text() -> None:
    data = json.dumps({"a": "{[" * 100 + '"}]\\', "\\": '\\"{'}).encode()
    assert read_all(singles(data + data)) == ([json.loads(data)] * 2, False, False)


@pytest.mark.parametrize(
    "body",
    [b"x" * (MAX_REQUEST_BYTES - 40), b'\\"' * (MAX_REQUEST_BYTES // 2 - 20)],
    ids=["plain", "escapes"],
)
@pytest.mark.timing
def test_time_is_linear_a_byte_at_a_time(body: bytes) -> None:
    """1 MiB in single bytes takes about two seconds; rescanning would take minutes."""
    data = b'{"command":"echo","data":"' + body + b'"}'
    reader = RequestReader()
    began = time.process_time()
    for i in range(len(data)):
        reader.feed(data[i : i + 1])
        if reader.next_request() is not None:
            break
    else:
        pytest.fail("the request was not read")
    assert time.process_time() - began < 10


@pytest.mark.timing
def test_time_is_linear_in_members() -> None:
    """Inputs with a high cost per byte (strings, members, small requests) are read in time."""
    strings = b'{"a":[' + b'"",' * 60_000 + b"0]}"
    too_many = b'{"a":[' + b'"",' * 340_000 + b"0]}"
    members = b"{" + b",".join(b'"%d":0' % i for i in range(60_000)) + b',"0":1}'
    small = b"{}" * 50_000
    began = time.process_time()
    assert len(read_all([strings])[0]) == 1
    assert read_all([too_many]) == ([], True, False)
    assert read_all([members]) == ([], True, False)
    assert len(read_all([small])[0]) == 50_000
    assert time.process_time() - began < 10


def test_brackets_are_bounded() -> None:
    """Every bracket costs a step in Python, so a request of brackets only is refused."""
    for count, refused in ((MAX_CONTAINERS - 2, False), (MAX_CONTAINERS - 1, True)):
        data = b'{"a":[' + b"[]," * count + b"0]}"
        assert read_all([data])[1] is refused
        assert read_all(singles(data))[1] is refused
