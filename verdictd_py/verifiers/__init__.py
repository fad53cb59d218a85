"""Verifiers: evidence in, verified claims out, or a typed refusal.

`registry.select` builds those that the operator named; `collateral` is where the material
to verify with comes from.
"""
