"""Sessions of HTTP guests in a Valkey server. The Python package `valkey` is the optional extra."""
