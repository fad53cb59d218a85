"""A real Kubernetes for the chart, built from its sources: `./dev cluster`."""
