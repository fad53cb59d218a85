"""Lays out a data directory and says what in it an operator should look at."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.domain.secrets import KEY_BYTES
from verdictd_py.errors import AlreadyExists, ConfigError, NotFound, StorageError
from verdictd_py.storage.content import unservable
from verdictd_py.storage.defaults import POLICY_FILES, default_file
from verdictd_py.storage.directory import Directory, Entry, Segments
from verdictd_py.storage.stores import ALIASES, KEYS, OPA, RESOURCES

_DIRECTORIES: Final = (KEYS, "image", "gpg", OPA, RESOURCES, "audit")

_REJECT: Final = b'{"default":[{"type":"reject"}]}\n'
_SIGSTORE: Final = b"default-docker:\n    sigstore: file:///var/lib/containers/sigstore\n"

MAX_WARNINGS: Final = 100
"""A directory full of wrong files is one problem, not a thousand lines."""


def prepare(path: Path) -> tuple[Directory, tuple[str, ...]]:
    """Opens the data directory and writes the defaults that are missing.

    Nothing that exists is altered.

    Returns:
        The directory, and warnings, a line each.

    Raises:
        ConfigError: one line: cause and remedy.
    """
    directory = Directory.open(path)
    try:
        for name in _DIRECTORIES:
            directory.make(name)
        directory.remove_leftovers()
        for segments, content in _defaults():
            with suppress(AlreadyExists):
                directory.create(segments, content)
    except StorageError as error:
        raise ConfigError(
            f"cannot use {path}: a file or directory in it {error}; "
            "make it readable and writable for this user"
        ) from error
    return directory, _warnings(directory)


def _defaults() -> list[tuple[Segments, bytes]]:
    found: list[tuple[Segments, bytes]] = [
        (("image", "policy.json"), _REJECT),
        (("image", "sigstore.yaml"), _SIGSTORE),
    ]
    for names in POLICY_FILES.values():
        found += [((OPA, name), default_file(f"policies/{name}")) for name in names]
    return found


def _warnings(directory: Directory) -> tuple[str, ...]:
    found: list[str] = []
    for entry in directory.walk(KEYS):
        found += _key_warnings(entry)
    for top in ("image", "gpg", RESOURCES):
        found += [line for entry in directory.walk(top) for line in _mode_warnings(entry)]
    for path, alias in ALIASES.items():
        if directory.exists((RESOURCES, *path)):
            found.append(f"{RESOURCES}/{'/'.join(path)} is served instead of {'/'.join(alias)}")
        with suppress(NotFound, StorageError):
            problem = unservable(alias, directory.read(alias))
            if problem:
                found.append(f"{'/'.join(alias)} is not served: {problem}")
    if len(found) > MAX_WARNINGS:
        found[MAX_WARNINGS:] = [f"and {len(found) - MAX_WARNINGS} more"]
    return tuple(found)


def _key_warnings(entry: Entry) -> list[str]:
    found = _mode_warnings(entry)
    if entry.size != KEY_BYTES and entry.segments[-1] != "README.md":
        name = "/".join(entry.segments[1:])
        found.append(
            f"key {name} has {entry.size} bytes and is not served: a key has {KEY_BYTES}, "
            "a newline at its end included"
        )
    return found


def _mode_warnings(entry: Entry) -> list[str]:
    if entry.mode & 0o077 == 0:
        return []
    name = "/".join(entry.segments)
    return [f"{name} has mode {entry.mode:04o}: others may read it; chmod 600 it"]
