"""The sample TEE of guest-components: evidence that proves nothing, for tests."""
