"""Errors of the broker's own while a guest is judged: never a verdict, which guests take as final.

The faults are real: limits of the process, files that are missing, damaged or replaced.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as Context
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.policy.support import Documents, tdx_claims
from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.collateral import running_place
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.rcar_guests import attest, connected, session_id, tdx_guest
from tests.support.tees import TEES
from tests.support.verifiers import verified_by
from tests.tees.support import NOW, good_collateral, good_quote, tdx_evidence
from tests.tees.support import platform as platform_of_2026
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.errors import (
    CollateralExpired,
    CollateralUnavailable,
    PolicyUnavailable,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.guest.rcar.session import RcarSession
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.ports import PolicyDocuments
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly
from verdictd_py.tees.tdx.verifier import TdxVerifier

HEAD = b"package policy\nimport rego.v1\n"

Fault = Callable[[RunningBroker], Context[None]]


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """Lower a limit of this process, in which the broker runs too."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def no_descriptor(broker: RunningBroker) -> Context[None]:
    """EMFILE for every file that is opened; open ones stay open."""
    del broker
    return limited(resource.RLIMIT_NOFILE, 3)  # standard streams


def no_space(broker: RunningBroker) -> Context[None]:
    """EFBIG for every write to a file, as ENOSPC on a full disk."""
    del broker
    return limited(resource.RLIMIT_FSIZE, 0)


@contextmanager
def replaced(file: Path, content: bytes | None) -> Iterator[None]:
    """Replace a file by another content, or by a directory; remove it for None.

    A file that was absent contains an empty object afterwards: the broker refuses guests while a
    document is missing that was there before.
    """
    before = file.read_bytes() if file.exists() else b"{}"
    file.unlink(missing_ok=True)
    if content == b"directory":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    try:
        yield
    finally:
        if content == b"directory":
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_bytes(before)


def document(name: str, content: bytes | None) -> Fault:
    return lambda broker: replaced(broker.data / "opa" / name, content)


def expired_collateral(broker: RunningBroker) -> Context[None]:
    old = broker.platform.collateral(broker.now - timedelta(days=60))
    return replaced(broker.data.parent / "collateral.json", collateral_json(old).encode())


@contextmanager
def bug(broker: RunningBroker) -> Iterator[None]:
    """An exception that no code expects."""
    del broker

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledPolicies, "evaluate", fail)
        yield


FAULTS: dict[str, tuple[Fault, str]] = {
    "EMFILE": (no_descriptor, "policy-unavailable"),
    "no policy": (document("tdxPolicy.rego", None), "policy-unavailable"),
    "a directory instead of the policy": (
        document("tdxPolicy.rego", b"directory"),
        "policy-unavailable",
    ),
    "a policy that does not compile": (
        document("tdxPolicy.rego", b"package policy\nallow {{{"),
        "policy-unavailable",
    ),
    "a policy that fails for every guest": (
        document("tdxPolicy.rego", HEAD + b"allow if count(1) == 1\n"),
        "policy-unavailable",
    ),
    "no reference data": (document("tdxData", None), "policy-unavailable"),
    "damaged reference data": (document("tdxData", b"{"), "policy-unavailable"),
    "damaged sets": (document("referenceSets", b'{"tdx": 1}'), "policy-unavailable"),
    "audit trail": (no_space, "audit-unavailable"),
    "expired collateral": (expired_collateral, "collateral-unavailable"),
    "a bug": (bug, "internal-error"),
}

RELEASE_FAULTS: dict[str, tuple[Fault, str]] = {
    "EMFILE": (no_descriptor, "policy-unavailable"),
    "no policy": (document("releasePolicy.rego", None), "policy-unavailable"),
    "a policy that does not compile": (
        document("releasePolicy.rego", b"package policy\nallow {{{"),
        "policy-unavailable",
    ),
    "a policy that fails for every guest": (
        document("releasePolicy.rego", HEAD + b"allow if count(1) == 1\n"),
        "policy-unavailable",
    ),
    "damaged names of policies": (document("releasePolicies", b"{"), "policy-unavailable"),
    "audit trail": (no_space, "storage"),
    "an unreadable resource": (
        lambda broker: replaced(
            broker.data / "resources" / str(PATH), b"x" * (4 * 1024 * 1024 + 1)
        ),
        "storage",
    ),
    "a bug": (bug, "internal-error"),
}


