"""The data set on disk: shards with a manifest, read row by row, with what was precomputed."""
