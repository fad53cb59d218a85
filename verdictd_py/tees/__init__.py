"""Trusted execution environments: a package for each TEE, and the registry that lists them.

`intel` is the part that TDX and SGX share. A verifier takes evidence and returns verified claims,
or raises a typed refusal.
"""
