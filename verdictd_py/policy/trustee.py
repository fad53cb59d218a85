"""Names that policies of trustee's KBS read, with the values that this broker verified.

A release policy of trustee reads the attestation token's `submods` as input, and the request as
data: `plugin`, `resource-path` (an array since v0.18) and `query`. This broker verified all values
except `query`, which the guest chooses, as in trustee.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from verdictd_py.domain.trust import TrustVector, submodule
from verdictd_py.encoding import JsonValue
from verdictd_py.formats import initdata
from verdictd_py.ports.known_tees import Tees
from verdictd_py.ports.tees import Tee

SUBMODS: Final = "submods"
"""Member of a release policy's input."""

PLUGIN: Final = "resource"
"""The only plug-in of this broker; a guest requests keys and resources by the same paths."""

_KEYS: Final = "keys/"

_ATTESTATION_POLICY: Final = re.compile(
    r"\bquery_reference_value\b|\btrust_claims\b|^\s*(default\s+)?(executables|hardware)\s*:?=",
    re.MULTILINE,
)


def request(release_input: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the data that describes the request in the input of a release policy.

    A key has the path under which a guest requests it. Any other input, such as the claims in a
    test of an appraisal policy, describes no request: the result is empty.
    """
    resource = release_input.get("resource")
    path = resource.get("path") if isinstance(resource, dict) else None
    if not isinstance(resource, dict) or not isinstance(path, str):
        return {}
    segments: list[JsonValue] = [*path.removeprefix(_KEYS).split("/")]
    return {"plugin": PLUGIN, "resource-path": segments, "query": resource.get("query", {})}


def submods(
    tees: Tees, tee: str, claims: Mapping[str, JsonValue], trust: TrustVector
) -> dict[str, JsonValue]:
    """Return the appraisal of a guest as in its attestation token, with all its claims.

    A guest of a TEE that proves nothing also has the names of all such TEEs, and the submodule
    `cpu` of v0.11 to v0.13, because policies refuse guests that have these names.

    Args:
        tee: name of the guest's TEE, or `NO_TEE`.
        claims: verified claims of the guest.
        trust: trust vector of the guest when it was accepted.
    """
    known = tees.get(tee)
    evidence: dict[str, JsonValue] = {tee: dict(claims)}
    if known is not None and known.proves:
        evidence |= _init_data(known, claims)
        return {"cpu0": submodule(trust, policy=known.documents.policy, evidence=evidence)}
    evidence = {**{each.name: {} for each in tees if not each.proves}, **evidence}
    policy = tee if known is None else known.documents.policy
    cpu = submodule(trust, policy=policy, evidence=evidence)
    return {"cpu0": cpu, "cpu": cpu}


def _init_data(tee: Tee, claims: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the init-data under its name in tokens, if the evidence proves it."""
    binding = tee.init_data
    content = None if binding is None or binding.claim is None else claims.get(initdata.CLAIM)
    return {} if content is None else {"init_data_claims": content}


def advice(policy: str) -> str:
    """Return advice for an attestation policy of trustee, empty for any other policy.

    Such a policy makes a trust vector, but decides nothing.
    """
    if not _ATTESTATION_POLICY.search(policy):
        return ""
    return (
        "; this is an attestation policy of trustee, which rates a guest and decides nothing: "
        "write a rule `allow` that compares `input` with `data` (begin with the packaged policy of "
        "this TEE), and reference values instead of query_reference_value"
    )
