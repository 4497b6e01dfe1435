"""Paths, documents, hashes, whole files, errors and the progress line."""
