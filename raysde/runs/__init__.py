"""A recipe with its data: build, train and resume a run, without Ray."""
