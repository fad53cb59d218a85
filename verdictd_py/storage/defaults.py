"""Defaults shipped with the package: policies, reference data, the guide's example key."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from verdictd_py.domain.evidence import Tee
from verdictd_py.errors import NotFound
from verdictd_py.ports import PolicyDocuments

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_INSTALLED: Final = _PACKAGE / "_data"
_CHECKOUT: Final = _PACKAGE.parent

POLICY_FILES: Final = {
    Tee.TDX: ("tdxPolicy.rego", "tdxData"),
    Tee.SGX: ("sgxPolicy.rego", "sgxData"),
    Tee.SAMPLE: ("samplePolicy.rego", "sampleData"),
}
"""Policy and reference data of each TEE, below `opa/` (storage.md)."""

PROVED: Final = (Tee.TDX, Tee.SGX)
"""TEEs whose documents every data directory has; sample guests have theirs where they may come."""


RELEASE_FILES: Final = ("releasePolicy.rego", "releaseData")
"""Which accepted guest gets what, below `opa/` too."""


def default_file(name: str) -> bytes:
    """Content of `policies/<file>` or `keys/<file>`, from the wheel or from the checkout.

    Raises:
        FileNotFoundError: the package lacks it (our bug).
    """
    installed = _INSTALLED / name
    return (installed if installed.is_file() else _CHECKOUT / name).read_bytes()


def default_documents(tee: Tee) -> PolicyDocuments:
    """The packaged policy and reference data.

    Raises:
        NotFound: none is packaged for `tee`.
    """
    if tee not in POLICY_FILES:
        raise NotFound(f"no policy is packaged for {tee}")
    policy, data = (default_file(f"policies/{name}").decode() for name in POLICY_FILES[tee])
    return PolicyDocuments(policy, data)
