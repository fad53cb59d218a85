"""Command lines: argv -> settings -> run. Nothing else is decided here."""
