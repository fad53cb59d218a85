"""The conversation without IO: each request once, in order, and its end."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from verdictd_py.domain.names import KeyId
from verdictd_py.errors import RequestError
from verdictd_py.protocols.eaa.answers import FailureForm
from verdictd_py.protocols.eaa.conversation import MAX_KNOWN_BYTES, Conversation, Received
from verdictd_py.protocols.eaa.messages import Echo, GetKek, Kid, Unknown, Version

VERSION = b'{"command":"version"}'
KEK = b'{"command":"Get KEK","kids":["one"]}'


def received(*parts: bytes) -> list[Received]:
    conversation, found = Conversation(), []
    for part in parts:
        conversation.receive(part)
        while (request := conversation.next_request()) is not None:
            found.append(request)
    return found


def test_requests_are_typed_and_in_their_order() -> None:
    first, second = received(VERSION + KEK)
    assert first == Received("version", Version(), FailureForm.VERSION)
    assert second == Received("Get KEK", GetKek((Kid("one", KeyId(("one",))),)), FailureForm.A)


@given(st.integers(0, len(VERSION + KEK)))
@examples(40)
def test_records_split_anywhere_make_the_same_requests(at: int) -> None:
    assert received((VERSION + KEK)[:at], (VERSION + KEK)[at:]) == received(VERSION, KEK)


def test_a_request_that_is_not_complete_is_pending() -> None:
    conversation = Conversation()
    assert not conversation.pending
    conversation.receive(VERSION + KEK[:-1])
    assert conversation.next_request() is not None
    assert conversation.next_request() is None
    assert conversation.pending
    conversation.receive(KEK[-1:])
    assert conversation.next_request() is not None
    assert not conversation.pending


def test_a_malformed_or_unknown_request_leaves_the_conversation_open() -> None:
    bad, unknown, good = received(
        b'{"command":"Get Resource Info","name":1}{"command":"Destroy"}' + VERSION
    )
    assert isinstance(bad.request, RequestError)
    assert (bad.command, bad.failure_form) == ("Get Resource Info", FailureForm.B)
    assert not bad.closes
    assert json.loads(bad.failure("no such resource")) == {
        "status": "Fail",
        "error": "no such resource",
    }
    assert unknown.request == Unknown("Destroy")
    assert good.request == Version()


@pytest.mark.parametrize("bad", [b"[]", b'{"command":1}', b"{}", b'{"a":}', b"\x00"])
def test_nothing_is_read_after_bytes_without_a_command(bad: bytes) -> None:
    (only,) = received(bad + VERSION, VERSION)
    assert isinstance(only.request, RequestError)
    assert (only.command, only.failure_form, only.closes) == (None, FailureForm.A, True)


def test_nothing_is_read_after_echo() -> None:
    (only,) = received(b'{"command":"echo","data":"x"}' + VERSION, KEK)
    assert (only.request, only.closes) == (Echo("x"), True)


def test_a_request_that_was_read_before_is_not_read_again() -> None:
    ((first,), (second,)) = received(KEK), received(KEK)
    assert first.request is second.request
    request = KEK.replace(b"one", b'one","' + b"k" * (MAX_KNOWN_BYTES - len(KEK)))
    (long,), (again,) = received(request), received(request)
    assert long == again
    assert long.request is not again.request


@pytest.mark.parametrize("rest", [KEK, KEK[:5], b" ", b"}"])
def test_a_known_request_that_others_follow_before_it_is_taken(rest: bytes) -> None:
    conversation = Conversation()
    conversation.receive(KEK)
    conversation.receive(rest)
    assert conversation.pending
    first, second = conversation.next_request(), conversation.next_request()
    assert first is not None
    assert first.command == "Get KEK"
    if rest == KEK:
        assert second == first
    elif rest == b"}":
        assert second is not None
        assert second.closes
    else:
        assert second is None
        assert conversation.pending == (rest == KEK[:5])


def test_a_malformed_request_has_an_error_of_its_own() -> None:
    bad = b'{"command":"Get KEK","kids":1}'
    assert received(bad)[0].request is not received(bad)[0].request
