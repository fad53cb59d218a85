"""Attack: an HTTP client writes the address of another one into `X-Forwarded-For`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import elapse, until
from tests.support.kbs_raw import Link, linked, request
from verdictd_py.config import Settings, parse_networks
from verdictd_py.listeners.proxies import MAX_HOPS, ForwardedForInvalid, Proxies

PROXIES = Proxies(forwarded_for=parse_networks("10.0.0.0/24, 2001:db8:1::5"))
PROXY = PROXIES.peer(("10.0.0.5", 4711))


def test_an_address_that_is_not_one_is_refused() -> None:
    with pytest.raises(ValueError, match="not an address or a network"):
        Settings(forwarded_for_from="proxy.example")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not an address or a network"):
        Settings(proxy_protocol_from="10.0.0.5/24")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "client"),
    [
        ([], "10.0.0.5:4711"),
        (["192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
        (["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
        (["rubbish,192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.0.0.9, 2001:db8:1::5"], "192.0.2.7"),
        (["198.51.100.1, 192.0.2.7, 10.0.0.9"], "192.0.2.7"),
        (["10.0.0.8,10.0.0.9"], "10.0.0.8"),
        (["192.0.2.7:5000"], "192.0.2.7"),
        (["[2001:db8::7]:5000"], "2001:db8::7"),
        (["2001:db8::7"], "2001:db8::7"),
        ([",".join(["192.0.2.7"] + ["10.0.0.9"] * (MAX_HOPS - 1))], "192.0.2.7"),
        ([",".join(["192.0.2.7"] + ["10.0.0.9"] * MAX_HOPS)], "10.0.0.9"),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_proxy(
    fields: list[str], client: str
) -> None:
    assert PROXIES.forwarded(PROXY, fields).text == client


@pytest.mark.parametrize("text", ["", "unknown", "192.0.2.7,", "_hidden", "1.2.3.4.5", "::1::"])
def test_a_value_of_a_proxy_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ForwardedForInvalid):
        PROXIES.forwarded(PROXY, [text])


def test_clients_of_a_proxy_share_no_limit_with_each_other() -> None:
    assert not PROXY.source.limited
    first, second = (PROXIES.forwarded(PROXY, [text]).source for text in ("192.0.2.7", "192.0.2.8"))
    assert first.limited
    assert first != second


async def ask(link: Link, forwarded: str | None) -> int:
    headers: dict[str, Any] = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    await link.send(request("GET", "/kbs/v0/jwks", headers=headers))
    found = await link.answer()
    assert found is not None
    return found.status


def peers(broker: RunningBroker) -> list[str]:
    return [str(event["peer"]) for event in broker.events.named("request.answered")]


@pytest.mark.broker(kbs=True, forwarded_for_from="127.0.0.1")
class TestNamedProxies:
    async def test_each_request_has_the_address_of_its_client(self, broker: RunningBroker) -> None:
        async with linked(broker) as link:
            own = link.writer.get_extra_info("sockname")
            for forwarded in ("198.51.100.1, 192.0.2.7", "192.0.2.8", None):
                assert await ask(link, forwarded) == 200
        assert peers(broker) == ["192.0.2.7", "192.0.2.8", f"{own[0]}:{own[1]}"]

    async def test_a_value_that_cannot_be_read_is_refused(self, broker: RunningBroker) -> None:
        async with linked(broker) as link:
            assert await ask(link, "unknown") == 400
        (event,) = broker.events.named("request.failed")
        assert "configure the proxy" in str(event["reason"])

    @pytest.mark.broker(
        kbs=True, forwarded_for_from="127.0.0.1", max_connections=200, max_unattested_per_address=2
    )
    async def test_limits_are_those_of_the_client(self, broker: RunningBroker) -> None:
        """Two slow requests of a client are in progress; its third one closes the oldest."""
        body = b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n"
        links = []
        for host in ("192.0.2.8", "192.0.2.7", "192.0.2.7", "192.0.2.7"):
            port = broker.kbs.address.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(body + f"X-Forwarded-For: {host}\r\n\r\nx".encode())
            links.append(Link(reader, writer))
            await until(
                lambda: (
                    sum(each.answering for each in broker.kbs._acceptor._tasks.values() if each)
                    + len(broker.events.named("connection.refused"))
                    == len(links)
                )
            )
            await elapse(0)
        assert broker.events.named("connection.refused")
        assert await links[1].closed()
        (event,) = broker.events.named("connection.refused")
        assert event["peer"] == "192.0.2.7"
        assert not [link for link in (links[0], *links[2:]) if link.reader.at_eof()]
        for link in links:
            link.writer.close()

    @pytest.mark.broker(
        kbs=True, forwarded_for_from="127.0.0.1", max_connections=200, max_unattested_per_address=2
    )
    async def test_between_requests_a_connection_counts_under_its_proxy(
        self, broker: RunningBroker
    ) -> None:
        """Proxies keep connections open; otherwise one client's requests would close them."""
        async with AsyncExitStack() as stack:
            links = [await stack.enter_async_context(linked(broker)) for _ in range(4)]
            for link in (*links, *links):
                assert await ask(link, "192.0.2.7") == 200
                await elapse(0)
        assert not broker.events.named("connection.refused")

    @pytest.mark.broker(kbs=True, forwarded_for_from="127.0.0.1", proxy_protocol_from="127.0.0.0/8")
    async def test_an_http_proxy_sends_no_proxy_header(self, broker: RunningBroker) -> None:
        async with linked(broker) as link:
            assert await ask(link, "192.0.2.7") == 200
        assert peers(broker) == ["192.0.2.7"]


@pytest.mark.broker(kbs=True)
async def test_the_header_of_another_client_is_ignored(broker: RunningBroker) -> None:
    async with linked(broker) as link:
        own = link.writer.get_extra_info("sockname")
        assert await ask(link, "192.0.2.7") == 200
        assert await ask(link, "unknown") == 200
    assert set(peers(broker)) == {f"{own[0]}:{own[1]}"}
