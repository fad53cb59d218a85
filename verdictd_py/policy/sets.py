"""The policy documents that decide: reference data with the named sets in force."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

from verdictd_py.domain import referencesets
from verdictd_py.errors import NotFound, RequestError, StorageError
from verdictd_py.policy.reference import parse_data
from verdictd_py.ports import DocumentStore, PolicyDocuments


class DocumentsWithSets:
    """Port `PolicySource` over a document store; without any set, the data as it stands.

    Args:
        clock: now, with a time zone: sets expire.
    """

    def __init__(self, documents: DocumentStore, clock: Callable[[], datetime]) -> None:
        self._documents = documents
        self._clock = clock

    async def documents(self, tee: str) -> PolicyDocuments:
        stored = await self._documents.documents(tee)
        try:
            text = await self._documents.get(referencesets.DOCUMENT)
        except NotFound:
            return stored
        try:
            sets = referencesets.parse(text).get(tee, {})
        except RequestError as error:
            raise StorageError(str(error)) from None  # nobody comes in until it is mended
        if not sets:
            return stored
        data = referencesets.union(parse_data(stored.data), sets, self._clock())
        return PolicyDocuments(stored.policy, json.dumps(data))
