"""Small mistakes, planted one at a time in a copy of the project, that the tests must find."""
