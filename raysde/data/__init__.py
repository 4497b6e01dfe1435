"""Data sets: ingest of image collections, shards on disk, the batch plan and microbatches."""
