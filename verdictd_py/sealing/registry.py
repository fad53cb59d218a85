"""Registry of the providers of key-encryption keys, built-in ones and those of other packages.

Another package adds a provider through an entry point whose name is the scheme of `--seal`, and
whose value is an `OpenKey`::

    [project.entry-points."verdictd_py.seals"]
    acme = "acme_verdictd:open_key"

It is loaded only when `--seal` names its scheme, and cannot take the scheme of a built-in one.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from verdictd_py.errors import ConfigError
from verdictd_py.ports.sealing import KeyEncryptionKey, OpenKey

ENTRY_POINT_GROUP: Final = "verdictd_py.seals"

BUILT_IN: Final = (
    EntryPoint("file", "verdictd_py.sealing.keyfile:open_key", ENTRY_POINT_GROUP),
    EntryPoint("credential", "verdictd_py.sealing.keyfile:open_credential", ENTRY_POINT_GROUP),
    EntryPoint("pkcs11", "verdictd_py.sealing.pkcs11:open_key", ENTRY_POINT_GROUP),
    EntryPoint("vault", "verdictd_py.vault.seal:open_key", ENTRY_POINT_GROUP),
)
"""The providers of this package, one line each."""


def open_key(location: str) -> KeyEncryptionKey:
    """Open the KEK that `--seal` names.

    Raises:
        ConfigError: there is no such provider, its package cannot be loaded, or it cannot use the
            location.
    """
    scheme, colon, _ = location.partition(":")
    built_in = {point.name: point for point in BUILT_IN}
    point = built_in.get(scheme)
    if point is None:
        plugins = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
        point = plugins.get(scheme) if colon else None
        if point is None:
            known = ", ".join(
                f"{name}:" for name in (*built_in, *sorted(plugins.keys() - built_in))
            )
            raise ConfigError(
                f"--seal {scheme}{colon}: there is no such provider of a key; known are {known}"
            )
    return _load(point)(location)


def _load(point: EntryPoint) -> OpenKey:
    """Load a provider.

    Raises:
        ConfigError: it cannot be loaded, or cannot be called.
    """
    try:
        loaded = point.load()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"--seal {point.name}: the provider {point.value} cannot be loaded: "
            f"{type(error).__name__}: {error}; install its package again"
        ) from error
    if not callable(loaded):
        raise ConfigError(f"--seal {point.name}: {point.value} is not a provider of keys")
    return cast("OpenKey", loaded)
