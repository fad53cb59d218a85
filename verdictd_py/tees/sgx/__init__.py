"""SGX: its quotes and what their claims mean."""
