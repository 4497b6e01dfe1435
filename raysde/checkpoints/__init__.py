"""Checkpoints: self-describing folders of safetensors, written atomically, also sharded and in object stores."""
