"""Collateral as JSON in dcap-qvl's form: one set, or a list of sets for air-gapped sites."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from verdictd_py.formats.collateral import Collateral

MAX_COLLATERAL_SETS: Final = 4096
"""Maximum number of sets in a file, and of files in a directory. Intel has dozens of FMSPCs."""

_TEXTS: Final = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_BYTES: Final = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_IGNORED: Final = {"pck_certificate_chain"}  # dcap-qvl writes it; the quote has its own chain


def collateral_from_json(text: str | bytes) -> Collateral:
    """Read collateral as dcap-qvl writes it: chains in PEM, CRLs and signatures in hex.

    Raises:
        ValueError: it has another form; the text names the problem.
    """
    return _from_members(parsed(text))


def collaterals_from_json(text: str | bytes) -> tuple[Collateral, ...]:
    """Read one set of collateral, or a JSON array of sets.

    Raises:
        ValueError: as `collateral_from_json`.
    """
    document = parsed(text)
    if not isinstance(document, list):
        return (_from_members(document),)
    if not document:
        raise ValueError("it is an empty list")
    if len(document) > MAX_COLLATERAL_SETS:
        raise ValueError(f"it has more than {MAX_COLLATERAL_SETS} sets")
    return tuple(_from_members(members) for members in document)


def parsed(text: str | bytes) -> object:
    """Decode JSON of any shape.

    Raises:
        ValueError: it is not valid JSON; the text is one line for the operator.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not valid JSON, see line {error.lineno}: {error.msg}") from None
    except ValueError:  # more digits than Python reads
        raise ValueError("a number in it is too long") from None


def _from_members(members: object) -> Collateral:
    if not isinstance(members, dict):
        raise ValueError("it is not a JSON object")
    unknown = set(members) - set(_TEXTS) - set(_BYTES) - _IGNORED
    if unknown:
        raise ValueError(f"unknown member {min(unknown)!r}")
    for name in (*_TEXTS, *_BYTES):
        if not isinstance(members.get(name), str):
            raise ValueError(f"{name} is missing or not a string")
        if _SURROGATE.search(members[name]):
            raise ValueError(f"{name} is not text: it has half of a surrogate pair")
    return Collateral(
        pck_crl_issuer_chain=members["pck_crl_issuer_chain"],
        root_ca_crl=_unhex(members, "root_ca_crl"),
        pck_crl=_unhex(members, "pck_crl"),
        tcb_info_issuer_chain=members["tcb_info_issuer_chain"],
        tcb_info=members["tcb_info"],
        tcb_info_signature=_unhex(members, "tcb_info_signature"),
        qe_identity_issuer_chain=members["qe_identity_issuer_chain"],
        qe_identity=members["qe_identity"],
        qe_identity_signature=_unhex(members, "qe_identity_signature"),
    )


def collateral_to_json(collateral: Collateral) -> str:
    """Write collateral in the form that `collateral_from_json` and dcap-qvl read."""
    members = {name: getattr(collateral, name) for name in _TEXTS}
    members |= {name: getattr(collateral, name).hex() for name in _BYTES}
    return json.dumps(members, indent=2)


def collaterals_to_json(collaterals: Sequence[Collateral]) -> str:
    """Write several sets in the form that `collaterals_from_json` reads."""
    return "[" + ",\n".join(map(collateral_to_json, collaterals)) + "]\n"


def _unhex(members: Mapping[str, str], name: str) -> bytes:
    try:
        return bytes.fromhex(members[name])
    except ValueError:
        raise ValueError(f"{name} is not hexadecimal") from None
