"""What several test modules share: models, data, recipes, exact answers; no test imports another test module."""
