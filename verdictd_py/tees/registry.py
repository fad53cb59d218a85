"""Verifiers by name: the built-in ones, and those of other packages.

Another package offers a verifier through an entry point of the group
`verdictd_py.verifiers`: a callable that takes a `VerifierContext` and returns an object
with the port `Verifier`::

    [project.entry-points."verdictd_py.tees"]
    acme = "acme_verdictd:make_verifier"      # def make_verifier(context: VerifierContext)

It is loaded only when it is named, is never part of the default set, and cannot take the
name or an alias of a built-in verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

from verdictd_py.domain.evidence import REPORT_DATA_BYTES, Evidence, Tee, VerifiedEvidence
from verdictd_py.errors import ConfigError
from verdictd_py.ports import CollateralSource, Verifier
from verdictd_py.tees.sample import verifier as sample
from verdictd_py.tees.sample.verifier import InsecureSampleVerifier
from verdictd_py.tees.sgx.verifier import SgxVerifier
from verdictd_py.tees.tdx.verifier import TdxVerifier

ENTRY_POINT_GROUP: Final = "verdictd_py.tees"
NULL_NAME: Final = "nullverifier"


@dataclass(frozen=True, slots=True)
class VerifierContext:
    """What a verifier is built from.

    Attributes:
        collateral: where collateral comes from.
        root_ca_der: trusted root certificate, None for the manufacturer's.
        collateral_grace: for so long the operator's collateral is used after its end.
        minimum_evaluation: lowest `tcbEvaluationDataNumber` that is accepted.
    """

    collateral: CollateralSource
    root_ca_der: bytes | None = field(default=None, repr=False)
    collateral_grace: timedelta = timedelta(0)
    minimum_evaluation: int = 0


VerifierFactory = Callable[[VerifierContext], Verifier]


class NullVerifier:
    """Accepts anybody, and claims nothing. For trials: it needs a flag of its own."""

    name = NULL_NAME
    tee = Tee.NONE

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        """No claims, whatever the evidence is."""
        del now
        return VerifiedEvidence(
            tee=Tee.NONE,
            report_data=bytes(REPORT_DATA_BYTES),
            claims={},
            tcb_status=None,
            advisory_ids=(),
            digest=sha256(evidence.quote).hexdigest(),
        )


class VerifierSet(Mapping[Tee, Verifier]):
    """The verifiers in use, by the kind of TEE they serve; never empty.

    Attributes:
        accepts_anyone: whether peers without evidence are served (`nullverifier`). Then
            it is the only one.
    """

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        by_tee: dict[Tee, Verifier] = {}
        for verifier in verifiers:
            other = by_tee.setdefault(verifier.tee, verifier)
            if other is not verifier:
                raise ConfigError(
                    f"the verifiers {other.name} and {verifier.name} both serve "
                    f"{verifier.tee}; name one of them"
                )
        if not by_tee:
            raise ConfigError("no verifier is named; name one, or leave --verifier out")
        self.accepts_anyone = any(isinstance(one, NullVerifier) for one in verifiers)
        if self.accepts_anyone and len(by_tee) > 1:
            raise ConfigError(
                f"{NULL_NAME} accepts anybody, the verifiers beside it would check nobody; "
                "name it alone or leave it out"
            )
        self._by_tee = MappingProxyType(by_tee)

    def __getitem__(self, tee: Tee) -> Verifier:
        return self._by_tee[tee]

    def __iter__(self) -> Iterator[Tee]:
        return iter(self._by_tee)

    def __len__(self) -> int:
        return len(self._by_tee)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the verifiers, for log and status."""
        return tuple(verifier.name for verifier in self._by_tee.values())


def _make_tdx(context: VerifierContext) -> Verifier:
    return TdxVerifier(
        context.collateral,
        root_ca_der=context.root_ca_der,
        grace=context.collateral_grace,
        minimum_evaluation=context.minimum_evaluation,
    )


def _make_sgx(context: VerifierContext) -> Verifier:
    return SgxVerifier(
        context.collateral,
        root_ca_der=context.root_ca_der,
        grace=context.collateral_grace,
        minimum_evaluation=context.minimum_evaluation,
    )


_BUILT_IN: Final[Mapping[str, VerifierFactory]] = {"tdx": _make_tdx, "sgx": _make_sgx}
_ALIASES: Final = {"tdx_ecdsa": "tdx", "sgx_ecdsa": "sgx"}  # spellings of the original


def select(
    names: Sequence[str] | None,
    context: VerifierContext,
    *,
    insecure_nullverifier: bool = False,
    insecure_sample_verifier: bool = False,
) -> VerifierSet:
    """Builds the verifiers that the operator named.

    Args:
        names: as given to `--verifier`; None for every built-in one that verifies.
        context: what they are built from.
        insecure_nullverifier: whether `nullverifier` may be used.
        insecure_sample_verifier: whether sample evidence is taken beside them.

    Raises:
        ConfigError: a name is not known, not allowed, or two serve the same TEE.
    """
    more = [InsecureSampleVerifier()] if insecure_sample_verifier else []
    if names is None:
        return VerifierSet([*(make(context) for make in _BUILT_IN.values()), *more])
    canonical = dict.fromkeys(_ALIASES.get(name, name) for name in names)
    if sample.NAME in canonical and not insecure_sample_verifier:
        raise ConfigError(
            "sample evidence can be made by anybody; "
            "if that is what you want, add --insecure-sample-verifier"
        )
    chosen = [
        _make(name, context, insecure_nullverifier=insecure_nullverifier)
        for name in canonical
        if name != sample.NAME
    ]
    return VerifierSet([*chosen, *more])


def _make(name: str, context: VerifierContext, *, insecure_nullverifier: bool) -> Verifier:
    if name == NULL_NAME:
        if not insecure_nullverifier:
            raise ConfigError(
                f"{NULL_NAME} lets anybody have every secret; "
                "if that is what you want, add --insecure-nullverifier"
            )
        return NullVerifier()
    if name in _BUILT_IN:
        return _BUILT_IN[name](context)
    plugins = _plugins()
    if name not in plugins:
        known = ", ".join(sorted({*_BUILT_IN, *_ALIASES, NULL_NAME, sample.NAME, *plugins}))
        raise ConfigError(f"there is no verifier {name!r}; known are {known}")
    return _load(plugins[name], context)


def _plugins() -> dict[str, EntryPoint]:
    """Entry points of other packages by name, none of them loaded.

    Only asked for names that no built-in verifier or alias has: those are looked up first.
    """
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def _load(point: EntryPoint, context: VerifierContext) -> Verifier:
    """Loads one plugin and has it build its verifier.

    Raises:
        ConfigError: it cannot be loaded, or what it builds serves no TEE.
    """
    try:
        factory = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"verifier {point.name!r} ({point.value}) cannot be loaded: {error}; "
            "install its package again or do not name it"
        ) from error
    verifier: Verifier = factory(context)
    if not isinstance(verifier.tee, Tee) or verifier.tee is Tee.NONE:
        raise ConfigError(f"verifier {point.name!r} ({point.value}) does not name a TEE it serves")
    return verifier
