"""The parts of `./dev cluster` that need no cluster; `./dev cluster apply` shows the others."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tools.cluster import __main__ as command
from tools.cluster import apply, binaries, guests, images, node
from tools.cluster.binaries import Failed, Programs


def test_programs_are_kept_for_every_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = Programs.kept().directory
    assert kept.parent == tmp_path / "verdictd-py"
    for version in (binaries.KUBERNETES, binaries.ETCD, binaries.CONTAINERD):
        assert version in kept.name


def test_a_cache_that_cannot_be_written_is_replaced_by_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(binaries, "ROOT", tmp_path / "checkout")
    assert Programs.kept().directory.parent == tmp_path / "checkout" / ".cache"


def test_only_what_is_missing_is_built(tmp_path: Path) -> None:
    for name in binaries.API_SERVER:
        (tmp_path / name).touch(mode=0o755)
    lines: list[str] = []
    Programs(tmp_path).build(binaries.API_SERVER, lines.append)
    assert lines == []
    assert Programs(tmp_path).missing(("etcd", "kubelet")) == ["kubelet"]


def test_without_helm_or_go_nothing_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert command.main(["apply"]) == command.UNAVAILABLE
    assert "helm is missing: go install" in capsys.readouterr().err
    (tmp_path / "helm").touch(mode=0o755)
    assert command.main(["apply"]) == command.UNAVAILABLE
    assert "go is missing: apt-get install golang-go" in capsys.readouterr().err


def test_a_test_without_a_node_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "STATE", tmp_path)
    with pytest.raises(Failed, match=r"no node runs: \./dev cluster up"):
        node.enter(["true"])


def test_a_number_that_another_process_has_now_is_not_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise `down` would kill it."""
    monkeypatch.setattr(node, "STATE", tmp_path)
    own = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / "process").write_text(f"{os.getpid()} {own}")
    assert node.process() == os.getpid()
    (tmp_path / "process").write_text(f"{os.getpid()} {int(own) - 1}")
    assert node.process() is None
    for broken in ("", "x", "1"):
        (tmp_path / "process").write_text(broken)
        assert node.process() is None


STATEFUL = {
    "kind": "StatefulSet",
    "metadata": {"name": "broker", "namespace": "a"},
    "spec": {
        "template": {"metadata": {}, "spec": {"volumes": []}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
    },
}


def test_pods_are_those_that_the_controllers_would_make() -> None:
    bare = {"kind": "Pod", "metadata": {"name": "test"}, "spec": {}}
    other = {"kind": "Service", "metadata": {"name": "x"}, "spec": {}}
    first, second = apply.pods_of([STATEFUL, bare, other], "b")
    assert first["metadata"] == {"name": "broker-0", "namespace": "a"}
    claim = {"claimName": "data"}
    assert first["spec"]["volumes"] == [{"name": "data", "persistentVolumeClaim": claim}]
    assert second["metadata"]["name"] == "test"


def test_a_warning_is_a_complaint() -> None:
    done = subprocess.CompletedProcess(["kubectl"], 0, "applied\n", "Warning: would violate\n")
    assert apply.complaints(done) == ["Warning: would violate"]
    done = subprocess.CompletedProcess(["kubectl"], 1, "", "")
    assert apply.complaints(done) == ["failed without a message"]


@pytest.mark.parametrize(
    ("status", "text", "refused", "kept"),
    [
        (1, "unknown field x", True, True),
        (0, "unknown field x", True, False),  # only warned of
        (1, "cannot connect", True, False),  # failed for another reason
        (0, "unknown field x", False, True),
        (0, "", False, False),
    ],
)
def test_a_refusal_must_have_its_reason(
    status: int, text: str, *, refused: bool, kept: bool
) -> None:
    done = subprocess.CompletedProcess(["kubectl"], status, "", text)
    assert (apply.must_name(done, "unknown field x", refused=refused) == []) is kept


def test_the_image_that_holds_namespaces_is_what_docker_saves(tmp_path: Path) -> None:
    (tmp_path / "pause").write_bytes(b"program")
    images.write_pause(tmp_path / "pause", tmp_path / "pause.tar")
    with tarfile.open(tmp_path / "pause.tar") as archive:
        names = archive.getnames()
        described, layer = (archive.extractfile(f"{one}") for one in ("manifest.json", "layer.tar"))
        assert described is not None
        assert layer is not None
        manifest = json.load(described)
        with tarfile.open(fileobj=layer) as files:
            assert files.getmember("pause").mode == 0o755
    assert names == ["config.json", "layer.tar", "manifest.json"]
    assert manifest[0]["RepoTags"] == ["localhost/pause:1"]


class TestOutage:
    """Figures of seconds without service come from here, so it must not miss any."""

    async def test_the_longest_pause_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        outage = await watch([b"key", OSError(), OSError(), b"key"], monkeypatch)
        assert outage.failed == 2
        assert outage.seconds >= 2 * guests.PAUSE_SECONDS
        assert outage.other == set()

    async def test_a_pause_that_lasts_counts_from_the_last_guest(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guests, "END_SECONDS", 0.3)
        outage = await watch([b"key", OSError()], monkeypatch)
        assert outage.seconds == float("inf")

    async def test_another_key_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        outage = await watch([b"key", b"other", b"key"], monkeypatch)
        assert outage.other == {b"other"}


async def watch(answers: list[bytes | OSError], monkeypatch: pytest.MonkeyPatch) -> guests.Outage:
    """Watch guests that get these answers, and the last one again and again."""
    used = asyncio.Event()

    async def ratstls(*_: object, **__: object) -> bytes:
        await asyncio.sleep(0)
        answer = answers[0]
        if len(answers) > 1:
            del answers[0]
        else:
            used.set()
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(guests.Guests, "ratstls", ratstls)
    async with guests.watched(object.__new__(guests.Guests), "key", b"key") as outage:
        await used.wait()
    return outage
