"""PKCS#11 URIs (RFC 7512) that name a secret key, `pkcs11:token=kms;object=kek?module-path=...`.

A PIN is never part of the URI, which other users see in the list of processes: `pin-source` names
a file. Unknown attributes are refused, as section 2.3 of the RFC requires for the path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from verdictd_py.errors import ConfigError

MAX_CHARACTERS: Final = 4096

_TOKEN: Final = frozenset({"token", "serial", "manufacturer", "model"})
_SLOT: Final = "slot-id"
_PATH: Final = _TOKEN | {"object", "id", "type", _SLOT}
_QUERY: Final = frozenset({"module-path", "module-name", "pin-source"})
_DAMAGED: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ESCAPE: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """A URI that names the versions of one key.

    Attributes:
        token: attributes of the token: label, serial, manufacturer, model, by their names here.
        slot: number of the slot, or None.
        label: label of the key (CKA_LABEL); None for any.
        key_id: the version that wraps (CKA_ID); None for the greatest.
        module: path of the PKCS#11 library, or its name.
        pin_source: file of the PIN; None for a token without one.
    """

    token: dict[str, str]
    slot: int | None
    label: str | None
    key_id: bytes | None
    module: str
    pin_source: str | None

    @classmethod
    def parse(cls, text: str) -> Pkcs11Uri:
        """Parse a URI.

        Raises:
            ConfigError: it cannot be used; the message has the cause and the remedy. It does not
                repeat values.
        """
        if len(text) > MAX_CHARACTERS or not text.startswith("pkcs11:"):
            raise _refused("it is not a pkcs11: URI; write pkcs11:token=...;object=...")
        path, _, query = text.removeprefix("pkcs11:").partition("?")
        attributes = _attributes(path, ";", _PATH)
        options = _attributes(query, "&", _QUERY)
        if attributes.get("type", b"secret-key") != b"secret-key":
            raise _refused("its type is not secret-key: the key is an AES key of 256 bits")
        if "object" not in attributes and "id" not in attributes:
            raise _refused("it names no key; add object=LABEL")
        module = options.get("module-path", options.get("module-name", b""))
        if not module:
            raise _refused("it names no library; add ?module-path=/usr/lib/.../library.so")
        slot = attributes.get(_SLOT)
        if slot is not None and not (slot.isdigit() and len(slot) <= 20):
            raise _refused("its slot-id is not a number")
        return cls(
            {name: _text(attributes[name]) for name in sorted(_TOKEN & attributes.keys())},
            None if slot is None else int(slot),
            _text(attributes["object"]) if "object" in attributes else None,
            attributes.get("id"),
            _text(module),
            _text(options["pin-source"]) if "pin-source" in options else None,
        )


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, bytes]:
    """Return the attributes of the path or the query, percent-decoded."""
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise _refused(
                "it has a PIN, which every user of this machine can read; write pin-source=FILE"
            )
        if name not in known:
            raise _refused(f"its attribute {name[:40]!r} is unknown; remove it")
        if not equals or name in found or _DAMAGED.search(value) or not value.isascii():
            raise _refused(f"its attribute {name!r} is repeated or damaged")
        found[name] = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), value.encode())
        if not found[name]:
            raise _refused(f"its attribute {name!r} is empty")
    return found


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise _refused("an attribute is not UTF-8") from None
    if "\0" in text:
        raise _refused("an attribute has a NUL")
    return text


def _refused(text: str) -> ConfigError:
    return ConfigError(f"--seal pkcs11: {text}")
