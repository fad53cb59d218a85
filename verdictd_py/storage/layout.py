"""Lays out a data directory and says what in it an operator should look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from verdictd_py.domain.evidence import Tee
from verdictd_py.domain.secrets import KEY_BYTES
from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError
from verdictd_py.storage.content import unservable
from verdictd_py.storage.defaults import POLICY_FILES, PROVED, RELEASE_FILES, default_file
from verdictd_py.storage.directory import LOCK_FILE, Directory, Entry, Segments
from verdictd_py.storage.documents import OPA
from verdictd_py.storage.stores import ALIASES, COLLATERAL, KEYS, README, RESOURCES

_DIRECTORIES: Final = (KEYS, "image", "gpg", OPA, RESOURCES, COLLATERAL, "audit")

_REJECT: Final = b'{"default":[{"type":"reject"}]}\n'
_SIGSTORE: Final = b"default-docker:\n    sigstore: file:///var/lib/containers/sigstore\n"

_JSON: Final = (("image", "policy.json"), ("image", "auth.json"))

MAX_WARNINGS: Final = 100
"""A directory full of wrong files is one problem, not a thousand lines."""


def prepare(path: Path, *, sample: bool = False) -> tuple[Directory, tuple[str, ...]]:
    """Opens the data directory and writes the defaults that are missing.

    Nothing that exists is altered.

    Args:
        sample: whether sample guests may come, who prove nothing.

    Returns:
        The directory, and warnings, a line each.

    Raises:
        ConfigError: one line: cause and remedy.
    """
    directory = Directory.open(path)
    with ExitStack() as on_failure:
        on_failure.callback(directory.close)
        for name in _DIRECTORIES:
            with _as_config_error(path, name):
                directory.make(name)
                directory.remove_leftovers(name)
        for segments, content in _defaults((*PROVED, Tee.SAMPLE) if sample else PROVED):
            with _as_config_error(path, *segments), suppress(AlreadyExists):
                directory.create(segments, content)
        on_failure.pop_all()
    return directory, _warnings(directory)


@contextmanager
def _as_config_error(path: Path, *segments: str) -> Iterator[None]:
    where = path.joinpath(*segments)
    try:
        yield
    except AlreadyExists as error:
        raise ConfigError(
            f"cannot use {where}: it is a file or a link where a directory belongs; "
            "move it away, or choose another --data-dir"
        ) from error
    except StorageError as error:
        raise ConfigError(
            f"cannot use {where}: it {error}; make it readable and writable for this user"
        ) from error


def _defaults(tees: Iterable[Tee]) -> list[tuple[Segments, bytes]]:
    found: list[tuple[Segments, bytes]] = [
        ((LOCK_FILE,), b""),
        (("image", "policy.json"), _REJECT),
        (("image", "sigstore.yaml"), _SIGSTORE),
    ]
    for names in (POLICY_FILES[tee] for tee in tees):
        found += [((OPA, name), default_file(f"policies/{name}")) for name in names]
    found += [((OPA, name), default_file(f"policies/{name}")) for name in RELEASE_FILES]
    return found


def _warnings(directory: Directory) -> tuple[str, ...]:
    """What loses secrets or guests first, for the rest may be many."""
    found = _image_warnings(directory)
    modes: list[str] = []
    for top in (KEYS, "image", "gpg", RESOURCES):
        for entry in directory.walk(top):
            if top == KEYS:
                found += _key_warnings(entry)
            modes += _mode_warnings(entry)
    found += modes
    if len(found) > MAX_WARNINGS:
        found[MAX_WARNINGS:] = [f"and {len(found) - MAX_WARNINGS} more"]
    return tuple(found)


def _image_warnings(directory: Directory) -> list[str]:
    found: list[str] = []
    for path, alias in ALIASES.items():
        shadow = (RESOURCES, *path)
        with suppress(StorageError):
            if directory.exists(shadow):
                found.append(f"{'/'.join(shadow)} is served instead of {'/'.join(alias)}")
        for segments in (shadow, alias):
            with suppress(NotFound, StorageError):
                content = directory.read(segments)
                problem = unservable(alias, content)
                if problem:
                    found.append(f"{'/'.join(segments)} is not served: {problem}")
                if alias in _JSON and not _is_json(content):
                    found.append(f"{'/'.join(segments)} is no JSON: no guest can read it")
    return found


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content.decode())  # bytes would be taken for UTF-16 as well
    except (ValueError, RecursionError):
        return False
    return True


def _key_warnings(entry: Entry) -> list[str]:
    if entry.size == KEY_BYTES or entry.segments[-1] == README:
        return []
    name = "/".join(entry.segments[1:])
    problem = f"has {entry.size} bytes and is not served: a key has {KEY_BYTES}"
    return [f"key {name} {problem}, a newline at its end included"]


def _mode_warnings(entry: Entry) -> list[str]:
    if entry.mode & 0o077 == 0:
        return []
    name = "/".join(entry.segments)
    return [f"{name} has mode {entry.mode:04o}: others may read it; chmod 600 it"]
