"""Errors of both programs as documents, whatever the error is."""

from __future__ import annotations

import json

import pytest

from tests.support.command import run_here
from tests.support.documents import follows
from verdictd_py.cli import verdict


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("appraise", "--json", "/nonexistent"), "config", "cannot read /nonexistent"),
        (("appraise", "--json"), "usage", "FILE"),
        (("policy", "check", "--json", "--nonsense"), "usage", "--nonsense"),
    ],
)
def test_an_error_of_verdictd_py(
    capfdbinary: pytest.CaptureFixture[bytes], words: tuple[str, ...], code: str, message: str
) -> None:
    ended = run_here(words, capfdbinary)
    follows(ended.json, "error")
    assert (ended.json["code"], ended.json["status"]) == (code, 2)
    assert message in ended.complaint(2, ended.stderr.partition(": ")[0])
    without = run_here([word for word in words if word != "--json"], capfdbinary)
    assert (without.status, without.stdout) == (2, b"")


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("status", "--json", "--timeout", "0"), 2, "usage"),
        (("nonsense", "-o", "json"), 2, "usage"),
        (("key", "list", "-q", "-o", "json"), 2, "usage"),
        (("--json", "-c", "unix:/nonexistent", "status"), 3, "no-broker"),
        (("--list-gpg-keys", "--json", "-c", "unix:/nonexistent"), 3, "no-broker"),
    ],
)
def test_an_error_of_verdict_py(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, code: str
) -> None:
    try:
        ended = verdict.main(words)
    except SystemExit as end:
        ended = int(end.code or 0)
    out, err = capsys.readouterr()
    document = json.loads(out)
    follows(document, "error")
    assert (ended, document["status"], document["code"]) == (status, status, code)
    assert document["message"] in err
