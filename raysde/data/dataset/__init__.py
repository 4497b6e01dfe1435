"""The data set on disk: shards with a manifest, precomputed embeddings and latents, and random access to rows."""
