"""Description of a TEE as one value.

A TEE (trusted execution environment) is a package that defines one `Tee` object. Everything
that the rest of the broker has to know about a TEE is a member of this object. Other modules
never compare names of TEEs: they look up the object (`ports.known_tees.Tees`) and use its members.
`docs/adding-a-tee.md` is the page for authors of such packages.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime

from verdictd_py.documents.datanames import data_names
from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.claims import Claim, MatchRule
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.domain.trust import HARDWARE_UNKNOWN, TrustVector
from verdictd_py.encoding import JsonValue, encode_object
from verdictd_py.errors import EvidenceFormat, Reason, ReasonKind
from verdictd_py.ports.collateral import CollateralStore
from verdictd_py.ports.events import Events
from verdictd_py.ports.policies import PolicyDocuments
from verdictd_py.ports.verifier import Verifier


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Response to an HTTP GET request.

    Attributes:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


HttpGet = Callable[[str], Awaitable[HttpAnswer]]
"""Gets a URL, with limits on time and size. Raises `CollateralUnavailable`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierContext:
    """Services and settings that a verifier is built from.

    Attributes:
        clock: returns the current time, with a time zone.
        events: records events for operators.
        store: persistent storage; file names begin with the name of the TEE and `-`.
        http: opens a client with the site's proxy and CAs. It sends no credentials.
        root_ca_der: root certificate that is trusted instead of the vendor's, None for the
            vendor's.
        settings: the TEE's own section of the settings, `[tee.NAME]`.
        services: services for several TEEs of one vendor, by vendor.
    """

    clock: Callable[[], datetime]
    events: Events
    store: CollateralStore | None = None
    http: Callable[[], AbstractAsyncContextManager[HttpGet]] | None = None
    root_ca_der: bytes | None = field(default=None, repr=False)
    settings: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    services: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class CarriedEvidence:
    """Evidence that a protocol carried, parsed and not verified.

    Attributes:
        quote: the signed evidence.
        event_log: log of what was measured at boot, None if the guest sent none.
        endorsements: the vendor's certificates and lists that the guest sent, in a type of the
            TEE's own. The guest chose them.
    """

    quote: bytes = field(repr=False)
    event_log: bytes | None = field(default=None, repr=False)
    endorsements: object | None = field(default=None, repr=False)


def read_json(value: Mapping[str, JsonValue]) -> CarriedEvidence:
    """Return the JSON object that a guest sent over RCAR as the signed evidence."""
    return CarriedEvidence(encode_object(dict(value)))


