"""Programs that test the tests, kill runs from outside, and check docstrings."""
