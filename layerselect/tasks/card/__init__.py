"""The task behind ``layerselect card``."""
