"""Checks that the documents of commands follow the published JSON Schema."""

from __future__ import annotations

from typing import Any

import jsonschema_rs

from verdictd_py.cli.management import schema


def follows(document: dict[str, Any], kind: str) -> None:
    """Check that a document is one of this kind, and follows its schema."""
    assert document["schema"] == f"verdictd.v1/{kind}"
    jsonschema_rs.validate(schema.schema_of(kind), document)
