"""Types of the values in rows: an attacker who controls the database can alter the columns.

psycopg returns what a column has. A value of another type than in the schema is refused here, with
a cause, instead of being an internal error where it is used.
"""

from __future__ import annotations

from verdictd_py.postgres.database import SchemaUnusable

_MAX: int = 2**63 - 1
"""Largest value of a column of the type bigint."""


def number(value: object) -> int:
    """Return a value of the type bigint or integer.

    Raises:
        SchemaUnusable: it is none.
    """
    if type(value) is not int or not -_MAX <= value <= _MAX:
        raise _altered()
    return value


def real(value: object) -> float:
    """Return a value of the type double precision.

    Raises:
        SchemaUnusable: it is none.
    """
    if type(value) is not float:
        raise _altered()
    return value


def text(value: object) -> str:
    """Return a value of the type text.

    Raises:
        SchemaUnusable: it is none.
    """
    if not isinstance(value, str):
        raise _altered()
    return value


def octets(value: object) -> bytes:
    """Return a value of the type bytea.

    Raises:
        SchemaUnusable: it is none.
    """
    if not isinstance(value, bytes | memoryview):
        raise _altered()
    return bytes(value)


def _altered() -> SchemaUnusable:
    return SchemaUnusable(
        "the database was altered: a column has values of another type than in the schema; restore "
        "the database from a backup"
    )
