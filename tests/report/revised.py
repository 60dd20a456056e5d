"""A finished run of `revise`, as its report is given it."""

from dataclasses import replace

import numpy as np
from layerselect.metrics import RevisionScores, example_scores
from layerselect.report import ReviseReport

EVIL = "<script>alert(1)</script>"
COPIED = RevisionScores(31.5, 0.0, 94.5, 0.0, 0.75, 0.25, 0.0, 1.0, 3)
TRAINED = RevisionScores(41.25, 10.0, 80.0, 33.75, 0.5, None, 0.125, 0.25, 3)


def prediction(name, source, text, *references, intentions=("clarity",), split="test", **scores):
    found = {**example_scores(source, text, references), **scores}
    return {
        "id": name,
        "split": split,
        "intentions": list(intentions),
        "source": source,
        "references": list(references),
        "prediction": text,
        "scores": found,
    }


PREDICTIONS = [
    prediction("d10", "A cat sat.", "A dog sat.", "A dog sat.", sari=50.0, sentence_gleu=0.2),
    prediction(
        "d9", "It is so .", "It is so .", "It was so .", intentions=("clarity", "style"), sari=20.0, sentence_gleu=0.9
    ),
    prediction("d2", "One two.", "", "One.", "Two.", intentions=("style",), sari=30.0, sentence_gleu=0.1),
]

TRANSFER = {
    "kind": "shared",
    "layers": [1, 3],
    "own": [2, 3],
    "ratio": 0.5,
    "frequency": [3, 20, 4, 30],
    "own_frequency": [0, 3, 20, 30],
    "own_steps": 30,
    "first_loss": 2.5,
    "untrained_loss": 2.25,
    "warnings": [],
}


def make(**changes):
    steps, layers = 30, 4
    random = np.random.default_rng(0)
    row = {"split": "validation", "step": 15, "epoch": 1.0, "loss": 1.0, "sari": 33.0}
    values = {
        "settings": {"model": "m&m", "adapter": "lora", "rule": "variance", "seed": 0, "layers": None},
        "corpus": {
            "name": "essays",
            "notes": ["13 documents <leak>"],
            "defects": ["a.csv:3: bad"],
            "defect_count": 1,
            "fingerprint": "00ff",
            "splits": {
                "train": {
                    "examples": 9,
                    "documents": 2,
                    "cut": 4,
                    "sentences": 50,
                    "kept_sentences": 30,
                    "intentions": {"clarity": 7, "style": 2},
                },
                "test": {"examples": 3, "documents": 1, "cut": 0, "intentions": {"fluency": 3}},
            },
        },
        "training": {"mode": "freeze", "steps": steps, "layers_selected": 2.0, "num_layers": layers, "last_loss": 1.1},
        "versions": {"torch": "2"},
        "splits": {
            "validation": {"source copied": COPIED, "trained model": TRAINED},
            "test": {"source copied": COPIED, "trained model": replace(TRAINED, sari=40.0)},
        },
        "predictions": PREDICTIONS,
        "metrics": [row, {**row, "final": True}],
        "losses": [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 1.1}],
        "layer_names": [f"layer.{i}" for i in range(layers)],
        "frequency": [1, 2, 3, 30],
        "history": {
            "step": np.arange(steps),
            "scores": random.random((steps, layers)).astype(np.float32),
            "mask": random.random((steps, layers)) > 0.5,
            "trained": np.ones((steps, layers), bool),
        },
        "transfer": TRANSFER,
    }
    return ReviseReport(**{**values, **changes})
