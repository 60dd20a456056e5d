"""A finished run, read from its folder: results, layers, what it got wrong."""
