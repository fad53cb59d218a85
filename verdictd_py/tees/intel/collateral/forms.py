"""Collateral as JSON, in dcap-qvl's form: one set, or a list of them in a file to be carried."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from verdictd_py.formats.collateral import Collateral

MAX_COLLATERAL_SETS: Final = 4096
"""In one file, or files in a directory: Intel has some dozens of FMSPCs."""

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
    """Reads collateral as dcap-qvl writes it: chains PEM, CRLs and signatures hex.

    Raises:
        ValueError: it has not that form; the text says what is wrong.
    """
    return _from_members(parsed(text))


def collaterals_from_json(text: str | bytes) -> tuple[Collateral, ...]:
    """Several of them from a JSON array, or the only one: a file for a hall without a network.

    Raises:
        ValueError: as `collateral_from_json`.
    """
    found = parsed(text)
    if not isinstance(found, list):
        return (_from_members(found),)
    if not found:
        raise ValueError("it is an empty list")
    if len(found) > MAX_COLLATERAL_SETS:
        raise ValueError(f"it has more than {MAX_COLLATERAL_SETS} sets")
    return tuple(_from_members(members) for members in found)


def parsed(text: str | bytes) -> object:
    """JSON of any shape; ValueError with one line for people where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON, see line {error.lineno}: {error.msg}") from None
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
            raise ValueError(f"{name} is no text: it has half of a surrogate pair")
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
    """Writes collateral as `collateral_from_json` and dcap-qvl read it."""
    members = {name: getattr(collateral, name) for name in _TEXTS}
    members |= {name: getattr(collateral, name).hex() for name in _BYTES}
    return json.dumps(members, indent=2)


def collaterals_to_json(collaterals: Sequence[Collateral]) -> str:
    """Writes a file that `collaterals_from_json` reads."""
    return "[" + ",\n".join(collateral_to_json(each) for each in collaterals) + "]\n"


def _unhex(members: Mapping[str, str], name: str) -> bytes:
    try:
        return bytes.fromhex(members[name])
    except ValueError:
        raise ValueError(f"{name} is not hexadecimal") from None
