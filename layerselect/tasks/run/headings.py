"""Headings of the help pages, in their order: under each stand the options that are about one thing."""

from __future__ import annotations

JOB = "the job"
CORPUS = "the corpus"
PREDICTOR = "the predictor"
READS = "what the model reads"
WRITING = "revisions"
TRAINS = "what trains"
CACHE = "hidden states of frozen layers"
MEMORY = "precision and memory"
TRAINING = "training"
REPORTING = "who is told"

HEADINGS = (JOB, CORPUS, PREDICTOR, READS, WRITING, TRAINS, CACHE, MEMORY, TRAINING, REPORTING)
