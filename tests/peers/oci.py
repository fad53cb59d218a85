"""OCI image layouts: a tiny one to encrypt, and what is in an encrypted one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

_ANNOTATION = "org.opencontainers.image.enc.keys.provider."


def write_image(layout: Path, *texts: str) -> None:
    """An image with one gzip layer for each text."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    archives = [_tar(f"file{number}", text.encode()) for number, text in enumerate(texts)]
    layers = [
        put(gzip.compress(archive, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
        for archive in archives
    ]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(archive).hexdigest()}" for archive in archives],
        },
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": layers,
    }
    top = put(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def layers(layout: Path) -> list[dict[str, Any]]:
    """Descriptors of the layers of the only image in a layout."""
    index = json.loads((layout / "index.json").read_text())
    (top,) = index["manifests"]
    found: list[dict[str, Any]] = json.loads(blob(layout, top["digest"]))["layers"]
    return found


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()


def packet(layer: dict[str, Any], provider: str = "attestation-agent") -> bytes:
    """The annotation packet of an encrypted layer."""
    return base64.b64decode(layer["annotations"][_ANNOTATION + provider])


def _tar(name: str, content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
