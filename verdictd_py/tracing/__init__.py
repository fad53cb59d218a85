"""Traces of requests for OpenTelemetry (ADR 40).

`recording` collects the stages and events of each request, `queueing` stores finished requests
until a thread exports them, `otlp` writes them with the libraries of OpenTelemetry.
"""
