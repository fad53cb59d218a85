"""Entries of documents that have no effect, although an operator expects one.

A set of reference values under an unknown TEE pins nothing, and a release policy for a prefix that
no secret has guards nothing. Neither can be refused: the package of the TEE may not be loaded now,
and the secret may be stored later. Therefore they are reported.
"""

from __future__ import annotations

from collections.abc import Mapping

from verdictd_py.documents import referencesets, releasepolicies
from verdictd_py.domain.names import LEGACY_RESOURCES, REFERENCE_SETS, RELEASE_POLICIES, Name
from verdictd_py.encoding import quoted
from verdictd_py.errors import NotFound, RequestError, StorageError
from verdictd_py.ports import DocumentStore, KeyStore, ResourceStore, Tees

_KEYS = "keys/"


class IneffectiveEntries:
    """Finds entries of `referenceSets` and `releasePolicies` that have no effect.

    Args:
        keys, resources: stores of the secrets that prefixes can match.
    """

    def __init__(
        self, documents: DocumentStore, tees: Tees, keys: KeyStore, resources: ResourceStore
    ) -> None:
        self._documents = documents
        self._tees = tees
        self._keys = keys
        self._resources = resources

    async def remarks(self) -> Mapping[str, str]:
        """Return a sentence for each document that has such entries, by name of the document.

        A document or a store that cannot be read has no remark here: it is a problem, and
        reported as one.
        """
        try:
            found = {
                str(REFERENCE_SETS): await self._unknown_tees(),
                str(RELEASE_POLICIES): await self._unmatched_prefixes(),
            }
        except (StorageError, RequestError):
            return {}
        return {name: remark for name, remark in found.items() if remark}

    async def _unknown_tees(self) -> str:
        sets = referencesets.parse(await self._text(REFERENCE_SETS))
        unknown = ", ".join(quoted(tee) for tee in sets if tee not in self._tees.names)
        if not unknown:
            return ""
        return f"no TEE has the name {unknown}: these sets pin nothing"

    async def _unmatched_prefixes(self) -> str:
        prefixes = releasepolicies.parse(await self._text(RELEASE_POLICIES))
        remarks = []
        for prefix in prefixes:
            if await self._matches(prefix):
                continue
            remark = f"no secret has a path that begins with {quoted(prefix)}"
            if await self._matches(_KEYS + prefix):
                remark += f"; did you mean {quoted(_KEYS + prefix)}?"
            remarks.append(remark)
        return "; ".join(remarks)

    async def _matches(self, prefix: str) -> bool:
        """Return whether the path of a stored secret, or of an image file, has this prefix."""
        if _KEYS.startswith(prefix):
            return True
        if prefix.startswith(_KEYS) and await self._keys.has_prefix(prefix.removeprefix(_KEYS)):
            return True
        if any(str(path).startswith(prefix) for path in LEGACY_RESOURCES.values()):
            return True
        return await self._resources.has_prefix(prefix)

    async def _text(self, name: Name) -> str:
        try:
            return (await self._documents.get(name)).text
        except NotFound:
            return "{}"
