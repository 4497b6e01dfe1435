"""Objective, loop, optimizers, averages and validation."""
