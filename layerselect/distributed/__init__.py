"""Training in several processes: what is spread over them, which engine runs the model, whether they agree."""
