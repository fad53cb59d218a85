"""Metrics: numbers about the whole broker, for Prometheus (ADR 31).

`families` names all metrics; `memory` stores their numbers where all processes of the broker count;
`counting` derives them from events; `sampling` measures a process; `exposition` writes the format.
"""
