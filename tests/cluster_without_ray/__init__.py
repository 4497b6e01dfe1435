"""Tests of raysde.cluster in one process, without Ray; those of tests/cluster start a local cluster."""
