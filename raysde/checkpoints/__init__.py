"""Checkpoints: self-describing folders of safetensors, whole or not there, also in shards and object stores."""
