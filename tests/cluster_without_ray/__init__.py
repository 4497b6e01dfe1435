"""Tests of raysde.cluster in one process, without Ray; tests/cluster starts a local cluster."""
