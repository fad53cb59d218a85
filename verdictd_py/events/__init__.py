"""Receivers of events: the log, and the audit trail."""
