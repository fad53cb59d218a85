"""The TEE `sgx`: its quotes and the meaning of their claims."""

from verdictd_py.tees.sgx.tee import TEE

__all__ = ["TEE"]
