"""How examples become text for a model, and a model's text an answer."""
