"""What SGX and TDX share: quotes, certificate chains, TCB levels and collateral."""
