"""What the daemon says about itself: the log, redacted, and the audit trail, sealed."""
