"""The known TEEs, found by each name and form that a protocol, a document or an operator uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from verdictd_py.documents.schema import ReferenceSchema
from verdictd_py.domain.evidence import NO_TEE
from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.errors import ConfigError, EvidenceFormat, RequestError
from verdictd_py.ports.tees import Tee


class Tees:
    """The known TEEs, in the order of registration; the first one is the default.

    Raises:
        ConfigError: two TEEs have the same name, wire name or document, or there is no TEE.
    """

    def __init__(self, tees: Iterable[Tee]) -> None:
        self._tees = tuple(tees)
        if not self._tees:
            raise ConfigError("no TEE is known; reinstall the package")
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
        """The TEE of guests whose protocol does not name one."""
        return self._tees[0]

    def get(self, name: str | None) -> Tee | None:
        """Return the TEE of that name, None if it is not known."""
        return None if name is None else self._by_name.get(name)

    def named(self, text: str) -> Tee:
        """Return the TEE that an operator names.

        Raises:
            RequestError: there is no TEE of that name.
        """
        tee = self._by_name.get(text)
        if tee is None:
            known = " or ".join(self._by_name)
            raise RequestError(f"{quoted(text)} is not a known TEE; write {known}")
        return tee

    def schema(self, name: str) -> ReferenceSchema:
        """Return the schema of a TEE's reference data.

        Raises:
            RequestError: there is no TEE of that name.
        """
        if name not in self._schemas:
            self._schemas[name] = self.named(name).reference_schema()
        return self._schemas[name]

    def measurements(self, name: str | None) -> tuple[str, ...]:
        """Return the claims of a TEE that identify software; empty for an unknown TEE."""
        tee = self.get(name)
        return () if tee is None else tee.measurements

    def of_document(self, name: str) -> Tee | None:
        """Return the TEE whose policy or reference data has that file name."""
        return self._by_document.get(name)

    def of_claims(self, claims: Mapping[str, JsonValue]) -> Tee | None:
        """Return the TEE whose measurements are among the claims; None if it is not unique."""
        matches = [tee for tee in self._tees if any(name in claims for name in tee.measurements)]
        return matches[0] if len(matches) == 1 else None

    def of_rcar(self, name: str) -> Tee | None:
        """Return the TEE that an RCAR guest names."""
        return self._by_rcar.get(name)

    def of_oid(self, dotted: str) -> Tee | None:
        """Return the TEE whose evidence is in the certificate extension of that OID."""
        return self._by_oid.get(dotted)

    @property
    def oids(self) -> tuple[str, ...]:
        """OIDs of certificate extensions that contain evidence."""
        return tuple(self._by_oid)

    @property
    def tags(self) -> frozenset[int]:
        """CBOR tags of DICE evidence."""
        return frozenset(tag for tee in self._tees for tag in tee.wire.tags)

    def of_tagged(self, tag: int, evidence: bytes) -> Tee:
        """Return the TEE of DICE evidence in a certificate.

        Raises:
            EvidenceFormat: no TEE with that tag recognizes the evidence.
        """
        candidates = tuple(tee for tee in self._tees if tag in tee.wire.tags)
        return _recognizing(candidates, evidence)

    def of_evidence(self, evidence: bytes) -> Tee:
        """Return the TEE of signed evidence without an envelope.

        Raises:
            EvidenceFormat: no TEE recognizes it.
        """
        return _recognizing(self._tees, evidence)


def _recognizing(candidates: Iterable[Tee], evidence: bytes) -> Tee:
    for tee in candidates:
        if tee.wire.recognizes(evidence):
            return tee
    raise EvidenceFormat("the evidence is not of a known TEE")


def _index(
    tees: Iterable[Tee], what: str, keys: Callable[[Tee], tuple[str, ...]]
) -> Mapping[str, Tee]:
    """Return the TEEs by a key that must be unique.

    Raises:
        ConfigError: two TEEs have the same key.
    """
    index: dict[str, Tee] = {}
    for tee in tees:
        for key in keys(tee):
            other = index.setdefault(key, tee)
            if other is not tee:
                raise ConfigError(
                    f"the TEEs {other.name} and {tee.name} both have the {what} {key!r}; "
                    "name only one of them in --verifier"
                )
    return MappingProxyType(index)
