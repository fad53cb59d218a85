"""Administration over HTTP: who may do what, request by request."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from jwcrypto import jwk, jws

from tests.system.broker import KEY, RunningBroker
from tests.system.kbs import SECRET, running_kbs, url_of
from tests.system.kbs_admins import AdminTokens, bearing
from verdictd_py.listeners.kbs.admins import AdminRoutes

POLICY = b"package policy\nimport rego.v1\ndefault allow := false\nallow if input.resource.path\n"
OTHER_KEY = bytes(range(32))


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def reference(values: object, **more: Any) -> dict[str, Any]:
    payload = base64.b64encode(json.dumps(values).encode()).decode()
    return {"version": "0.1.0", "type": "sample", "payload": payload, **more}


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
    "set reference value": ("POST", "/kbs/v0/reference-value", {"json": reference({"mrtd": []})}),
    "get reference value": ("GET", "/kbs/v0/reference-value/mrtd", {}),
    "get reference values": ("GET", "/kbs/v0/reference-value", {}),
}
"""One good request of every route."""

EVERYTHING = set(REQUESTS)
RESOURCES = {"set resource", "delete resource"}


@pytest.fixture
def tokens(tmp_path: Path) -> AdminTokens:
    return AdminTokens(tmp_path / "admins")


@pytest.fixture
async def broker(tmp_path: Path, tokens: AdminTokens) -> AsyncIterator[RunningBroker]:
    async with running_kbs(tmp_path, kbs_admins=tokens.file) as running:
        yield running
        assert not running.events.named("warning.bug")


@pytest.fixture
async def http(broker: RunningBroker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url_of(broker)) as client:
        yield client


def stored(broker: RunningBroker) -> dict[str, bytes]:
    """Everything that administration could change."""
    return {
        str(path.relative_to(broker.data)): path.read_bytes()
        for path in broker.data.rglob("*")
        if path.is_file() and "audit" not in path.parts
    }


def variant(answer: httpx.Response) -> str:
    """Of an answer that is no success: its body is JSON of exactly two texts."""
    body = answer.json()
    assert set(body) == {"type", "detail"}
    assert answer.headers["Content-Type"] == "application/json"
    assert isinstance(body["detail"], str)
    head, _, tail = str(body["type"]).rpartition("/")
    assert head == "https://github.com/confidential-containers/kbs/errors"
    return tail


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
        (m, p.replace("default/key/1", "{repository}/{type}/{tag}").replace("/mrtd", "/{name:.+}"))
        for m, p in named
    }
    assert named == routes


async def test_nobody_administers_by_default(tmp_path: Path, tokens: AdminTokens) -> None:
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
    "an empty token": (lambda t: {"Authorization": "Bearer"}, "not signed by a key"),
    "a cookie": (lambda t: {"Cookie": f"kbs-session-id={t.token('boss')}"}, "needs Authorization"),
    "garbage": (lambda t: bearing("garbage"), "not signed by a key"),
    "bytes that are no text": (lambda t: bearing("a.\udcff.c"), "not signed by a key"),
    "a very long one": (lambda t: bearing("x" * 70_000), "too long"),
    "a key that is not configured": (lambda t: bearing(t.token("stranger", "admin")), "not signed"),
    "its own key in the header": (lambda t: bearing(its_own_key(t)), "not signed by a key"),
    "over": (lambda t: bearing(t.token("boss", exp=time.time() - 1)), "the token is over"),
    "not valid yet": (lambda t: bearing(t.token("boss", nbf=time.time() + 90)), "not valid yet"),
    "made tomorrow": (lambda t: bearing(t.token("boss", iat=time.time() + 9e4)), "not valid yet"),
    "without end": (lambda t: bearing(t.token("boss", exp=None)), "has no exp"),
    "ends never": (lambda t: bearing(t.token("boss", exp=float("inf"))), "exp is no time"),
    "ends beyond all numbers": (lambda t: bearing(t.token("boss", exp=10**400)), "no time"),
    "ends in a text": (lambda t: bearing(t.token("boss", exp="never")), "exp is no time"),
    "no algorithm": (lambda t: bearing(unsigned({"exp": 2**33}, "none")), "not signed by a key"),
    "none, in capitals": (lambda t: bearing(unsigned({"exp": 2**33}, "NONE")), "not signed"),
    "the public key as a secret": (lambda t: bearing(keyed_with_public_key(t)), "not signed"),
    "a list for claims": (lambda t: bearing(t.signed("boss", [{"exp": 2**33}])), "not signed"),
    "a text for claims": (lambda t: bearing(t.signed("boss", "admin")), "not signed by a key"),
    "a critical header": (
        lambda t: bearing(t.signed("boss", {"exp": 2**33}, crit=["x"], x=1)),
        "not signed by a key",
    ),
}


@pytest.mark.parametrize("which", NO_TOKENS)
async def test_what_is_no_token_opens_nothing(
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
async def test_a_role_may_do_what_it_lists_and_nothing_else(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens, caller: str
) -> None:
    """kbs-client takes exactly 200 for success (wire-rcar.md, "Administration")."""
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
async def test_a_role_is_a_text(http: httpx.AsyncClient, tokens: AdminTokens, role: object) -> None:
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
async def test_a_prefix_is_a_bound(
    broker: RunningBroker, tokens: AdminTokens, path: str, status: int
) -> None:
    """The bytes go out as they stand here: a client library would tidy some of them."""
    before = stored(broker)
    answer = await raw(broker, f"/kbs/v0/resource/{path}", tokens.token("team", "operator"))
    assert answer.status_code == status
    if status == 200:
        assert stored(broker) == before | {"resources/team/key/1": b"new"}
    else:
        assert variant(answer) == ("AdminAuthAccess" if status == 403 else "InvalidRequestPath")
        assert stored(broker) == before


async def raw(broker: RunningBroker, target: str, token: str) -> httpx.Response:
    """A POST whose target nobody changes."""
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


async def test_a_registrar_sets_keys_once(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens
) -> None:
    headers = bearing(tokens.token("keyprovider"))
    (broker.data / "keys" / "default" / "key").mkdir(parents=True)

    async def post(path: str, content: bytes) -> httpx.Response:
        return await http.post(f"/kbs/v0/resource/{path}", content=content, headers=headers)

    assert (await post("default/key/kek", KEY)).status_code == 200
    assert (await post("default/key/kek", KEY)).status_code == 200  # sent twice, to be sure
    answer = await post("default/key/kek", OTHER_KEY)
    assert (answer.status_code, variant(answer)) == (409, "PluginInternalError")
    assert (broker.data / "keys/default/key/kek").read_bytes() == KEY
    assert len(broker.events.named("key.registered")) == 1
    for size in (0, 16, 31, 33, 64, 4096):
        answer = await post("default/key/other", bytes(size))
        assert (answer.status_code, variant(answer)) == (400, "SerdeError")
    answer = await post("default/key/1", KEY)  # a resource is there
    assert (answer.status_code, variant(answer)) == (409, "PluginInternalError")
    assert (broker.data / "resources/default/key/1").read_bytes() == SECRET
    for path in ("default/keyx/1", "default/security-policy/test", "other/key/1"):
        answer = await post(path, KEY)
        assert (answer.status_code, variant(answer)) == (403, "AdminAuthAccess")
    answer = await http.delete("/kbs/v0/resource/default/key/kek", headers=headers)
    assert (answer.status_code, variant(answer)) == (403, "AdminAuthAccess")
    assert "only register keys" in answer.json()["detail"]


async def test_an_operator_sets_and_deletes_resources_and_no_keys(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens
) -> None:
    headers = bearing(tokens.token("ops", "operator"))
    key = broker.data / "keys" / "default" / "kek" / "1"
    key.parent.mkdir(parents=True)
    key.write_bytes(KEY)
    where = "/kbs/v0/resource/default/kek/1"
    answer = await http.post(where, content=b"x", headers=headers)
    assert (answer.status_code, variant(answer)) == (409, "PluginInternalError")
    answer = await http.delete(where, headers=headers)
    assert (answer.status_code, variant(answer)) == (404, "PluginInternalError")
    assert key.read_bytes() == KEY
    where = "/kbs/v0/resource/default/other/1"
    for content in (b"one", b"\x00two"):  # resources are replaced, unlike keys
        answer = await http.post(where, content=content, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert (broker.data / "resources/default/other/1").read_bytes() == content
    answer = await http.post(where, content=b"", headers=headers)  # guests could not fetch that
    assert (answer.status_code, variant(answer)) == (400, "SerdeError")
    assert (await http.delete(where, headers=headers)).status_code == 200
    answer = await http.delete(where, headers=headers)
    assert (answer.status_code, variant(answer)) == (404, "PluginInternalError")


BAD_POLICIES = {
    "no Rego": b"this is { no policy",
    "another package": b"package other\nallow := true\n",
    "no allow": b"package policy\nx := 1\n",
    "no text": b"\xff\xfe",
    "a comment": b"# none",
    "asks the network": b'package policy\ndefault allow := false\nallow if http.send({"url": 1})\n',
}
SETTERS: dict[str, tuple[str, dict[str, str], str]] = {
    "release": ("/kbs/v0/resource-policy", {}, "opa/releasePolicy.rego"),
    "tdx": (
        "/kbs/v0/attestation-policy",
        {"type": "rego", "policy_id": "default"},
        "opa/tdxPolicy.rego",
    ),
}


@pytest.mark.parametrize("which", SETTERS)
async def test_policies_that_do_not_work_leave_the_old_in_force(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens, which: str
) -> None:
    path, more, file = SETTERS[which]
    headers = bearing(tokens.token("boss"))
    before = stored(broker)
    for name, policy in BAD_POLICIES.items():
        said = {**more, "policy": b64url(policy)}
        answer = await http.post(path, json=said, headers=headers)
        expected = "SerdeError" if name == "no text" else "ParsePolicyError"
        assert (answer.status_code, variant(answer)) == (400, expected), name
    bodies: list[bytes] = [
        b"",
        b"[]",
        b"{",
        json.dumps({**more}).encode(),
        json.dumps({**more, "policy": ""}).encode(),
        json.dumps({**more, "policy": 5}).encode(),
        json.dumps({**more, "policy": b64url(POLICY) + "="}).encode(),
        json.dumps({**more, "policy": "+/+/"}).encode(),
    ]
    for body in bodies:
        answer = await http.post(path, content=body, headers=headers)
        assert (answer.status_code, variant(answer)) == (400, "SerdeError"), body
    assert stored(broker) == before
    answer = await http.post(path, json={**more, "policy": b64url(POLICY)}, headers=headers)
    assert (answer.status_code, answer.content) == (200, b"")
    assert stored(broker) == before | {file: POLICY}


async def test_the_release_policy_is_read_as_it_was_set(
    http: httpx.AsyncClient, tokens: AdminTokens
) -> None:
    headers = bearing(tokens.token("boss"))
    await asked(http, "set release policy", headers)
    answer = await asked(http, "get release policy", headers)
    assert answer.json() == {"policy": b64url(POLICY)}


@pytest.mark.parametrize("policy_id", ["default", "default_cpu", "tdx", "sgx", "sample"])
async def test_every_id_of_a_policy_is_a_tees(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens, policy_id: str
) -> None:
    said = {"type": "rego", "policy_id": policy_id, "policy": b64url(POLICY)}
    headers = bearing(tokens.token("boss"))
    answer = await http.post("/kbs/v0/attestation-policy", json=said, headers=headers)
    tee = "tdx" if "default" in policy_id else policy_id
    if tee == "sample" and answer.status_code == 400:  # not served, so there is nothing to set
        assert not (broker.data / "opa/samplePolicy.rego").exists()
        return
    assert answer.status_code == 200, answer.text
    assert (broker.data / f"opa/{tee}Policy.rego").read_bytes() == POLICY


@pytest.mark.parametrize(
    "said",
    [
        {"type": "cel", "policy_id": "default"},
        {"policy_id": "default"},
        {"type": "rego"},
        {"type": "rego", "policy_id": None},
        {"type": "rego", "policy_id": "default_gpu"},
        {"type": "rego", "policy_id": "../tdx"},
        {"type": "rego", "policy_id": ["tdx"]},
    ],
)
async def test_an_appraisal_policy_is_for_a_tee_that_there_is(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens, said: dict[str, Any]
) -> None:
    before = stored(broker)
    headers = bearing(tokens.token("boss"))
    said = {**said, "policy": b64url(POLICY)}
    answer = await http.post("/kbs/v0/attestation-policy", json=said, headers=headers)
    assert (answer.status_code, variant(answer)) == (400, "SerdeError")
    assert stored(broker) == before


async def test_reference_values_are_set_by_name(
    broker: RunningBroker, http: httpx.AsyncClient, tokens: AdminTokens
) -> None:
    headers = bearing(tokens.token("boss"))
    where = "/kbs/v0/reference-value"
    for values, kept in (
        ({"mrtd": ["aa" * 48]}, ["aa" * 48]),
        ({"mrtd": "bb" * 48}, ["bb" * 48]),  # --as-single-value
        ({"mrtd": ["aa" * 48, "bb" * 48]}, ["aa" * 48, "bb" * 48]),
    ):
        answer = await http.post(where, json=reference(values), headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await http.get(f"{where}/mrtd", headers=headers)).json() == kept
    old = reference({"rtmr0": ["cc" * 48], "some/name": ["x"]})
    del old["version"]
    assert (await http.post(where, json=old, headers=headers)).status_code == 200
    everything = (await http.get(where, headers=headers)).json()
    assert everything == json.loads((broker.data / "opa/tdxData").read_text())
    assert everything["mrtd"] == ["aa" * 48, "bb" * 48]
    assert (await http.get(f"{where}/some/name", headers=headers)).json() == ["x"]
    answer = await http.get(f"{where}/none", headers=headers)
    assert (answer.status_code, variant(answer)) == (404, "PluginInternalError")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (reference({"mrtd": [5]}), "SerdeError"),
        (reference({"mrtd": 5}), "SerdeError"),
        (reference({"mrtd": True}), "SerdeError"),
        (reference({"mrtd": None}), "SerdeError"),
        (reference({"mrtd": {"a": "b"}}), "SerdeError"),
        (reference({"mrtd": [["a"]]}), "SerdeError"),
        (reference({"policy": ["x"]}), "ParsePolicyError"),
        (reference(["mrtd"]), "SerdeError"),
        (reference("mrtd"), "SerdeError"),
        (reference({}, version="0.2.0"), "SerdeError"),
        (reference({}, version=None), "SerdeError"),
        (reference({}, type="swid"), "SerdeError"),
        (reference({}, payload="%%%"), "SerdeError"),
        (reference({}, payload={"mrtd": []}), "SerdeError"),
        ({"version": "0.1.0", "type": "sample"}, "SerdeError"),
    ],
)
async def test_reference_values_that_are_none_change_nothing(
    broker: RunningBroker,
    http: httpx.AsyncClient,
    tokens: AdminTokens,
    body: dict[str, Any],
    expected: str,
) -> None:
    before = stored(broker)
    headers = bearing(tokens.token("boss"))
    answer = await http.post("/kbs/v0/reference-value", json=body, headers=headers)
    assert (answer.status_code, variant(answer)) == (400, expected)
    assert stored(broker) == before
