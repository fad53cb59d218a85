"""What the daemon says about itself: the log, redacted."""
