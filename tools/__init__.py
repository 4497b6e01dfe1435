"""Programs that test the tests, and runs from outside."""
