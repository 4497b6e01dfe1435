"""Data sets: shards on disk, the batch plan, and microbatches."""
