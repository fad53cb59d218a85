"""The JSON Schema of the output: complete, valid, and the members of the messages."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import data, guestviews, schema, watching
from verdictd_py.cli.output import errors
from verdictd_py.cli.output.result import CommandOutput
from verdictd_py.cli.output.schemas import OFFLINE
from verdictd_py.cli.verdict import COMMANDS


def valid(output: CommandOutput, kind: str) -> bool:
    return bool(jsonschema_rs.is_valid(schema.schema_of(kind), output.document()))


def test_every_command_but_schema_declares_kinds_of_the_schema() -> None:
    written = {kind for command in COMMANDS for kind in command.writes}
    assert [command.words for command in COMMANDS if not command.writes] == ["schema"]
    assert written | set(OFFLINE) | {watching.KIND, errors.KIND} == set(schema.KINDS)
    assert list(schema.schema()["$defs"]).count("Guest") == 1


def test_the_schema_is_a_valid_schema() -> None:
    jsonschema_rs.meta.validate(schema.schema())
    for kind in schema.KINDS:
        jsonschema_rs.meta.validate(schema.schema_of(kind))
        jsonschema_rs.validator_for(schema.schema_of(kind))  # no definition is missing
    assert set(schema.schema_of("guest")["$defs"]) == {"guest", "Guest", "Reason"}


def test_numbers_of_64_bits_are_numbers_and_missing_times_null() -> None:
    members = data.message(v1.Status(guests_accepted=2**63, started_at="2026-11-27T00:00:00Z"))
    assert members["guests_accepted"] == 2**63
    assert members["started_at"] == "2026-11-27T00:00:00Z"
    assert data.message(v1.ReferenceSet())["expires_at"] is None
    assert set(members) == {field.name for field in v1.Status.DESCRIPTOR.fields}


def test_a_guest_has_its_verdict_by_name_and_its_claims_as_an_object() -> None:
    members = data.guest(v1.Guest(verdict=v1.VERDICT_ACCEPTED, claims='{"rtmr1": "ab"}'))
    assert (members["verdict"], members["claims"]) == ("accepted", {"rtmr1": "ab"})
    unknown = v1.Guest()
    unknown.ParseFromString(b"\x20\x63")  # verdict 99, of a newer broker
    assert data.guest(unknown)["verdict"] == "unspecified"
    assert data.guest(unknown)["claims"] == {}


def test_documents_follow_the_schema_and_broken_ones_do_not() -> None:
    guest = v1.Guest(id="a", at="2026-11-27T00:00:00Z", first_at="2026-11-27T00:00:00Z")
    listed = guestviews.guests([guest])
    assert valid(listed, "guest-list")
    assert not valid(listed, "guest")
    broken: list[dict[str, Any]] = [{**data.guest(guest), "times": "1"}]
    assert not valid(CommandOutput("guest-list", broken), "guest-list")
    assert not valid(CommandOutput("guest-list", [{"id": "a"}]), "guest-list")


@pytest.mark.parametrize("done", [True, False])
def test_a_pin_has_the_guest_and_whether_it_was_made(*, done: bool) -> None:
    pinned = v1.PinnedValues(name="tdxData", revision="1")
    pinned.changes.add(field="rtmr1", accepted=["ab"], added="cd")
    output = guestviews.pin(pinned, done=done)
    assert valid(output, "pin")
    assert output.document()["done"] is done
