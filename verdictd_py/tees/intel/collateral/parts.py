"""The four separately signed parts of a set of collateral, and which copy of one is older."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.parsed import ParsedCollateral, parsed

_AGES_CACHED: Final = 64  # the four parts of 16 sets; limited, because guests send their own


@dataclass(frozen=True, slots=True)
class Age:
    """Age of one copy of a part, as its signer states it.

    Attributes:
        number: CRL number (0 if there is none), or `tcbEvaluationDataNumber`.
        issued: `thisUpdate` of a CRL, or `issueDate`.
    """

    number: int
    issued: datetime

    def __str__(self) -> str:
        return f"number {self.number} of {self.issued.isoformat()}"


@dataclass(frozen=True, slots=True)
class Part:
    """One signed part of a set of collateral.

    Attributes:
        name: for messages.
        slug: for names of files.
        members: members of `Collateral` that it consists of, the signed text or CRL first.
    """

    name: str
    slug: str
    members: tuple[str, ...]

    def age(self, collateral: Collateral) -> Age:
        """Return the age of this part of a set whose signatures were verified.

        Raises:
            ValueError: the part does not state it.
        """
        try:
            return _age(self.slug, collateral)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the {self.name} does not state its age") from error

    def is_older(self, collateral: Collateral, than: Collateral) -> bool:
        """Return whether number or date of this part are below those in another set.

        Raises:
            ValueError: one of the two does not state its age.
        """
        age, other = self.age(collateral), self.age(than)
        return age.number < other.number or age.issued < other.issued

    def copied(self, source: Collateral, target: Collateral) -> Collateral:
        """Return `target` with this part of `source`."""
        members: dict[str, Any] = {name: getattr(source, name) for name in self.members}
        return replace(target, **members)


@lru_cache(maxsize=_AGES_CACHED)
def _age(slug: str, collateral: Collateral) -> Age:
    return _AGES[slug](parsed(collateral))


def _age_of_crl(crl: x509.CertificateRevocationList) -> Age:
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = 0
    except x509.DuplicateExtension as error:
        raise ValueError("a CRL has an extension twice") from error
    return Age(number, crl.last_update_utc)


def _age_of_text(members: dict[str, Any]) -> Age:
    issued = datetime.fromisoformat(members["issueDate"])
    if issued.tzinfo is None:
        raise ValueError("an issue date has no time zone")
    return Age(int(members["tcbEvaluationDataNumber"]), issued)


def _pck_crl(view: ParsedCollateral) -> Age:
    return _age_of_crl(view.pck_crl)


def _root_crl(view: ParsedCollateral) -> Age:
    return _age_of_crl(view.root_ca_crl)


def _tcb_info(view: ParsedCollateral) -> Age:
    return _age_of_text(view.tcb_info)


def _qe_identity(view: ParsedCollateral) -> Age:
    return _age_of_text(view.qe_identity)


_AGES: Final = {
    "root-crl": _root_crl,
    "pck-crl": _pck_crl,
    "tcb-info": _tcb_info,
    "qe-identity": _qe_identity,
}

ROOT_CRL: Final = Part("root CRL", "root-crl", ("root_ca_crl",))
PCK_CRL: Final = Part("PCK CRL", "pck-crl", ("pck_crl", "pck_crl_issuer_chain"))
TCB_INFO: Final = Part(
    "TCB info", "tcb-info", ("tcb_info", "tcb_info_signature", "tcb_info_issuer_chain")
)
QE_IDENTITY: Final = Part(
    "QE identity",
    "qe-identity",
    ("qe_identity", "qe_identity_signature", "qe_identity_issuer_chain"),
)
PARTS: Final = (ROOT_CRL, PCK_CRL, TCB_INFO, QE_IDENTITY)


def older_part(collateral: Collateral, than: Collateral) -> Part | None:
    """Return the first part that is older than in another verified set; None if none is.

    Raises:
        ValueError: a part does not state its age.
    """
    return next((part for part in PARTS if part.is_older(collateral, than)), None)
