"""Output of commands: tables and differences for people, JSON and YAML for programs.

A command returns a `CommandOutput` (`result`). Its text consists of blocks (`layout`, `difference`)
that are laid out for the width of the terminal (`terminal`). Its data is one document of a named
kind, whose JSON Schema is in `docs/reference/verdict-py.schema.json`; an error is such a document
too (`errors`).
"""
