"""Lines of the audit trail: their canonical form, and what is no line of the chain."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.errors import StorageError
from verdictd_py.events.chain import FIRST, read_record, sealed

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_NAMES = st.sampled_from(("connection", "event", "fields", "time", "aa", "digesa", "digest2"))
_CONNECTIONS = st.from_regex(r"[0-9a-f]{16}", fullmatch=True) | _VALUES


def written(members: dict[str, Any]) -> bytes:
    """The line by its definition: JSON with sorted names, and the digest of all other members."""

    def canonical(of: dict[str, Any]) -> str:
        return json.dumps(of, sort_keys=True, separators=(",", ":"))

    digest = hashlib.sha256(canonical(members).encode()).hexdigest()
    return canonical({**members, "digest": digest}).encode() + b"\n"


@given(st.dictionaries(_NAMES, _VALUES, max_size=5), _CONNECTIONS, st.booleans())
def test_a_line_is_that_of_the_definition_and_is_read_again(
    members: dict[str, Any], connection: object, with_connection: bool
) -> None:
    members = {**members, "number": 3}
    if with_connection:
        members["connection"] = connection
    line, digest = sealed(members, FIRST)
    assert line == written({**members, "previous": FIRST})
    assert read_record(line, 3, FIRST) == {**members, "previous": FIRST, "digest": digest}


LINE = sealed({"connection": "0123456789abcdef", "event": "x", "fields": {}, "number": 0}, FIRST)[0]
DIGEST = json.loads(LINE)["digest"].encode()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(LINE.replace(b"abcdef", b"abcdee"), id="another connection"),
        pytest.param(LINE.replace(b'"x"', b'"y"'), id="another event"),
        pytest.param(LINE.replace(b'"event"', b' "event"'), id="a space"),
        pytest.param(LINE.replace(b'"event"', b'"event":"x","event"'), id="a member twice"),
        pytest.param(LINE.replace(b'"x"', rb'"\u0078"'), id="an escape"),
        pytest.param(LINE.replace(DIGEST, DIGEST.upper()), id="a digest in capitals"),
        pytest.param(LINE.replace(DIGEST, DIGEST + b"0"), id="a longer digest"),
        pytest.param(LINE.replace(b'"' + DIGEST + b'"', b"1"), id="a digest that is a number"),
        pytest.param(
            LINE.replace(b'"0123456789abcdef"', b'{"digest":"' + DIGEST + b'","x":1}'),
            id="a connection with a digest",
        ),
        pytest.param(LINE[:-1] + b"{}\n", id="two objects"),
        pytest.param(LINE[:-1], id="no end"),
        pytest.param(b"[" + LINE[:-1] + b"]\n", id="an array"),
        pytest.param(b"{" * 100_000 + b"\n", id="deep"),
    ],
)
def test_a_changed_line_is_refused(line: bytes) -> None:
    with pytest.raises(StorageError, match=r"^line 1 "):
        read_record(line, 0, FIRST)
