"""What `verdict-py` is made of: a client of the broker, its actions, and how they are shown."""
