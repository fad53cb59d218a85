"""What the broker talks about: secrets, names, evidence, appraisals, and the ports.

Imports only `errors`. No IO, no clock, no library that has either.
"""
