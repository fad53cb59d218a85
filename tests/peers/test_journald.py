"""Records in the journal of the real systemd-journald, in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import environment

JOURNALD = Path("/usr/lib/systemd/systemd-journald")

_START = """
mount --make-rprivate / && mount -t tmpfs none /run || exit 77
mkdir -p /run/systemd/journal /run/log/journal
"$0" 2>/dev/null &
while [ ! -S /run/systemd/journal/socket ] && kill -0 $!; do sleep 0.1; done
"$@" && journalctl --sync &&
  journalctl --directory /run/log/journal --identifier verdictd-py-audit --all --output json
status=$?
kill $!
wait
exit $status
"""

_SEND = """
import sys
from verdictd_py.events.sinks.journald import JournalSink
sink = JournalSink()
assert sink.send([line.rstrip(b"\\n") for line in sys.stdin.buffer]) == 0
sink.close()
"""


def test_the_journal_has_each_record_with_its_event_also_a_large_one() -> None:
    if os.geteuid() or not JOURNALD.exists():
        pytest.skip("only root can start systemd-journald, where it is installed")
    records = [
        {"event": "secret.released", "fields": {"path": "x" * 300_000}, "time": "now"},
        {"event": "key.created", "fields": {"kid": "a"}, "time": "now"},
    ]
    lines = [json.dumps(record, separators=(",", ":")) for record in records]
    namespace = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    ended = subprocess.run(
        [*namespace, "sh", "-c", _START, str(JOURNALD), sys.executable, "-c", _SEND],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=200,
    )
    if ended.returncode == 77:
        pytest.skip("this user may not mount")
    assert ended.returncode == 0, ended.stderr
    entries = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [entry["MESSAGE"] for entry in entries] == lines
    assert [entry["VERDICTD_EVENT"] for entry in entries] == ["secret.released", "key.created"]
    assert {entry["SYSLOG_FACILITY"] for entry in entries} == {"13"}
