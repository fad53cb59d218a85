"""Images of the node: the broker's, and that of the process which holds a pod's namespaces."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Final

from tools.cluster.binaries import ROOT, Failed, Programs

ARCHIVES: Final = ROOT / ".cache" / "cluster-image"
REPOSITORY: Final = "localhost/verdictd-py"
SOURCES: Final = (
    *("verdictd_py", "policies", "keys", "Containerfile", "pyproject.toml"),
    *("requirements.lock", "requirements-build.lock", "tools/image"),
)


def built() -> Path:
    """Return the broker's image as an OCI archive, which is built if its sources have changed.

    Raises:
        Failed: it cannot be built.
    """
    state = _state()
    known = ARCHIVES / "built-from"
    if not known.is_file() or known.read_text() != state:
        words = ("./dev", "image", "--base", "debian", "--output", str(ARCHIVES))
        done = subprocess.run(words, cwd=ROOT, check=False)
        if done.returncode:
            raise Failed("the image could not be built")
        known.write_text(state)
    (archive,) = ARCHIVES.glob("*.oci.tar")
    return archive


def _state() -> str:
    """Return a digest of the files from which the image is built."""
    found = subprocess.run(
        ["git", "ls-files", "-z", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    digest = hashlib.sha256()
    for name in filter(None, found.stdout.split("\0")):
        digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()


def import_images(programs: Programs, address: Path, archive: Path, work: Path) -> None:
    """Import both into containerd, the broker's by its digest.

    Args:
        address: socket of containerd.
        archive: the broker's image.
        work: directory for temporary files.
    """

    def ctr(*words: str) -> str:
        own = (programs.path("ctr"), f"--address={address}", "--namespace=k8s.io", "images", *words)
        done = subprocess.run(own, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"ctr {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    pause = work / "pause.tar"
    write_pause(Path(programs.path("pause")), pause)
    ctr("import", str(pause))
    ctr("import", f"--base-name={REPOSITORY}", "--digests", str(archive))
    names = [line.split()[0] for line in ctr("list").splitlines()[1:]]
    digests = [name.partition("@")[2] for name in names if name.startswith(f"{REPOSITORY}@")]
    if len(digests) != 1:
        raise Failed(f"the archive {archive} has no image of this machine: {names}")
    (work / "digest").write_text(digests[0])


def write_pause(program: Path, target: Path) -> None:
    """Write an archive, as `docker save` does, of an image with one program that waits."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as written:
        added = tarfile.TarInfo("pause")
        added.mode, added.size = 0o755, program.stat().st_size
        with program.open("rb") as content:
            written.addfile(added, content)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()],
        },
    }
    manifest = {"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}
    files = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps([manifest]).encode(),
    }
    with tarfile.open(target, "w") as written:
        for name, text in files.items():
            added = tarfile.TarInfo(name)
            added.size = len(text)
            written.addfile(added, io.BytesIO(text))
