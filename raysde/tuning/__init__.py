"""Hyperparameter search: sweeps of a recipe, and sampler settings of a trained model."""
