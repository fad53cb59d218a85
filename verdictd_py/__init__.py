"""A key broker that releases secrets only to workloads proved by hardware evidence."""

__version__ = "0.1.0"
