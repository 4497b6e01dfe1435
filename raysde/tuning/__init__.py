"""Searches: for a recipe, and for the sampler settings of a trained model."""
