"""Pages as files for tickets, written by `verdict-py`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker
from tests.support.console import guests_of_every_kind
from tests.support.verdict import verdict

OTHERS = ("<link", "<script", "<form", "<iframe", "src=", "@import", "url(http", ' href="/')


async def test_status_and_explanation_are_self_contained(
    broker: RunningBroker, tmp_path: Path
) -> None:
    await guests_of_every_kind(broker)
    refused = str(broker.events.named("guest.refused")[-2]["appraisal"])
    for words in (("status",), ("explain", refused)):
        file = tmp_path / f"{words[0]}.html"
        ended = await verdict(broker, *words, "--html", str(file))
        assert ended.status == 0, ended
        assert str(file) in ended.stdout.decode().replace("\n", "")
        page = file.read_text()
        assert page.startswith("<!doctype html>")
        assert "default-src &#39;none&#39;" in page
        for text in OTHERS:
            assert text not in page, (words, text)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "The guest runs in debug mode: its host can read its memory." in page
    assert broker.events.named("warning.bug") == []


@pytest.mark.parametrize("place", ["missing/page.html", "."])
async def test_a_file_that_cannot_be_written_is_named(
    broker: RunningBroker, tmp_path: Path, place: str
) -> None:
    ended = await verdict(broker, "status", "--html", str(tmp_path / place))
    assert ended.status == 2
    assert "check --html" in ended.stderr


async def test_the_link_to_the_console_is_printed(broker: RunningBroker) -> None:
    ended = await verdict(broker, "console")
    assert ended.status == 1
    assert "this broker has no console" in ended.stderr


@pytest.mark.broker(console="127.0.0.1:0")
async def test_the_link_is_all_of_the_output(broker: RunningBroker) -> None:
    ended = await verdict(broker, "console")
    assert ended.status == 0
    address = broker.daemon.listener("console").endpoint
    assert ended.stdout.decode().startswith(f"{address}/login?code=")
    assert len(ended.stdout.split()) == 1
    assert "it signs in once" in " ".join(ended.stderr.split())
