"""A TEE as one value, and the registry of those that are known.

A TEE (trusted execution environment) is a package that defines one `Tee` object. Everything
that the rest of the broker has to know of a TEE is a member of this object. No other module
compares names of TEEs: it looks up the object in a `Tees` and uses its members.
`docs/adding-a-tee.md` is the page for authors of such packages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

from verdictd_py.documents.datanames import data_names
from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.claims import Claim, Compared
from verdictd_py.domain.evidence import NO_TEE, VerifiedEvidence
from verdictd_py.domain.trust import HARDWARE_UNKNOWN, TrustVector
from verdictd_py.encoding import JsonValue, encode_object, quoted
from verdictd_py.errors import ConfigError, EvidenceFormat, Reason, ReasonKind, RequestError
from verdictd_py.ports.collateral import CollateralStore
from verdictd_py.ports.events import Events
from verdictd_py.ports.policies import PolicyDocuments
from verdictd_py.ports.verifier import Verifier


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Answer to a GET.

    Attributes:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


HttpGet = Callable[[str], Awaitable[HttpAnswer]]
"""GETs a URL, with bounds on time and size. Raises `CollateralUnavailable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierContext:
    """What a verifier may be built from.

    Attributes:
        clock: the current time, with a time zone.
        events: where to record what operators must know.
        store: survives a restart; file names begin with the name of the TEE and `-`.
        http: opens a client with the site's proxy and CAs. It sends no credentials.
        root_ca_der: root certificate that is trusted instead of the vendor's, None for the
            vendor's.
        settings: the TEE's own section of the settings, `[tee.NAME]`.
        services: what the composition built for several TEEs of one vendor, by vendor.
    """

    clock: Callable[[], datetime]
    events: Events
    store: CollateralStore | None = None
    http: Callable[[], AbstractAsyncContextManager[HttpGet]] | None = None
    root_ca_der: bytes | None = field(default=None, repr=False)
    settings: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    services: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Carried:
    """Evidence taken out of the value that a protocol carried; nothing of it is verified.

    Attributes:
        quote: the signed evidence.
        event_log: what was measured at boot, where the guest sent it.
        endorsements: what the guest sent of the vendor's certificates and lists, in a type of
            the TEE's own. The guest chose them.
    """

    quote: bytes = field(repr=False)
    event_log: bytes | None = field(default=None, repr=False)
    endorsements: object | None = field(default=None, repr=False)


def read_json(value: Mapping[str, JsonValue]) -> Carried:
    """Takes the JSON object that a guest sent over RCAR as the signed evidence."""
    return Carried(encode_object(dict(value)))


def read_bare(evidence: bytes, endorsements: bytes | None, tag: int) -> Carried:
    """Takes the bytes in a certificate as the signed evidence, without endorsements.

    Raises:
        EvidenceFormat: the certificate has endorsements.
    """
    del tag
    if endorsements is not None:
        raise EvidenceFormat("the certificate carries endorsements, and its TEE has none")
    return Carried(evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How the protocols name and carry evidence of a TEE.

    Attributes:
        recognizes: whether signed evidence is of this TEE, by its first bytes. It decides
            between TEEs that share a tag, and what a file without an envelope is.
        rcar: values of RCAR's `tee`, the first one as guests of today send it.
        oids: OIDs of certificate extensions whose content is the signed evidence.
        tags: CBOR tags of DICE evidence in certificates.
        read_rcar: takes the JSON object of RCAR's `tee-evidence` apart; raises
            `EvidenceFormat` or `EvidenceMissing`.
        read_certificate: takes evidence and endorsements under a CBOR tag apart (evidence,
            content of the endorsements extension or None, tag); raises `EvidenceFormat`.
    """

    recognizes: Callable[[bytes], bool]
    rcar: tuple[str, ...] = ()
    oids: tuple[str, ...] = ()
    tags: tuple[int, ...] = ()
    read_rcar: Callable[[Mapping[str, JsonValue]], Carried] = read_json
    read_certificate: Callable[[bytes, bytes | None, int], Carried] = read_bare


@dataclass(frozen=True, slots=True)
class Documents:
    """Appraisal policy and reference data of a TEE.

    Attributes:
        policy, data: file names in `opa/` of the data directory.
        packaged: reads the default text that the TEE's package brings, by file name.
    """

    policy: str
    data: str
    packaged: Callable[[str], str] = field(repr=False)

    @property
    def names(self) -> tuple[str, str]:
        return self.policy, self.data

    def defaults(self) -> PolicyDocuments:
        """The packaged policy with its packaged reference data."""
        return PolicyDocuments(self.packaged(self.policy), self.packaged(self.data))


@dataclass(frozen=True, slots=True)
class TcbStatus:
    """The vendor's verdict about how current a platform is.

    Attributes:
        claim: the vendor's term for it, a claim of text.
        accepted: values that pass where reference data does not pin any.
        revoked: values that no policy can accept.
        grace: name of reference data, and of a claim. The reference data gives a number of days
            by status, the claim the days since a newer TCB came out. None for no grace.
        known: every value that the vendor uses, so that reference data with another one is
            refused. Empty accepts any text.
    """

    claim: str
    accepted: tuple[str, ...]
    revoked: tuple[str, ...] = ()
    grace: tuple[str, str] | None = None
    known: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EventLogRegisters:
    """Registers that a boot event log (CCEL) extends.

    Attributes:
        claims: claim of each register, by its index in the log, from 1 on.
        extended_later: those that some guests extend at run time without log entries.
        measured: reads the registers, by claim, out of signed evidence without verifying it;
            raises `EvidenceFormat`.
    """

    claims: tuple[str, ...]
    extended_later: tuple[str, ...]
    measured: Callable[[bytes], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class InitDataBinding:
    """Where a TEE measures init-data.

    Attributes:
        claim: claim whose value is the digest; None where nothing proves the init-data.
        size: bytes of the claim: a longer digest is cut, a shorter one is filled with zeros.
    """

    claim: str | None
    size: int = 0


def no_trust(found: VerifiedEvidence, open_measurements: tuple[str, ...]) -> TrustVector:
    """Vector of a guest whose hardware is not recognized."""
    del found, open_measurements
    return {"hardware": HARDWARE_UNKNOWN}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tee:
    """Everything that is known of a TEE.

    Attributes:
        name: of the TEE and its verifier: lower case, stable, as on the command line.
        aliases: further names of its verifier on the command line.
        wire: how protocols name and carry its evidence.
        claims: every claim of its verifier by name, in the order in which they are explained.
        documents: its policy and reference data.
        verifier: builds its verifier; raises `ConfigError`.
        tcb: the vendor's verdict about the platform, None for a TEE without one.
        lists_required: whether reference data without a measurement's list refuses, where
            otherwise it accepts any value.
        event_log: None for a TEE whose guests have no event log that could be replayed.
        init_data: None for a TEE that does not measure init-data.
        trust: trust vector of a guest that was accepted, for tokens; the second argument
            names the measurements for which the operator has pinned no values.
        proves: False for a TEE whose evidence any client can make: it is served only with a
            flag of its own.
        served_unpinned: whether guests can be accepted before a measurement is pinned, although
            `--verifier` does not name the TEE.
    """

    name: str
    wire: Wire = field(repr=False)
    claims: Mapping[str, Claim] = field(repr=False)
    documents: Documents = field(repr=False)
    verifier: Callable[[VerifierContext], Verifier] = field(repr=False)
    aliases: tuple[str, ...] = ()
    tcb: TcbStatus | None = field(default=None, repr=False)
    lists_required: bool = field(default=False, repr=False)
    event_log: EventLogRegisters | None = field(default=None, repr=False)
    init_data: InitDataBinding | None = field(default=None, repr=False)
    trust: Callable[[VerifiedEvidence, tuple[str, ...]], TrustVector] = field(
        default=no_trust, repr=False
    )
    proves: bool = True
    served_unpinned: bool = False

    @property
    def measurements(self) -> tuple[str, ...]:
        """Claims that identify software; they must be pinned before it is safe to serve."""
        return tuple(name for name, claim in self.claims.items() if claim.measurement)

    def reference_schema(self) -> ReferenceSchema:
        """Return names and forms of its reference data: what its packaged policy reads.

        A packaged policy that reads `data` as a whole may read a value for each claim.

        The policy is read from the TEE's package; `Tees.schema` does it once.
        """
        reads = data_names(self.documents.packaged(self.documents.policy))
        names = reads.named
        if reads.any_name:
            names |= {
                name
                for name, claim in self.claims.items()
                if claim.compared is not Compared.ALWAYS_FALSE
            }
        return ReferenceSchema(
            (*(name for name in self.claims if name in names), *sorted(names - set(self.claims))),
            self.claims,
            status=None if self.tcb is None else self.tcb.claim,
            statuses=() if self.tcb is None else self.tcb.known,
            grace=None if self.tcb is None or self.tcb.grace is None else self.tcb.grace[0],
        )

    def reason_kind(self, claim: str) -> ReasonKind:
        """Return the kind of a reason about a claim that a policy compares."""
        if claim in self.measurements:
            return ReasonKind.MEASUREMENT
        if self.tcb is not None and claim == self.tcb.claim:
            return ReasonKind.TCB
        return ReasonKind.POLICY

    def revoked(self, claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
        """Return the refusal of a platform whose TCB the vendor revoked; empty if it is not."""
        status = None if self.tcb is None else claims.get(self.tcb.claim)
        if self.tcb is None or not isinstance(status, str) or status not in self.tcb.revoked:
            return ()
        text = f"{self.tcb.claim}: measured {status}, which no policy can accept"
        expected = "a TCB that is not revoked"
        return (Reason(self.tcb.claim, status, expected, text, kind=ReasonKind.TCB),)

    @property
    def sample_claims(self) -> dict[str, JsonValue]:
        """Claims of a good guest that fits no reference value: every list is searched whole."""
        return {
            name: claim.form.sample if claim.sample is None else claim.sample
            for name, claim in self.claims.items()
        }


class Tees:
    """The TEEs that are known, in the order of registration; the first one is the default.

    Raises:
        ConfigError: two of them have the same name, wire name or document, or there is none.
    """

    def __init__(self, tees: Iterable[Tee]) -> None:
        self._tees = tuple(tees)
        if not self._tees:
            raise ConfigError("no TEE is known; install the package again")
        self._by_name = _index(self._tees, "name", lambda tee: (tee.name,))
        self._by_rcar = _index(self._tees, "RCAR name", lambda tee: tee.wire.rcar)
        self._by_oid = _index(self._tees, "OID", lambda tee: tee.wire.oids)
        self._by_document = _index(self._tees, "document", lambda tee: tee.documents.names)
        self._schemas: dict[str, ReferenceSchema] = {}
        if NO_TEE in self._by_name:
            raise ConfigError(f"no TEE can have the name {NO_TEE!r}; choose another name")

    def __iter__(self) -> Iterator[Tee]:
        return iter(self._tees)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._by_name)

    @property
    def default(self) -> Tee:
        """The TEE that is meant where a protocol names none."""
        return self._tees[0]

    def get(self, name: str | None) -> Tee | None:
        """The TEE of that name, None where it is not known."""
        return None if name is None else self._by_name.get(name)

    def named(self, text: str) -> Tee:
        """The TEE that an operator names.

        Raises:
            RequestError: there is none of that name.
        """
        tee = self._by_name.get(text)
        if tee is None:
            known = " or ".join(self._by_name)
            raise RequestError(f"{quoted(text)} is no kind of TEE; write {known}")
        return tee

    def schema(self, name: str) -> ReferenceSchema:
        """The schema of a TEE's reference data.

        Raises:
            RequestError: there is no TEE of that name.
        """
        if name not in self._schemas:
            self._schemas[name] = self.named(name).reference_schema()
        return self._schemas[name]

    def measurements(self, name: str | None) -> tuple[str, ...]:
        """Claims of a TEE that identify software; empty for a TEE that is not known."""
        tee = self.get(name)
        return () if tee is None else tee.measurements

    def of_document(self, name: str) -> Tee | None:
        """The TEE whose policy or reference data has that file name."""
        return self._by_document.get(name)

    def of_claims(self, claims: Mapping[str, JsonValue]) -> Tee | None:
        """The TEE whose measurements are among the claims; None for none, and for several."""
        found = [tee for tee in self._tees if any(name in claims for name in tee.measurements)]
        return found[0] if len(found) == 1 else None

    def of_rcar(self, name: str) -> Tee | None:
        """The TEE that an RCAR guest names."""
        return self._by_rcar.get(name)

    def of_oid(self, dotted: str) -> Tee | None:
        """The TEE whose evidence is in the certificate extension of that OID."""
        return self._by_oid.get(dotted)

    @property
    def oids(self) -> tuple[str, ...]:
        """OIDs of certificate extensions that hold evidence."""
        return tuple(self._by_oid)

    @property
    def tags(self) -> frozenset[int]:
        """CBOR tags of DICE evidence."""
        return frozenset(tag for tee in self._tees for tag in tee.wire.tags)

    def of_tagged(self, tag: int, evidence: bytes) -> Tee:
        """The TEE of DICE evidence in a certificate.

        Raises:
            EvidenceFormat: no TEE with that tag recognizes the evidence.
        """
        candidates = tuple(tee for tee in self._tees if tag in tee.wire.tags)
        return _recognizing(candidates, evidence)

    def of_evidence(self, evidence: bytes) -> Tee:
        """The TEE of signed evidence without an envelope.

        Raises:
            EvidenceFormat: no TEE recognizes it.
        """
        return _recognizing(self._tees, evidence)


def _recognizing(candidates: Iterable[Tee], evidence: bytes) -> Tee:
    for tee in candidates:
        if tee.wire.recognizes(evidence):
            return tee
    raise EvidenceFormat("the evidence is of no TEE that is known here")


def _index(
    tees: Iterable[Tee], what: str, keys: Callable[[Tee], tuple[str, ...]]
) -> Mapping[str, Tee]:
    """TEEs by a key that only one of them may have."""
    index: dict[str, Tee] = {}
    for tee in tees:
        for key in keys(tee):
            other = index.setdefault(key, tee)
            if other is not tee:
                raise ConfigError(
                    f"the TEEs {other.name} and {tee.name} both have the {what} {key!r}; "
                    "name one of them in --verifier"
                )
    return MappingProxyType(index)
