"""Sweeps without Ray: space, search, early stopping, ledger for restarts, and ranking."""
