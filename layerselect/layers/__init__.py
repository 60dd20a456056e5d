"""Finds the layers of a model, and looks at them."""
