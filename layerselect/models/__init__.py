"""Pretrained models: loading them, their adapters, their vocabulary, and what was saved of them."""
