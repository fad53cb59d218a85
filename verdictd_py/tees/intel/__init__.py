"""Shared part of SGX and TDX: quotes, certificate chains, TCB levels and collateral."""
