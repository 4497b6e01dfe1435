"""A network with its SDE, its target and its conditions, and the description that rebuilds it."""
