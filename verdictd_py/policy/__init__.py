"""Appraisal policies: the Rego engine behind a fail-closed adapter, and why it refused."""
