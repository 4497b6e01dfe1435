"""A recipe with its data: built, trained and resumed, without Ray."""