async def post_attest(
    http: httpx.AsyncClient, session: RcarSession, broker: RunningBroker, fault: Context[None]
) -> httpx.Response:
    """Return the answer to the second request of a handshake, which meets the fault."""
    body = await session.answer(await session.auth())
    http.cookies.clear()
    http.cookies.set("kbs-session-id", session_id(session), path="/kbs")
    with fault:
        return await http.post(f"{url_of(broker)}/kbs/v0/attest", json=body)


def assert_not_judged(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    body = answer.json()
    assert set(body) == {"type", "detail"}
    assert body["type"].startswith("https://github.com/confidential-containers/kbs/errors/")
    assert body["detail"] == f"not judged: {code}; try again later"


@pytest.mark.parametrize("version", list(Version))
@pytest.mark.parametrize("name", FAULTS)
async def test_an_http_guest_is_not_judged(tmp_path: Path, name: str, version: Version) -> None:
    """The answer is 503, and the same guest is accepted once the fault has ended."""
    fault, code = FAULTS[name]
    async with (
        running_kbs(tmp_path) as broker,
        httpx.AsyncClient(timeout=3600) as http,
        connected(url_of(broker), tdx_guest(broker.platform, version)) as session,
    ):
        await http.get(f"{url_of(broker)}/healthz")  # the connection is open from now on
        assert_not_judged(await post_attest(http, session, broker, fault(broker)), code)
        assert not broker.events.named("guest.accepted", "guest.refused")
        if name == "audit trail":
            assert broker.events.named("warning.audit")
        else:
            (unjudged,) = broker.events.named("guest.not-judged")
            assert unjudged["code"] == code
        await attest(session)
        assert (await session.get(str(PATH))).reveal() == SECRET


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "EMFILE"])
async def test_a_rats_tls_guest_is_not_judged(
    tmp_path: Path, platform: SimulatedPlatform, name: str
) -> None:
    fault, code = FAULTS[name]
    async with running_broker(tmp_path, platform) as broker:
        context = broker.context(broker.attester())
        refused = pytest.raises(BrokerRefused, match=f"not judged: {code}; try again later")
        with fault(broker), refused:
            async with GuestConnection.open(*broker.address, context) as guest:
                await guest.keks([KID])
        assert not broker.events.named("guest.accepted", "guest.refused")
        async with broker.guest() as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY


@pytest.mark.parametrize("name", RELEASE_FAULTS)
async def test_no_resource_is_denied_or_missing_for_it(tmp_path: Path, name: str) -> None:
    """403 and 404 are final for guests, and nothing is released either."""
    fault, code = RELEASE_FAULTS[name]
    async with (
        running_kbs(tmp_path) as broker,
        httpx.AsyncClient(timeout=3600) as http,
        connected(url_of(broker), tdx_guest(broker.platform)) as session,
    ):
        token = await attest(session)
        url = f"{url_of(broker)}/kbs/v0/resource/{PATH}"
        headers = {"Authorization": f"Bearer {token.content.reveal().decode()}"}
        await http.get(f"{url_of(broker)}/healthz")
        with fault(broker):
            answer = await http.get(url, headers=headers)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        if code == "policy-unavailable":
            assert_not_judged(answer, code)
        assert not broker.events.named("secret.released", "release.refused")
        assert "opa" not in answer.json()["detail"]
        if code != "internal-error":
            assert [it["code"] for it in broker.events.named("request.failed")] == [code]
        assert (await session.get(str(PATH))).reveal() == SECRET


@pytest.mark.parametrize(
    "name", ["no policy", "a policy that does not compile", "EMFILE", "audit trail"]
)
async def test_a_connected_guest_is_not_denied_for_it(
    tmp_path: Path, platform: SimulatedPlatform, name: str
) -> None:
    """A `Fail` without a verdict, and the next request on the same connection is served."""
    fault, code = RELEASE_FAULTS[name]
    async with running_broker(tmp_path, platform) as broker, broker.guest() as guest:
        await guest.version()
        with fault(broker), pytest.raises(BrokerRefused) as caught:
            await guest.keks([KID])
        if code == "policy-unavailable":
            assert str(caught.value) == "not judged: policy-unavailable; try again later"
        assert not broker.events.named("secret.released", "release.refused")
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def problems(broker: RunningBroker) -> list[str]:
    """Return the problems that `verdict-py status` shows."""
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        about: Any = v1_grpc.StatusServiceStub(channel)
        return list((await about.GetStatus(v1.GetStatusRequest())).problems)


