"""Registry of TEEs, built-in ones and those of other packages, and of the verifiers in use.

Another package adds a TEE through an entry point whose name is the TEE's and whose value is
a `Tee` object::

    [project.entry-points."verdictd_py.tees"]
    acme = "acme_verdictd:TEE"

It is loaded only when `--verifier` names it, is never part of the default set, and cannot take
the name or an alias of a built-in TEE.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final

from verdictd_py.domain.evidence import NO_TEE, REPORT_DATA_BYTES, Evidence, VerifiedEvidence
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError
from verdictd_py.ports.known_tees import Tees
from verdictd_py.ports.tees import Tee, VerifierContext
from verdictd_py.ports.verifier import Verifier

ENTRY_POINT_GROUP: Final = "verdictd_py.tees"
NULL_NAME: Final = "nullverifier"

BUILT_IN: Final = (
    EntryPoint("tdx", "verdictd_py.tees.tdx:TEE", ENTRY_POINT_GROUP),
    EntryPoint("sgx", "verdictd_py.tees.sgx:TEE", ENTRY_POINT_GROUP),
    EntryPoint("sample", "verdictd_py.tees.sample:TEE", ENTRY_POINT_GROUP),
)
"""The TEEs of this package, one line each. The first one is the default."""

DEFAULT_NAME: Final = BUILT_IN[0].name

_NULL_ALONE: Final = (
    f"{NULL_NAME} accepts every client, so further verifiers would have no effect; "
    f"name {NULL_NAME} alone, or omit it"
)


class NullVerifier:
    """Verifier that accepts every peer without any claims; for trials, enabled by its own flag."""

    name = NULL_NAME
    tee = NO_TEE

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        """Return a result without claims, whatever the evidence is."""
        del now
        return VerifiedEvidence(
            tee=NO_TEE,
            report_data=bytes(REPORT_DATA_BYTES),
            claims={},
            tcb_status=None,
            advisory_ids=(),
            digest=sha256(evidence.quote).hexdigest(),
        )


class VerifierSet(Mapping[str, Verifier]):
    """The verifiers in use, by the name of the TEE they serve; never empty.

    Attributes:
        accepts_anyone: whether peers without evidence are accepted. If so, `nullverifier` is
            the only verifier.
        pinned_only: TEEs whose guests are refused until a measurement is pinned, because the
            operator has not named these TEEs.
    """

    def __init__(
        self, verifiers: Sequence[Verifier], *, pinned_only: frozenset[str] = frozenset()
    ) -> None:
        by_tee = {verifier.tee: verifier for verifier in verifiers}
        if not by_tee:
            raise ConfigError("no verifier is named; name one, or omit --verifier")
        self.accepts_anyone = any(isinstance(verifier, NullVerifier) for verifier in verifiers)
        if self.accepts_anyone and len(by_tee) > 1:
            raise ConfigError(_NULL_ALONE)
        self.pinned_only = pinned_only
        self._by_tee = MappingProxyType(by_tee)

    def __getitem__(self, tee: str) -> Verifier:
        return self._by_tee[tee]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_tee)

    def __len__(self) -> int:
        return len(self._by_tee)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the verifiers, for the log and the status."""
        return tuple(verifier.name for verifier in self._by_tee.values())


def known_tees(verifiers: Sequence[str] | None = None) -> Tees:
    """Return the built-in TEEs, and those TEEs of other packages that the operator named.

    Args:
        verifiers: names given to `--verifier`, None for no TEE of another package.

    Raises:
        ConfigError: a name is not known, a package cannot be loaded, or the TEE of a package
            has a name that is already taken.
    """
    built_in = tuple(_load(point) for point in BUILT_IN)
    taken = {NULL_NAME, *(name for tee in built_in for name in (tee.name, *tee.aliases))}
    external = [name for name in dict.fromkeys(verifiers or ()) if name not in taken]
    # To look through all installed packages takes milliseconds of the start.
    found = entry_points(group=ENTRY_POINT_GROUP) if external else ()
    plugins = {point.name: point for point in found}
    for name in external:
        if name not in plugins:
            known = ", ".join(sorted(taken | plugins.keys()))
            raise ConfigError(f"there is no verifier {name!r}; known are {known}")
    loaded = tuple(_load(plugins[name]) for name in external)
    for tee in loaded:
        duplicates = sorted(taken.intersection(tee.aliases))
        if duplicates:
            raise ConfigError(
                f"the TEE {tee.name!r} has the alias {duplicates[0]!r}, which is a built-in name; "
                "install a package without this alias"
            )
    return Tees((*built_in, *loaded))


