"""The built-in data set: rendered hands."""
