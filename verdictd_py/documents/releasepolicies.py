"""Which release policy decides about what: names of policies by prefix of a path."""

from __future__ import annotations

from verdictd_py.domain.names import RELEASE_POLICIES, Name
from verdictd_py.encoding import JsonValue, decode_object, quoted
from verdictd_py.errors import RequestError


def parse(text: str) -> dict[str, Name]:
    """Names of policies by prefix, out of `{"keys/team-a/": "teamA.rego"}`.

    Raises:
        RequestError: it is something else; one line.
    """
    members = decode_object(text.encode(), str(RELEASE_POLICIES))
    return {prefix: _policy(prefix, named) for prefix, named in members.items()}


def _policy(prefix: str, named: JsonValue) -> Name:
    name = Name.parse(named) if isinstance(named, str) else None
    if name is None or len(name.segments) != 1:
        raise RequestError(
            f"{RELEASE_POLICIES}: what {quoted(prefix)} stands for is no name of a policy, "
            'write "teamA.rego"'
        )
    return name