def read_bare(evidence: bytes, endorsements: bytes | None, tag: int) -> CarriedEvidence:
    """Return the bytes in a certificate as the signed evidence, without endorsements.

    Raises:
        EvidenceFormat: the certificate has endorsements.
    """
    del tag
    if endorsements is not None:
        raise EvidenceFormat("the certificate carries endorsements, but its TEE has none")
    return CarriedEvidence(evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """Names and encodings of a TEE's evidence in the protocols.

    Attributes:
        recognizes: returns whether signed evidence is of this TEE, by its first bytes. It
            decides between TEEs that share a tag, and for files without an envelope.
        rcar: values of RCAR's `tee`; current guests send the first one.
        oids: OIDs of certificate extensions whose content is the signed evidence.
        tags: CBOR tags of DICE evidence in certificates.
        read_rcar: parses the JSON object of RCAR's `tee-evidence`; raises `EvidenceFormat` or
            `EvidenceMissing`.
        read_certificate: parses evidence and endorsements under a CBOR tag (evidence, content
            of the endorsements extension or None, tag); raises `EvidenceFormat`.
    """

    recognizes: Callable[[bytes], bool]
    rcar: tuple[str, ...] = ()
    oids: tuple[str, ...] = ()
    tags: tuple[int, ...] = ()
    read_rcar: Callable[[Mapping[str, JsonValue]], CarriedEvidence] = read_json
    read_certificate: Callable[[bytes, bytes | None, int], CarriedEvidence] = read_bare


@dataclass(frozen=True, slots=True)
class Documents:
    """Appraisal policy and reference data of a TEE.

    Attributes:
        policy, data: file names in `opa/` of the data directory.
        packaged: returns the default text in the TEE's package, by file name.
    """

    policy: str
    data: str
    packaged: Callable[[str], str] = field(repr=False)

    @property
    def names(self) -> tuple[str, str]:
        return self.policy, self.data

    def defaults(self) -> PolicyDocuments:
        """Return the packaged policy with its packaged reference data."""
        return PolicyDocuments(self.packaged(self.policy), self.packaged(self.data))


@dataclass(frozen=True, slots=True)
class TcbStatus:
    """Claim with the vendor's rating of how current a platform is.

    Attributes:
        claim: name of the claim, whose value is a text.
        accepted: values that are accepted if the reference data pins none.
        revoked: values that no policy can accept.
        grace: name of a member of the reference data, and of a claim. The member gives a number
            of days by status, the claim the days since a newer TCB was published. None for no
            grace.
        known: every value that the vendor uses; reference data with another one is refused.
            Empty if every text is accepted.
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
        extended_later: claims of registers that some guests extend at run time without log
            entries.
        measured: reads the registers, by claim, from signed evidence without verifying it;
            raises `EvidenceFormat`.
    """

    claims: tuple[str, ...]
    extended_later: tuple[str, ...]
    measured: Callable[[bytes], Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class InitDataBinding:
    """Claim in which a TEE measures init-data.

    Attributes:
        claim: claim whose value is the digest; None if nothing proves the init-data.
        size: size of the claim in bytes: a longer digest is truncated, a shorter one is padded
            with zeros.
    """

    claim: str | None
    size: int = 0


def no_trust(verified: VerifiedEvidence, unrecognized: tuple[str, ...]) -> TrustVector:
    """Return the trust vector of a guest whose hardware is not recognized."""
    del verified, unrecognized
    return {"hardware": HARDWARE_UNKNOWN}


@dataclass(frozen=True, slots=True)
class CertificateSummary:
    """What a display says about a certificate.

    Attributes:
        sha256: its fingerprint, lower-case hex.
    """

    subject: str
    issuer: str
    since: datetime
    until: datetime
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tee:
    """Description of a TEE: everything that the broker knows about it.

    Attributes:
        name: name of the TEE and its verifier: lower case, stable, as on the command line.
        aliases: further names of its verifier on the command line.
        wire: names and encodings of its evidence in the protocols.
        claims: every claim of its verifier by name, in the order in which they are explained.
        documents: its policy and reference data.
        verifier: builds its verifier; raises `ConfigError`.
        tcb: the vendor's rating of the platform, None for a TEE without one.
        lists_required: whether a guest is refused if the reference data has no list for a
            measurement; otherwise any value of this measurement is accepted.
        report_data: reads REPORTDATA from signed evidence without verifying it; raises
            `EvidenceFormat`. None: a guest that cannot be appraised when it connects is
            disconnected, because nothing else says that its evidence is its own.
        event_log: None for a TEE whose guests have no event log that could be replayed.
        init_data: None for a TEE that does not measure init-data.
        trust: returns the trust vector of a guest that was accepted, for tokens; the second
            argument names the measurements that no reference value equals.
        certificates: returns the certificates in signed evidence without verifying them, the root
            last, for displays; raises `EvidenceFormat`. None if it has none.
        proves: False for a TEE whose evidence any client can make: it is served only with its
            own flag.
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
    report_data: Callable[[bytes], bytes] | None = field(default=None, repr=False)
    event_log: EventLogRegisters | None = field(default=None, repr=False)
    init_data: InitDataBinding | None = field(default=None, repr=False)
    trust: Callable[[VerifiedEvidence, tuple[str, ...]], TrustVector] = field(
        default=no_trust, repr=False
    )
    certificates: Callable[[bytes], tuple[CertificateSummary, ...]] | None = field(
        default=None, repr=False
    )
    proves: bool = True
    served_unpinned: bool = False

    @property
    def measurements(self) -> tuple[str, ...]:
        """Claims that identify software; serving is safe only once they are pinned."""
        return tuple(name for name, claim in self.claims.items() if claim.measurement)

    def reference_schema(self) -> ReferenceSchema:
        """Return the schema of its reference data: the names that its packaged policy reads.

        A packaged policy that reads `data` as a whole may read a value for each claim.

        Each call reads the policy from the TEE's package; `Tees.schema` caches the result.
        """
        reads = data_names(self.documents.packaged(self.documents.policy))
        names = reads.named
        if reads.any_name:
            names |= {
                name
                for name, claim in self.claims.items()
                if claim.match is not MatchRule.ALWAYS_FALSE
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
        """Claims of a guest without faults that match no reference value.

        A check with them searches every list to its end.
        """
        return {
            name: claim.form.sample if claim.sample is None else claim.sample
            for name, claim in self.claims.items()
        }