async def test_the_operator_sees_it_in_the_status(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    """Until a guest is judged again; the message names file and remedy."""
    async with running_broker(tmp_path, platform) as broker:
        with expired_collateral(broker), pytest.raises(BrokerRefused):
            async with broker.guest() as guest:
                await guest.version()
        (unjudged,) = broker.events.named("guest.not-judged")
        file = broker.data.parent / "collateral.json"
        assert f"is in {file}; fetch it again" in str(unjudged["reason"])
        (problem,) = await problems(broker)
        assert f"is in {file}; fetch it again" in problem
        async with broker.guest() as guest:
            await guest.version()
        assert not await problems(broker)


async def test_collateral_that_expired_while_the_service_is_down_is_no_verdict() -> None:
    async with running_place() as place:
        evidence = tdx_evidence(place.pccs.platform.quote(bytes(64)))
        verifier = TdxVerifier(place.cache, root_ca_der=place.pccs.platform.root_ca_der)
        await verified_by(verifier, evidence, now=place.clock.now)
        place.pccs.change = lambda path, answer: type(answer)(500)
        place.later(place.clock.now + timedelta(days=40))
        for brought in (None, good_collateral()):  # of another root: as if the guest sent none
            late = tdx_evidence(evidence.quote, brought)
            with pytest.raises(CollateralUnavailable, match="check --collateral-url"):
                await verified_by(verifier, late, now=place.clock.now)


@pytest.mark.parametrize("sent", ["expired", "for another root"])
async def test_collateral_that_only_the_guest_can_send_is_its_own_fault(sent: str) -> None:
    """Without a source of the operator's, a guest that sends useless collateral is refused."""
    brought: dict[str, Collateral] = {
        "expired": platform_of_2026().collateral(NOW - timedelta(days=60)),
        "for another root": SimulatedPlatform.create(now=NOW).collateral(NOW),
    }
    verifier = TdxVerifier(EndorsementsOnly(), root_ca_der=platform_of_2026().root_ca_der)
    result = await verifier.verify(tdx_evidence(good_quote(), brought[sent]), now=NOW)
    refusal = getattr(result, "refusal", None)
    assert refusal is not None
    assert isinstance(refusal, CollateralExpired) is (sent == "expired")


LOOP = (
    HEAD.decode() + "allow if not input.extra\n"
    "n := numbers.range(1, 2000)\n"
    "allow if { input.extra; some a in n; some b in n; some c in n; a + b + c < 0 }\n"
)


@pytest.mark.parametrize(
    "policy",
    [LOOP, HEAD.decode() + "allow if not count(input.extra) == 2\n"],
    ids=["budget", "type"],
)
async def test_no_guest_makes_itself_not_judged(policy: str) -> None:
    """A policy fails only for the claims of this guest: that is a verdict about the guest."""
    decide = RegoAppraisalPolicy(Documents(PolicyDocuments(policy, "{}", "tdxPolicy.rego")), TEES)
    (reason,) = await decide.failures("tdx", tdx_claims(extra=1))
    assert "the policy" in reason.text
    assert await decide.failures("tdx", tdx_claims(extra=1))  # by the cached result as well


async def test_a_policy_that_fails_for_the_sample_too_is_the_brokers_fault() -> None:
    policy = HEAD.decode() + "allow if count(1) == 1\n"
    decide = RegoAppraisalPolicy(Documents(PolicyDocuments(policy, "{}", "tdxPolicy.rego")), TEES)
    with pytest.raises(PolicyUnavailable, match="operand 1 must be one of"):
        await decide.failures("tdx", tdx_claims())
    with pytest.raises(Exception, match="operand 1 must be one of"):  # readiness reports it
        await decide.prepare("tdx")
