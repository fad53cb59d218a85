"""TLS in memory: what a session holds between messages."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL

from tests.tees.support import platform
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.protocols.ratstls.session import RECORD_BYTES, TlsSession, server_context

LONG = b"x" * (4 * RECORD_BYTES)


@pytest.fixture(params=[SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def sessions(request: pytest.FixtureRequest) -> tuple[TlsSession, TlsSession]:
    """A session of the broker and one of a guest with evidence, after their handshake."""
    identity = ServerIdentity.create()
    settings = server_context(identity.certificate, identity.private_key)
    settings.set_max_proto_version(request.param)
    guest_settings = guest_context(SimulatedAttester(platform()), Form.CURRENT, now=app.utc_now())
    broker = TlsSession(settings, server=True)
    guest = TlsSession(guest_settings, server=False)
    complete = False
    while not complete:
        guest_complete = guest.handshake()
        deliver(guest, broker)
        complete = broker.handshake() and guest_complete
        deliver(broker, guest)
    return broker, guest


def deliver(sender: TlsSession, receiver: TlsSession) -> None:
    if data := sender.outgoing():
        receiver.receive(data)


def received(session: TlsSession) -> bytes:
    text = b""
    while part := session.read():
        text += part
    return text


def buffers(session: TlsSession) -> tuple[Any, Any]:
    """Return OpenSSL's buffers in memory, which pyOpenSSL does not document."""
    return session._connection._into_ssl, session._connection._from_ssl


def exchange(broker: TlsSession, guest: TlsSession, text: bytes) -> None:
    guest.write(text)
    deliver(guest, broker)
    assert received(broker) == text
    broker.write(text)
    deliver(broker, guest)
    assert received(guest) == text


Sessions = tuple[TlsSession, TlsSession]


def test_buffers_of_large_messages_are_released(sessions: Sessions) -> None:
    broker, guest = sessions
    for text in (b"", LONG, b"y" * RECORD_BYTES):  # the first one is after the handshake
        if text:
            exchange(broker, guest, text)
        before = buffers(broker)
        broker.release_buffers()
        assert not set(before) & set(buffers(broker))
        exchange(broker, guest, b"request")
        exchange(broker, guest, LONG)


def test_buffers_of_small_messages_are_not_replaced(sessions: Sessions) -> None:
    broker, guest = sessions
    broker.release_buffers()
    before = buffers(broker)
    exchange(broker, guest, b"request")
    broker.release_buffers()
    assert buffers(broker) == before


def test_nothing_that_is_in_a_buffer_is_lost(sessions: Sessions) -> None:
    broker, guest = sessions
    guest.write(LONG)
    deliver(guest, broker)
    assert broker.read()
    broker.release_buffers()
    assert len(received(broker)) == len(LONG) - RECORD_BYTES
    broker.write(LONG)
    broker.release_buffers()
    deliver(broker, guest)
    assert received(guest) == LONG


def test_the_end_of_a_connection_is_seen_after_a_release(sessions: Sessions) -> None:
    broker, guest = sessions
    broker.release_buffers()
    guest.close()
    deliver(guest, broker)
    with pytest.raises(Exception, match="closed"):
        broker.read()


def test_a_release_before_the_handshake_is_complete_changes_nothing() -> None:
    identity = ServerIdentity.create()
    settings = server_context(identity.certificate, identity.private_key)
    broker = TlsSession(settings, server=True)
    before = buffers(broker)
    broker.release_buffers()
    assert buffers(broker) == before
