"""Training: objective, loop, optimizers, averages and validation."""
