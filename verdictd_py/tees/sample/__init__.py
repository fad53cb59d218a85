"""The TEE `sample` of guest-components: evidence that proves nothing, for tests."""

from verdictd_py.tees.sample.tee import TEE

__all__ = ["TEE"]
