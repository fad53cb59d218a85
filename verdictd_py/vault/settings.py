"""Settings of one `[[resource_backend]]`: a prefix of paths, and where in Vault its names are."""

from __future__ import annotations

import re
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, model_validator

from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.spelling import did_you_mean
from verdictd_py.errors import ConfigError, RequestError
from verdictd_py.vault.location import Location

_PATH: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_REQUIRED: Final = ("prefix", "vault")


class ResourceBackend(BaseModel):
    """One table of the configuration file.

    Attributes:
        prefix: one or two first segments of paths, with `/` at the end: `team-a/`.
        vault: location of the mount of KV version 2, as for `--seal`.
        path: path in the mount; the prefix by default.
        writable: whether the management API may change what is there.
        transit_key: mount of Transit and name of the key that wraps keys: `transit/images`.
        keys_path: path in the mount of the wrapped keys; needs `transit_key`, and it needs this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    prefix: str
    vault: str
    path: str | None = None
    writable: bool = False
    transit_key: str | None = None
    keys_path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_names(cls, value: object) -> object:
        if isinstance(value, dict):
            for name in value:
                if name not in cls.model_fields:
                    hint = did_you_mean(str(name), cls.model_fields)
                    raise ValueError(f"{name} is not a setting of resource_backend{hint}")
            for name in _REQUIRED:
                if name not in value:
                    raise ValueError(f"resource_backend needs {name}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            ResourcePath.parse("/".join((*self.segments, "a", "a")[:3]))
        except RequestError:
            raise ValueError(
                f"prefix: {self.prefix!r} is not one or two segments with '/' behind, as team-a/"
            ) from None
        for name in ("path", "transit_key", "keys_path"):
            value = getattr(self, name)
            if value is not None and not _PATH.fullmatch(value):
                raise ValueError(f"{name}: {value!r} is not a path in Vault, as kbs/team-a")
        if (self.transit_key is None) != (self.keys_path is None):
            raise ValueError("transit_key and keys_path need each other: set both, or neither")
        if self.transit_key is not None and "/" not in self.transit_key:
            raise ValueError("transit_key must have a mount and a name, as transit/images")
        if self.keys_path is not None and _overlap(self.keys_path, self.entries_path):
            raise ValueError("keys_path and path overlap: give keys a path of their own")
        try:
            Location.parse(self.vault, "vault")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def segments(self) -> tuple[str, ...]:
        """Segments of the prefix; an invalid one becomes a segment that no path has."""
        parts = tuple(self.prefix.removesuffix("/").split("/"))
        return parts if self.prefix.endswith("/") and len(parts) <= 2 else ("/",)

    @property
    def entries_path(self) -> str:
        """Path of the resources in the mount."""
        return self.path or self.prefix.removesuffix("/")


def require_different(backends: tuple[ResourceBackend, ...]) -> tuple[ResourceBackend, ...]:
    """Return the backends.

    Raises:
        ValueError: two of them have the same prefix.
    """
    prefixes = [backend.prefix for backend in backends]
    for prefix in prefixes:
        if prefixes.count(prefix) > 1:
            raise ValueError(f"the prefix {prefix!r} is there twice: each may have one backend")
    return backends


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def location_of(backend: ResourceBackend) -> Location:
    """Return where the mount is."""
    return Location.parse(backend.vault, "resource_backend")
