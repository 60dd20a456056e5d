"""Tasks: what a model is fine-tuned to do."""
