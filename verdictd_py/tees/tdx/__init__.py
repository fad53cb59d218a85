"""TDX: its quotes and what their claims mean."""

from verdictd_py.tees.tdx.tee import TEE

__all__ = ["TEE"]
