"""From any collection of images to shards."""
