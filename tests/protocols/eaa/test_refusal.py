"""A refused guest receives the refusal in a form that its client prints, and nothing else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from verdictd_py.protocols.eaa.refusal import MAX_BYTES, Refusal

TEXT = "refused: policy-refused; ask the operator about ab12"
VERSION = b'{"command":"version"}'
OK = {"status": "OK", "version": "v1"}

DECRYPT: dict[str, Any] = {
    "command": "Decrypt",
    "blobs": [
        {"kid": "k", "encrypted_data": "AA==", "algorithm": "AES", "key_length": 256, "iv": "AA=="}
    ],
}
INFO = {"command": "Get Resource Info", "name": "Policy"}
FIRST_RESOURCE = {"command": "Get Policy", "optional": {}}
SECOND_RESOURCE = {"command": "Get Resource", "optional": {"resource_path": "default/key/1"}}


def printed(request: dict[str, Any], answer: bytes) -> str:
    """Return what attestation-agent prints of a failure (kbc/src/eaa_kbc/mod.rs)."""
    if request["command"] in ("Get Policy", "Get Resource"):
        answer = base64.b64decode(answer, validate=True)
    members = json.loads(answer)
    assert members["status"] == "Fail"
    return str(members["error"])


@pytest.mark.parametrize("request_", [DECRYPT, INFO, FIRST_RESOURCE, SECOND_RESOURCE])
def test_version_is_answered_and_the_next_request_is_refused(request_: dict[str, Any]) -> None:
    """The client connects, sends `version`, and then its request, whatever it printed."""
    refusal = Refusal(TEXT)
    (version,) = refusal.answers(VERSION)
    assert json.loads(version) == OK
    assert not refusal.complete
    (answer,) = refusal.answers(json.dumps(request_).encode())
    assert printed(request_, answer) == TEXT
    assert refusal.complete


def test_a_first_request_other_than_version_is_refused_at_once() -> None:
    refusal = Refusal(TEXT)
    (answer,) = refusal.answers(json.dumps(DECRYPT).encode() + VERSION * 3)
    assert printed(DECRYPT, answer) == TEXT
    assert refusal.complete
    assert not list(refusal.answers(VERSION))


def test_version_is_answered_once() -> None:
    refusal = Refusal(TEXT)
    first, second = refusal.answers(VERSION * 5)
    assert json.loads(first) == OK
    assert json.loads(second) == {"status": "Fail", "version": "v1", "error": TEXT}
    assert refusal.complete


@pytest.mark.parametrize(
    "sent",
    [
        b"Hello and welcome to RATS-TLS!\n",
        b"\xff" * 100,
        b'{"command":7}',
        b'{"command":"echo","data":"x"}',
        b'{"command":"Get KEK"}',
        b'{"command":"anything"}',
    ],
)
def test_whatever_else_a_refused_guest_sends_is_not_looked_at(sent: bytes) -> None:
    """The answer depends on the form of the request, never on its content."""
    (answer,) = Refusal(TEXT).answers(sent)
    assert json.loads(answer) == {"status": "Fail", "data": {}, "error": TEXT}


def test_an_endless_request_is_refused_early() -> None:
    """The peer is not attested, so it has no capacity for a request of 1 MiB."""
    refusal = Refusal(TEXT)
    assert not list(refusal.answers(b'{"command":"' + b"x" * 1000))
    (answer,) = refusal.answers(b"x" * MAX_BYTES)
    assert json.loads(answer)["error"] == TEXT
    assert refusal.complete


def test_the_refusal_without_a_request_has_the_form_of_most_commands() -> None:
    refusal = Refusal(TEXT)
    assert json.loads(refusal.unrequested()) == {"status": "Fail", "data": {}, "error": TEXT}
    assert refusal.complete
