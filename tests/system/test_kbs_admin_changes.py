"""Administration over HTTP: changes that take effect, and changes that are refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.broker import KEY, RunningBroker
from tests.support.kbs import SECRET, url_of
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


@pytest.fixture
async def broker(tmp_path: Path, tokens: AdminTokens) -> AsyncIterator[RunningBroker]:
    async with administered(tmp_path, tokens) as running:
        yield running


@pytest.fixture
async def http(broker: RunningBroker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url_of(broker)) as client:
        yield client


async def test_a_registrar_sets_each_key_only_once(
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
async def test_an_invalid_policy_leaves_the_previous_one_in_force(
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


async def test_the_release_policy_is_returned_as_it_was_set(
    http: httpx.AsyncClient, tokens: AdminTokens
) -> None:
    headers = bearing(tokens.token("boss"))
    await http.post("/kbs/v0/resource-policy", json={"policy": b64url(POLICY)}, headers=headers)
    answer = await http.get("/kbs/v0/resource-policy", headers=headers)
    assert answer.json() == {"policy": b64url(POLICY)}


@pytest.mark.parametrize("policy_id", ["default", "default_cpu", "tdx", "sgx", "sample"])
async def test_every_id_of_an_appraisal_policy_names_a_tee(
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
async def test_an_appraisal_policy_of_an_unknown_tee_is_refused(
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
        ({"mrTd": ["aa" * 48]}, ["aa" * 48]),
        ({"mrTd": "bb" * 48}, ["bb" * 48]),  # --as-single-value
        ({"mrTd": ["aa" * 48, "bb" * 48]}, ["aa" * 48, "bb" * 48]),
    ):
        answer = await http.post(where, json=reference(values), headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await http.get(f"{where}/mrTd", headers=headers)).json() == kept
    old = reference({"rtmr0": ["cc" * 48], "fmspc": ["00" * 6]})
    del old["version"]
    assert (await http.post(where, json=old, headers=headers)).status_code == 200
    everything = (await http.get(where, headers=headers)).json()
    assert everything == json.loads((broker.data / "opa/tdxData").read_text())
    assert everything["mrTd"] == ["aa" * 48, "bb" * 48]
    assert (await http.get(f"{where}/fmspc", headers=headers)).json() == ["00" * 6]
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
        (reference({"mrtd": []}), "SerdeError"),  # would open what is pinned
        (reference({"policy": ["x"]}), "ParsePolicyError"),
        (reference({"mrtd": ["aa" * 48]}), "ParsePolicyError"),  # would pin nothing
        (reference({"some/name": ["x"]}), "ParsePolicyError"),
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
async def test_invalid_reference_values_change_nothing(
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
