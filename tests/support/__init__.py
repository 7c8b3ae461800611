"""Functions and data that several test files use."""
