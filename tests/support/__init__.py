"""Models, data, recipes and exact answers shared by several test modules; no test imports another test module."""
