"""What a model's images are worth: features, statistics that can be merged, figures with intervals."""
