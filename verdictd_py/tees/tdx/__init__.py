"""TDX: its quotes and what their claims mean."""
