"""Score models: a network with its SDE, target and conditions, and the description that rebuilds it."""
