"""Links sign in once and expire; sessions end; tokens are for one change of one session."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from verdictd_py.console import sessions
from verdictd_py.console.sessions import LinkInvalid, Session, Sessions, TokenInvalid
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.errors import Overloaded

PERSON = Caller("uid 1000 (console)", ROLES["operator"])


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def _token(session: Session, change: str) -> str:
    """Return the token of a page with one form."""
    tokens = session.new_tokens()
    token = tokens(change)
    session.accept(tokens.made)
    return token


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Sessions:
    return Sessions(clock)


def test_a_link_signs_in_once(store: Sessions) -> None:
    code = store.link(PERSON)
    secret, session = store.sign_in(code)
    assert session.caller == PERSON
    assert store.of_secret(secret) is session
    with pytest.raises(LinkInvalid):
        store.sign_in(code)


def test_a_link_expires(store: Sessions, clock: Clock) -> None:
    code = store.link(PERSON)
    clock.now += sessions.LINK_SECONDS
    with pytest.raises(LinkInvalid):
        store.sign_in(code)


def test_only_the_newest_links_are_valid(store: Sessions) -> None:
    first, *_, last = [store.link(PERSON) for _ in range(sessions.MAX_LINKS + 1)]
    with pytest.raises(LinkInvalid):
        store.sign_in(first)
    store.sign_in(last)


def test_wrong_codes_are_limited_by_peer_and_the_limit_ends(store: Sessions, clock: Clock) -> None:
    for _ in range(sessions.FAILURES):
        with pytest.raises(LinkInvalid):
            store.sign_in("guessed", "10.0.0.1")
    with pytest.raises(Overloaded):
        store.sign_in("guessed", "10.0.0.1")
    with pytest.raises(LinkInvalid):
        store.sign_in("guessed", "10.0.0.2")
    clock.now += sessions.FAILURE_SECONDS
    with pytest.raises(LinkInvalid):
        store.sign_in("guessed", "10.0.0.1")


def test_wrong_codes_lock_nobody_out(store: Sessions) -> None:
    code = store.link(PERSON)
    for _ in range(3 * sessions.FAILURES):
        with pytest.raises((LinkInvalid, Overloaded)):
            store.sign_in("guessed", "127.0.0.1")
    store.sign_in(code, "127.0.0.1")


def test_the_number_of_peers_is_limited(store: Sessions) -> None:
    for _ in range(sessions.FAILURES):
        with pytest.raises(LinkInvalid):
            store.sign_in("guessed", "first")
    for number in range(sessions.MAX_PEERS):
        with pytest.raises(LinkInvalid):
            store.sign_in("guessed", f"peer {number}")
    with pytest.raises(LinkInvalid):  # it is forgotten
        store.sign_in("guessed", "first")


def test_a_page_that_reloads_itself_does_not_extend_a_session(
    store: Sessions, clock: Clock
) -> None:
    secret, _ = store.sign_in(store.link(PERSON))
    for _ in range(3):
        clock.now += sessions.IDLE_SECONDS / 4
        assert store.of_secret(secret, use=False) is not None
    clock.now += sessions.IDLE_SECONDS / 4
    assert store.of_secret(secret, use=False) is None


def test_an_idle_session_ends(store: Sessions, clock: Clock) -> None:
    secret, _ = store.sign_in(store.link(PERSON))
    clock.now += sessions.IDLE_SECONDS - 1
    assert store.of_secret(secret) is not None
    clock.now += sessions.IDLE_SECONDS
    assert store.of_secret(secret) is None


def test_a_session_in_use_ends_too(store: Sessions, clock: Clock) -> None:
    secret, _ = store.sign_in(store.link(PERSON))
    for _ in range(int(sessions.SESSION_SECONDS // sessions.IDLE_SECONDS)):
        assert store.of_secret(secret) is not None
        clock.now += sessions.IDLE_SECONDS - 1
    clock.now += sessions.IDLE_SECONDS - 1
    assert store.of_secret(secret) is None


def test_the_number_of_sessions_is_limited(store: Sessions, clock: Clock) -> None:
    secrets = []
    for _ in range(sessions.MAX_SESSIONS + 1):
        clock.now += 1
        secrets.append(store.sign_in(store.link(PERSON))[0])
    assert store.of_secret(secrets[0]) is None
    assert store.of_secret(secrets[-1]) is not None


def test_a_session_can_be_ended(store: Sessions) -> None:
    secret, _ = store.sign_in(store.link(PERSON))
    store.end(secret)
    assert store.of_secret(secret) is None


def test_a_token_is_for_one_change(store: Sessions) -> None:
    _, session = store.sign_in(store.link(PERSON))
    token = _token(session, "/keys/create")
    with pytest.raises(TokenInvalid):
        session.spend(token, "/keys/delete")
    with pytest.raises(TokenInvalid):  # it was spent by the attempt
        session.spend(token, "/keys/create")
    token = _token(session, "/keys/create")
    session.spend(token, "/keys/create")
    with pytest.raises(TokenInvalid):
        session.spend(token, "/keys/create")


def test_a_token_is_for_its_session(store: Sessions) -> None:
    _, one = store.sign_in(store.link(PERSON))
    _, other = store.sign_in(store.link(PERSON))
    with pytest.raises(TokenInvalid):
        other.spend(_token(one, "/keys/create"), "/keys/create")


def test_the_number_of_tokens_is_limited(store: Sessions) -> None:
    _, session = store.sign_in(store.link(PERSON))
    first, *_, last = [_token(session, "/x") for _ in range(sessions.MAX_TOKENS + 1)]
    with pytest.raises(TokenInvalid):
        session.spend(first, "/x")
    session.spend(last, "/x")


def test_no_secret_is_in_a_repr(store: Sessions) -> None:
    secret, session = store.sign_in(store.link(PERSON))
    token = _token(session, "/x")
    assert secret not in repr(session)
    assert token not in repr(session)


def test_a_certificate_has_the_role_of_now(store: Sessions) -> None:
    session = store.of_certificate("d1", PERSON)
    less = Caller("certificate a", ROLES["wrap"])
    assert store.of_certificate("d1", less) is session
    assert session.caller == less
    assert store.of_certificate("d2", PERSON) is not session
