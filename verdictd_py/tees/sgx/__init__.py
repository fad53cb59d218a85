"""SGX: its quotes and what their claims mean."""

from verdictd_py.tees.sgx.tee import TEE

__all__ = ["TEE"]
