"""Administration over HTTP: the rights of every role for every request."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from jwcrypto import jwk, jws

from tests.support.broker import RunningBroker
from tests.support.kbs import running_kbs, url_of
from tests.support.kbs_admins import (
    OTHER_KEY,
    POLICY,
    AdminTokens,
    administered,
    b64url,
    bearing,
    reference,
    stored,
    variant,
)
from verdictd_py.listeners.kbs.admins import AdminRoutes

RESOURCE = "/kbs/v0/resource/default/key/new"
REQUESTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "set resource": ("POST", RESOURCE, {"content": OTHER_KEY}),
    "delete resource": ("DELETE", "/kbs/v0/resource/default/key/1", {}),
    "get release policy": ("GET", "/kbs/v0/resource-policy", {}),
    "set release policy": ("POST", "/kbs/v0/resource-policy", {"json": {"policy": b64url(POLICY)}}),
    "set attestation policy": (
        "POST",
        "/kbs/v0/attestation-policy",
        {"json": {"type": "rego", "policy_id": "default_cpu", "policy": b64url(POLICY)}},
    ),
    "set reference value": (
        "POST",
        "/kbs/v0/reference-value",
        {"json": reference({"mrTd": ["ab" * 48]})},
    ),
    "get reference value": ("GET", "/kbs/v0/reference-value/mrTd", {}),
    "get reference values": ("GET", "/kbs/v0/reference-value", {}),
}
"""One good request of every route."""

EVERYTHING = set(REQUESTS)
RESOURCES = {"set resource", "delete resource"}


@pytest.fixture
async def broker(tmp_path: Path, tokens: AdminTokens) -> AsyncIterator[RunningBroker]:
    async with administered(tmp_path, tokens) as running:
        yield running


@pytest.fixture
async def http(broker: RunningBroker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url_of(broker)) as client:
        yield client


async def asked(http: httpx.AsyncClient, name: str, headers: dict[str, str]) -> httpx.Response:
    method, path, more = REQUESTS[name]
    return await http.request(method, path, headers=headers, **more)


def test_the_table_has_every_route() -> None:
    routes = {(r.method, r.path) for r in AdminRoutes(*[None] * 3).routes()}  # type: ignore[arg-type]
    named = {
        (method, path.replace("default/key/new", "{repository}/{type}/{tag}"))
        for method, path, _ in REQUESTS.values()
    }
    named = {
        (m, p.replace("default/key/1", "{repository}/{type}/{tag}").replace("/mrTd", "/{name:.+}"))
        for m, p in named
    }
    assert named == routes


async def test_administration_is_off_by_default(tmp_path: Path, tokens: AdminTokens) -> None:
    async with (
        running_kbs(tmp_path) as broker,
        httpx.AsyncClient(base_url=url_of(broker)) as http,
    ):
        before = stored(broker)
        for token in (None, tokens.token("boss"), "garbage"):
            for name in REQUESTS:
                answer = await asked(http, name, bearing(token))
                assert (answer.status_code, variant(answer)) == (403, "AdminAuthAccess"), name
                assert "--kbs-admins" in answer.json()["detail"]
        assert stored(broker) == before


def unsigned(payload: dict[str, Any], algorithm: str) -> str:
    header = b64url(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    return f"{header}.{b64url(json.dumps(payload).encode())}."


def keyed_with_public_key(tokens: AdminTokens) -> str:
    """RFC 8725, 2.1: the public key as the secret of an HMAC."""
    key = jwk.JWK(kty="oct", k=b64url(tokens.keys["boss"].export_to_pem()))
    made = jws.JWS(json.dumps({"exp": time.time() + 60}))
    made.allowed_algs = ["HS256"]
    made.add_signature(key, protected=json.dumps({"alg": "HS256"}))
    return str(made.serialize(compact=True))


def its_own_key(tokens: AdminTokens) -> str:
    public = tokens.keys["stranger"].export_public(as_dict=True)
    return tokens.signed("stranger", {"exp": time.time() + 60, "role": "admin"}, jwk=public)


NO_TOKENS: dict[str, tuple[Callable[[AdminTokens], dict[str, str]], str]] = {
    "no token": (lambda t: {}, "needs Authorization: Bearer"),
    "another scheme": (
        lambda t: {"Authorization": f"Basic {t.token('boss')}"},
        "needs Authorization: Bearer",
    ),
    "an empty token": (lambda t: {"Authorization": "Bearer"}, "not signed by a trusted key"),
    "a cookie": (lambda t: {"Cookie": f"kbs-session-id={t.token('boss')}"}, "needs Authorization"),
    "garbage": (lambda t: bearing("garbage"), "not signed by a trusted key"),
    "bytes that are no text": (lambda t: bearing("a.\udcff.c"), "not signed by a trusted key"),
    "a very long one": (lambda t: bearing("x" * 70_000), "too long"),
    "a key that is not configured": (lambda t: bearing(t.token("stranger", "admin")), "not signed"),
    "its own key in the header": (lambda t: bearing(its_own_key(t)), "not signed by a trusted key"),
    "expired": (lambda t: bearing(t.token("boss", exp=time.time() - 1)), "the token has expired"),
    "not valid yet": (lambda t: bearing(t.token("boss", nbf=time.time() + 90)), "not valid yet"),
    "made tomorrow": (lambda t: bearing(t.token("boss", iat=time.time() + 9e4)), "not valid yet"),
    "without end": (lambda t: bearing(t.token("boss", exp=None)), "has no exp"),
    "ends never": (lambda t: bearing(t.token("boss", exp=float("inf"))), "exp is not a valid time"),
    "ends beyond all numbers": (
        lambda t: bearing(t.token("boss", exp=10**400)),
        "not a valid time",
    ),
    "ends in a text": (lambda t: bearing(t.token("boss", exp="never")), "exp is not a valid time"),
    "no algorithm": (
        lambda t: bearing(unsigned({"exp": 2**33}, "none")),
        "not signed by a trusted key",
    ),
    "none, in capitals": (lambda t: bearing(unsigned({"exp": 2**33}, "NONE")), "not signed"),
    "the public key as a secret": (lambda t: bearing(keyed_with_public_key(t)), "not signed"),
    "a list for claims": (lambda t: bearing(t.signed("boss", [{"exp": 2**33}])), "not signed"),
    "a text for claims": (
        lambda t: bearing(t.signed("boss", "admin")),
        "not signed by a trusted key",
    ),
    "a critical header": (
        lambda t: bearing(t.signed("boss", {"exp": 2**33}, crit=["x"], x=1)),
        "not signed by a trusted key",
    ),
}


@pytest.mark.parametrize("which", NO_TOKENS)
async def test_an_invalid_token_is_refused(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens, which: str
) -> None:
    make, told = NO_TOKENS[which]
    before = stored(broker)
    headers = [
        (name.encode(), value.encode("utf-8", "surrogateescape"))
        for name, value in make(tokens).items()
    ]
    for name, (method, path, more) in REQUESTS.items():
        answer = await http.request(method, path, headers=headers, **more)
        assert (answer.status_code, variant(answer)) == (401, "AdminAuthAccess"), name
        assert told in answer.json()["detail"]
    assert stored(broker) == before
    failed = broker.events.named("request.failed")
    assert len(failed) == len(REQUESTS)
    assert {fields["status"] for fields in failed} == {"401"}
    for value in make(tokens).values():
        token = value.removeprefix("Bearer").removeprefix("kbs-session-id=").strip()
        assert not token or token not in broker.events.text


CALLERS: dict[str, tuple[str, str | None, set[str]]] = {
    "admin, as it is by default": ("boss", None, EVERYTHING),
    "admin, as it says": ("boss", "admin", EVERYTHING),
    "admin who says operator": ("boss", "operator", RESOURCES),
    "admin who says register": ("boss", "register", set()),
    "operator": ("ops", "operator", RESOURCES),
    "operator who says admin": ("ops", "admin", set()),
    "operator who says nothing": ("ops", None, set()),
    "operator who says what there is not": ("ops", "Operator", set()),
    "admin of another prefix": ("team", "admin", set()),
    "operator of another prefix": ("team", "operator", set()),
    "registrar": ("keyprovider", None, {"set resource"}),
    "registrar who says admin": ("keyprovider", "admin", set()),
}


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_role_permits_exactly_its_listed_requests(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens, caller: str
) -> None:
    """kbs-client accepts only 200 as success (wire-rcar.md, "Administration")."""
    name, role, rights = CALLERS[caller]
    headers = bearing(tokens.token(name, role))
    before = stored(broker)
    for request in REQUESTS:
        answer = await asked(http, request, headers)
        if request in rights:
            assert answer.status_code == 200, (request, answer.text)
        else:
            assert (answer.status_code, variant(answer)) == (403, "AdminAuthAccess"), request
    if not rights:
        assert stored(broker) == before


@pytest.mark.parametrize("role", [["admin"], {"admin": True}, True, 1, ""])
async def test_a_role_that_is_not_a_text_is_refused(
    http: httpx.AsyncClient, tokens: AdminTokens, role: object
) -> None:
    headers = bearing(tokens.signed("boss", {"exp": time.time() + 60, "role": role}))
    answer = await asked(http, "get release policy", headers)
    assert (answer.status_code, variant(answer)) == (403, "AdminAuthAccess")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("team/key/1", 200),
        ("team/k%65y/1", 200),  # another spelling of the same name
        ("team/keyx/1", 403),
        ("team/ke/1", 403),
        ("Team/key/1", 403),
        ("default/key/1", 403),
        ("team/key/../x", 404),
        ("team/key%2f..%2f..%2fdefault/key/1", 404),
        ("team%2Fkey/key/1", 404),
        ("team/key/1%00", 404),
        ("team/key/1%0a", 404),
        ("team/key/%2e%2e", 404),
        ("team/key/.hidden", 404),
        ("team/key", 404),
        ("team/key/", 404),
        ("team//1", 404),
        ("team/key/1/2", 404),
        ("team/key/" + "x" * 256, 404),
        ("team/key/%C3%A9", 404),
    ],
)
async def test_an_administrator_is_limited_to_its_prefix(
    broker: RunningBroker, tokens: AdminTokens, path: str, status: int
) -> None:
    """The test sends raw bytes, because a client library would normalise the paths."""
    before = stored(broker)
    answer = await raw(broker, f"/kbs/v0/resource/{path}", tokens.token("team", "operator"))
    assert answer.status_code == status
    if status == 200:
        assert stored(broker) == before | {"resources/team/key/1": b"new"}
    else:
        assert variant(answer) == ("AdminAuthAccess" if status == 403 else "InvalidRequestPath")
        assert stored(broker) == before


async def raw(broker: RunningBroker, target: str, token: str) -> httpx.Response:
    """Send a POST whose target no library normalises."""
    url = httpx.URL(url_of(broker))
    request = httpx.Request(
        "POST",
        url,
        headers=bearing(token),
        content=b"new",
        extensions={"target": target.encode()},
    )
    async with httpx.AsyncClient() as http:
        return await http.send(request)
