"""Check of the libraries that the broker needs; it imports none before it has checked them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

_MODULES: Final = {
    "cryptography": "cryptography.hazmat.bindings._rust",
    "dcap-qvl": "dcap_qvl",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health.v1.health",
    "grpcio-reflection": "grpc_reflection.v1alpha.reflection",
    "prometheus-client": "prometheus_client",
    "protobuf": "google.protobuf",
    "pyopenssl": "OpenSSL.SSL",
    "pysequoia": "pysequoia",
}
"""Module by which a distribution is tried, if it is not the distribution's name."""

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9_.-]+)\s*([^;]*)")
_BOUND: Final = re.compile(r"(>=|<)\s*([0-9.]+)")
_REMEDY: Final = "install verdictd-py again with its libraries"
_NOT_MAPPED: Final = "failed to map segment from shared object"
"""What the dynamic linker of glibc says of a library on a file system without execution."""


def problems(distribution: str = "verdictd-py") -> Iterator[tuple[str, str]]:
    """Yield each library that is missing, too old or broken: its name, cause and remedy."""
    try:
        needed = requires(distribution) or []
    except PackageNotFoundError:  # run from a checkout without an environment
        needed = [f"{name}>=0" for name in _MODULES]
    for text in needed:
        if "extra ==" not in text:
            found = _REQUIREMENT.match(text)
            if found is None or not (problem := _problem(found[1], found[2])):
                continue
            if _NOT_MAPPED in problem:  # so it is with each further library
                yield found[1], f"{problem}; mount its file system without noexec"
                return
            yield found[1], f"{problem}; {_REMEDY}"


def _problem(name: str, bounds: str) -> str:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return "it is not installed"
    for operator, bound in _BOUND.findall(bounds):
        fits = _numbers(installed) >= _numbers(bound)
        if fits != (operator == ">="):
            return f"version {installed} is installed, and {operator}{bound} is needed"
    try:
        import_module(_MODULES.get(name.lower(), name.lower().replace("-", "_")))
    except Exception as error:  # noqa: BLE001  # a broken library raises what it likes
        return f"it cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"
    return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    parts: Iterable[str] = re.match(r"[0-9.]*", text)[0].strip(".").split(".")  # type: ignore[index]
    return tuple(int(part) for part in parts if part)
