"""Latency and CPU of reading one key: plain, sealed by a file, by a PKCS#11 token, with the cache.

    ./dev run python -m benchmarks.sealing [--location NAME=URI ...]

All stores are read in turn in one process, so that their ratios do not depend on the load of the
machine. The result is printed as Markdown. `--location vault=vault:...` adds another provider.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.sealing.datakeys import DataKeys
from verdictd_py.sealing.registry import open_key
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.stores import DirectoryKeyStore

ROUNDS = 40
READS = 50
KEY = KeyId.parse("default/key/1")


async def store(root: Path, location: str | None, *, cache: bool) -> DirectoryKeyStore:
    """Return a store with one key."""
    root.mkdir(mode=0o700)  # noqa: ASYNC240  # before anything is measured
    directory = Directory.open(root)
    for top in ("keys", "resources", "image", "gpg"):
        directory.make(top)
    objects = None
    if location is not None:
        sealer = EnvelopeSealer(open_key(location), DataKeys(3600) if cache else None)
        objects = SealedObjects(directory, sealer)
    keys = DirectoryKeyStore(directory, objects)
    await keys.create(KEY, SecretBytes(secrets.token_bytes(32)))
    return keys


async def measure(read: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return seconds and CPU seconds of one read, the mean of some."""
    started, cpu = time.perf_counter(), time.process_time()
    for _ in range(READS):
        await read()
    return (time.perf_counter() - started) / READS, (time.process_time() - cpu) / READS


async def run(locations: dict[str, str], root: Path) -> None:
    """Measure all stores in turn, and print the medians."""
    stores = {"plain": await store(root / "plain", None, cache=False)}
    for name, location in locations.items():
        for cache in (False, True):
            label = f"sealed, {name}{', cache' if cache else ''}"
            stores[label] = await store(root / label, location, cache=cache)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in stores}
    for _ in range(ROUNDS):
        for name, keys in stores.items():
            results[name].append(await measure(lambda keys=keys: keys.get(KEY)))  # type: ignore[misc]
    plain = statistics.median(cpu for _, cpu in results["plain"])
    print("| store | latency, µs | CPU, µs | CPU more than plain, µs | CPU to plain |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, pairs in results.items():
        latency, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        more = f"{(cpu - plain) * 1e6:.0f} | {cpu / plain:.1f}"
        print(f"| {name} | {latency * 1e6:.0f} | {cpu * 1e6:.0f} | {more} |")


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--location", metavar="NAME=URI", action="append", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        kek = Path(directory) / "kek"
        kek.write_bytes(secrets.token_bytes(32))
        kek.chmod(0o400)
        more = dict(text.split("=", 1) for text in options.location)
        asyncio.run(run({"file": f"file:{kek}", **more}, Path(directory)))


if __name__ == "__main__":
    main()
