"""The units under a real systemd: `./dev systemd`."""
