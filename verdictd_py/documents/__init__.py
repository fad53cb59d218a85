"""Formats of the broker's own documents that decide: reference data, named sets, release policies.

Each module reads one format strictly and writes it. Nothing here does IO: `storage` stores the
texts, `broker.documents` changes them, `policy` decides with them.
"""
