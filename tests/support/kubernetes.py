"""Volumes as the kubelet writes them: AtomicWriter of pkg/volume/util, Kubernetes 1.37."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


class Volume:
    """Volume of a Secret or a ConfigMap at a mount point."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = 0
        path.mkdir(parents=True, exist_ok=True)

    def write(self, content: Mapping[str, bytes]) -> None:
        """Replace the whole content; keys may be paths, as in `items` of a volume."""
        self._written += 1
        current = self.path / f"..2026_11_27_03_38_{self._written:02}.1040135130"
        for name, text in content.items():
            file = current / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
            file.chmod(0o600)
        data, fresh = self.path / "..data", self.path / "..data_tmp"
        old = data.readlink() if data.is_symlink() else None
        fresh.symlink_to(current.name)
        fresh.rename(data)
        for name in {name.partition("/")[0] for name in content}:
            link = self.path / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for link in self.path.iterdir():
            if not link.name.startswith("..") and not link.exists():
                link.unlink()
        if old is not None:
            shutil.rmtree(self.path / old)
