"""Sinks: further receivers of the records of the audit trail, after they are on the disk."""
