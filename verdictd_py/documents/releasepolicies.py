"""Assignment of release policies to secrets: names of policies by prefix of a path."""

from __future__ import annotations

from verdictd_py.domain.names import RELEASE_POLICIES, Name
from verdictd_py.encoding import JsonValue, decode_object, quoted
from verdictd_py.errors import RequestError


def parse(text: str) -> dict[str, Name]:
    """Return the names of policies by prefix from `{"keys/team-a/": "teamA.rego"}`.

    Raises:
        RequestError: the document has another form.
    """
    members = decode_object(text.encode(), str(RELEASE_POLICIES))
    return {prefix: _policy(prefix, value) for prefix, value in members.items()}


def _policy(prefix: str, value: JsonValue) -> Name:
    name = Name.parse(value) if isinstance(value, str) else None
    if name is None or len(name.segments) != 1:
        raise RequestError(
            f"{RELEASE_POLICIES}: the value of {quoted(prefix)} is not the name of a policy; "
            'write, for example, "teamA.rego"'
        )
    return name
