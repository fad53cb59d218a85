"""Benchmarks: server CPU of the broker, compared with the libraries that it cannot do without.

`python -m benchmarks` measures every case of the target table and prints it. `cases` has the
cases, `rounds` the measurement, `processes` the processes under test, `clients` and `raw` the
programs at the other end, `datasets` the data, `report` and `performance_page` the output.

`stalls`, `audit` and `policy_engine` are programs of their own: each measures one part in detail.
"""
