"""Long tests with real daemon processes: floods, kills, faults, wrong clocks, many guests.

`./dev torture` runs them; docs/reliability.md has the table of the last run. Each scenario is an
asynchronous generator of rows (`tools.torture.scenario`) in a module of its own.
"""
