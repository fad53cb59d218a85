"""Files of the Helm chart that are made from other files: `./dev chart`."""
