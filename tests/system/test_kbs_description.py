"""The OpenAPI description is valid and agrees with the routes and answers of the listener."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from tests.support.events import RecordedEvents
from tests.support.kbs import PATH, running_kbs, url_of
from tests.support.kbs_admins import AdminTokens, bearing
from tests.support.rcar_guests import attested, session_id, tdx_guest
from tests.support.tees import TEES
from verdictd_py import daemon as app
from verdictd_py.listeners.kbs import description

EXAMPLES: Final = 15
"""Requests of each operation, caller and kind: some 900 in all."""

DOCUMENT: Final[dict[str, Any]] = json.loads(description.document(TEES))
OPERATIONS: Final = sorted(
    (method, path)
    for path, item in DOCUMENT["paths"].items()
    for method in item
    if method != "parameters"
)


@dataclass
class Live:
    """A broker in a separate thread, because schemathesis blocks."""

    url: str = ""
    events: RecordedEvents = field(default_factory=RecordedEvents)
    routes: set[tuple[str, str]] = field(default_factory=set)
    callers: dict[str, dict[str, str]] = field(default_factory=dict)


@contextmanager
def live(directory: Path) -> Iterator[Live]:
    found, started = Live(), threading.Event()
    loop = asyncio.new_event_loop()
    ending = asyncio.Event()

    async def serve() -> None:
        tokens = AdminTokens(directory / "admins")
        now = app.utc_now()  # and always, so that no token expires on a busy machine
        async with running_kbs(directory, clock=lambda: now, kbs_admins=tokens.file) as broker:
            kbs = broker.kbs
            found.url, found.events = url_of(broker), broker.events
            found.routes = {
                (route.method.lower(), route.resource.canonical)
                for route in kbs.app.router.routes()
                if route.resource is not None and route.method not in ("HEAD", "OPTIONS")
            }
            async with attested(found.url, tdx_guest(broker.platform)) as session:
                found.callers = {
                    "nobody": {},
                    "admin": bearing(tokens.token("boss")),
                    "guest": {"Cookie": f"kbs-session-id={session_id(session)}"},
                }
                started.set()
                await ending.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            started.set()
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(30)
    assert found.url, "the broker did not start"
    try:
        yield found
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("description")) as running:
        yield running
        assert not running.events.named("warning.bug")


def test_the_description_is_served_to_every_client(broker: Live) -> None:
    answer = httpx.get(f"{broker.url}/kbs/v0/openapi.json")
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)


def test_the_description_is_valid_openapi() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def test_the_description_has_exactly_the_routes_of_the_listener(broker: Live) -> None:
    assert set(OPERATIONS) == broker.routes


def test_every_error_is_described_with_its_body() -> None:
    """Every status except 200 has the body that guests read; `/readyz` is for orchestrators."""
    for method, path in OPERATIONS:
        answers = DOCUMENT["paths"][path][method]["responses"]
        for status, answer in answers.items():
            if status != "200" and (path, status) != ("/readyz", "503"):
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Error"}, (method, path, status)


CHECKED: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "allow_header_conformance",
    "negative_data_rejection",
)


def has_input(method: str, path: str) -> bool:
    """Return whether a request can be invalid."""
    return "{" in path or "requestBody" in DOCUMENT["paths"][path][method]


@pytest.mark.parametrize("caller", ["nobody", "admin", "guest"])
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (*operation, mode)
        for operation in OPERATIONS
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or has_input(*operation)
    ],
)
def test_the_listener_answers_as_described(
    broker: Live, method: str, path: str, caller: str, mode: GenerationMode
) -> None:
    """The description generates valid and invalid requests, the same in every run."""
    operation = schemathesis.openapi.from_dict(DOCUMENT)[path][method]
    # Any bytes are a resource, and the caller's token is added below: no body is wrong here.
    octets = "application/octet-stream" in str(DOCUMENT["paths"][path][method].get("requestBody"))
    names = [name for name in CHECKED if not octets or name != "negative_data_rejection"]
    checks: Any = CHECKS.get_by_names(names)
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case[Any]) -> None:
        answer = case.call(base_url=broker.url, headers=broker.callers[caller])
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=checks)

    ask()
    assert statuses


def test_valid_requests_of_the_description_succeed(broker: Live) -> None:
    """Otherwise the test above could consist of refusals only."""
    admin = broker.callers["admin"]
    with httpx.Client(base_url=broker.url) as http:
        where = "/kbs/v0/resource/described/kind/1"
        assert http.post(where, content=b"x", headers=admin).status_code == 200
        assert http.get("/kbs/v0/reference-value", headers=admin).status_code == 200
        assert http.get("/kbs/v0/resource-policy", headers=admin).status_code == 200
        answer = http.get(f"/kbs/v0/resource/{PATH}", headers=broker.callers["guest"])
        assert answer.status_code == 200
        schema = DOCUMENT["paths"]["/kbs/v0/resource/{repository}/{type}/{tag}"]["get"]
        jwe = schema["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(answer.json()) == set(jwe["required"])
