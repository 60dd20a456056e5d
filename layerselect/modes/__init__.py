"""From a selection to training: gating optimizers, freezing layers, and what follows from either."""
