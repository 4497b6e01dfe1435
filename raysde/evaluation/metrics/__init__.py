"""Statistics of images with confidence intervals."""
