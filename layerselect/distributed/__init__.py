"""Training in several processes: sharded tensors, the engine that runs the model, and whether the processes agree."""
