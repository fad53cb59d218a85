"""The broker's values: secrets, names, claims, evidence, appraisals, events.

Imports only `errors` and `encoding`. No IO, no clock, no library that uses either.
"""
