"""Packages for Debian and RPM systems: `./dev packages`."""
