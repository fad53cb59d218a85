"""One archive with everything that a site without a network needs: `./dev bundle`."""
