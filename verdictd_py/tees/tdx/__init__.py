"""The TEE `tdx`: its quotes and the meaning of their claims."""

from verdictd_py.tees.tdx.tee import TEE

__all__ = ["TEE"]
