"""Sweeps without Ray: the space, the search, early stopping, the ledger that a restart reads, and the ranking."""
