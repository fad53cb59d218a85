"""Parts of `verdict-py`: a client of the broker, its commands, and their output."""
