"""Appraisal and release policies: Rego, the rules above every policy, and explanations."""
