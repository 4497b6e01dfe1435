"""Paths, YAML and JSON documents, hashes, atomic writes, errors and the progress line."""