def select(
    names: Sequence[str] | None,
    tees: Tees,
    context: VerifierContext,
    *,
    sections: Mapping[str, Mapping[str, JsonValue]] | None = None,
    insecure_nullverifier: bool = False,
    insecure_sample_verifier: bool = False,
) -> VerifierSet:
    """Build the verifiers that the operator named.

    Args:
        names: names given to `--verifier`; None for every built-in TEE whose evidence proves
            something. In that case, TEEs without `served_unpinned` are `pinned_only`.
        tees: result of `known_tees` with the same names.
        context: services from which verifiers are built.
        sections: settings by TEE; each verifier receives its own section.
        insecure_nullverifier: whether `nullverifier` may be used.
        insecure_sample_verifier: whether TEEs whose evidence proves nothing are served too.

    Raises:
        ConfigError: a name is not allowed, or a verifier cannot be built.
    """
    wanted = require_allowed(
        names,
        tees,
        insecure_nullverifier=insecure_nullverifier,
        insecure_sample_verifier=insecure_sample_verifier,
    )
    selected = [tee for tee in tees if tee.name in wanted and tee.proves]
    if insecure_sample_verifier:
        selected += [tee for tee in tees if not tee.proves]
    verifiers = [_build(tee, context, (sections or {}).get(tee.name, {})) for tee in selected]
    if NULL_NAME in wanted:
        verifiers.append(NullVerifier())
    unnamed = [tee for tee in selected if names is None and tee.proves and not tee.served_unpinned]
    return VerifierSet(verifiers, pinned_only=frozenset(tee.name for tee in unnamed))


def require_allowed(
    names: Sequence[str] | None,
    tees: Tees,
    *,
    insecure_nullverifier: bool = False,
    insecure_sample_verifier: bool = False,
) -> frozenset[str]:
    """Return the names of the TEEs to serve; see `select` for the arguments.

    Raises:
        ConfigError: a name needs an unsafe option that is not given.
    """
    if names is None:
        return frozenset(tees.names)
    canonical = {alias: tee.name for tee in tees for alias in (tee.name, *tee.aliases)}
    wanted = frozenset(canonical.get(name, name) for name in names)
    for tee in tees:
        if tee.name in wanted and not tee.proves and not insecure_sample_verifier:
            raise ConfigError(
                f"any client can make {tee.name} evidence; "
                "if that is what you want, add --insecure-sample-verifier"
            )
    if NULL_NAME in wanted and not insecure_nullverifier:
        raise ConfigError(
            f"{NULL_NAME} releases every secret to any client; "
            "if that is what you want, add --insecure-nullverifier"
        )
    if NULL_NAME in wanted and len(wanted) > 1:
        raise ConfigError(_NULL_ALONE)
    return wanted


def _build(tee: Tee, context: VerifierContext, section: Mapping[str, JsonValue]) -> Verifier:
    verifier = tee.verifier(replace(context, settings=section))
    if verifier.tee != tee.name:
        raise ConfigError(f"the verifier of {tee.name} serves {verifier.tee!r}; update its package")
    return verifier


def _load(point: EntryPoint) -> Tee:
    """Load the TEE of one entry point.

    Raises:
        ConfigError: the entry point cannot be loaded, or is not a TEE of that name.
    """
    try:
        tee = point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"verifier {point.name!r} ({point.value}) cannot be loaded: {error}; "
            "reinstall its package, or do not name it"
        ) from error
    if not isinstance(tee, Tee):
        raise ConfigError(
            f"verifier {point.name!r} ({point.value}) is not a `Tee` object; update its package"
        )
    if tee.name != point.name:
        raise ConfigError(
            f"verifier {point.name!r} ({point.value}) is the TEE {tee.name!r}; "
            "the entry point must have the TEE's name"
        )
    return tee
