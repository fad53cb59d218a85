"""Checks of contents that guests read: before they are stored, and of what is stored.

Files are edited by hand, and a key to which an image policy leads can be deleted. Therefore stored
contents are checked again and again, and reported; they are served as they are, because the
operator may know guests that this broker does not know. Only a secret key in place of a public one
is never served (`formats.contents.withheld`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Final

from verdictd_py.domain.names import ResourcePath
from verdictd_py.errors import NotFound, RequestError, StorageError
from verdictd_py.formats import contents
from verdictd_py.formats.contents import Finding, Findings, KeyPath
from verdictd_py.offload import offload
from verdictd_py.ports import ResourceStore, StoredName

MAX_CHECKED: Final = 200
"""Maximum number of stored contents that are checked; few sites have more than ten."""

_PAGE: Final = MAX_CHECKED

_COST: Final = 16
"""Time of a check per byte, compared with the work for which `offload` measures sizes."""


class StoredContents:
    """Checks of contents, with what a store has.

    Args:
        resources: what the `keyPath` of an image policy leads to, and what `remarks` reports.
    """

    def __init__(self, resources: ResourceStore) -> None:
        self._resources = resources
        self._checked: dict[StoredName, Findings] = {}

    async def check(self, path: ResourcePath, content: bytes) -> Findings:
        """Check a content by the type of its resource, and the keys that an image policy names.

        Raises:
            StorageError: the store cannot be read.
        """
        if not contents.is_checked(path):
            return Findings()
        findings = await offload(_COST * len(content), partial(contents.check, path, content))
        if findings.problems:
            return findings
        for key in await offload(_COST * len(content), partial(contents.key_paths, path, content)):
            findings += await self._key(key)
        return findings

    async def _key(self, key: KeyPath) -> Findings:
        """Check the resource to which the `keyPath` of an image policy leads."""
        at = f"{key.where}: {key.resource}"
        try:
            stored = await self._resources.inspect(key.resource)
        except NotFound:
            text = f"{at} is not stored here, so every image of the scope is refused; store the key"
            return Findings.of([Finding(text, contents.NONE)])
        except StorageError as error:
            return Findings.of([Finding(f"{key.where}: {error}")])
        content = stored.content.reveal()
        found = await offload(_COST * len(content), partial(contents.check_key, key.kind, content))
        return Findings(
            tuple(f"{at} is not a key that guests can use: {text}" for text in found.problems),
            tuple(f"{at}: {text}" for text in found.warnings),
            found.usable,
        )

    async def remarks(self) -> Mapping[str, str]:
        """Return a sentence about each stored content that guests cannot use, by its path.

        It is empty if the store cannot be read: the check of the storage reports that.
        """
        remarks: dict[str, str] = {}
        checked: dict[StoredName, Findings] = {}
        try:
            async for path, stored in self._stored():
                if len(checked) == MAX_CHECKED:
                    break
                findings = await self._of_stored(path, stored)
                checked[stored] = findings
                texts = (*findings.problems, *findings.warnings)
                if texts:
                    who = "no guest can use it" if findings.problems else "note"
                    remarks[stored.name] = f"{stored.file}: {who}: {'; '.join(texts)}"
        except StorageError:
            return {}
        self._checked = checked
        return remarks

    async def _of_stored(self, path: ResourcePath, stored: StoredName) -> Findings:
        """Check a stored content; one that has not changed and names no key, only once."""
        if stored.problem:
            return Findings((stored.problem,))
        known = self._checked.get(stored)
        if known is not None and not contents.names_keys(path):
            return known
        try:
            content = (await self._resources.inspect(path)).content.reveal()
        except NotFound:  # deleted meanwhile
            return Findings()
        except StorageError as error:
            return Findings((str(error),))
        return await self.check(path, content)

    async def _stored(self) -> AsyncIterator[tuple[ResourcePath, StoredName]]:
        after = ""
        while True:
            page = await self._resources.page(after, _PAGE, types=contents.TYPES)
            for stored in page:
                try:
                    path = ResourcePath.parse(stored.name)
                except RequestError:  # a file that no guest can request
                    continue
                yield path, stored
            if len(page) < _PAGE:
                return
            after = page[-1].name
