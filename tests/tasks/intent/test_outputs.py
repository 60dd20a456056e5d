import numpy as np
from layerselect.tasks.intent.outputs import chosen_labels, prediction_records


def test_records_of_predictions():
    rows = [{"id": "7", "intentions": ["b"]}]
    record = prediction_records("test", rows, np.array([[0.7, 0.3]]), ["a", "b"], multi_label=False)[0]
    assert record == {
        "id": "7",
        "split": "test",
        "labels": ["b"],
        "predicted": ["a"],
        "scores": {"a": 0.7, "b": 0.3},
    }
    assert chosen_labels(np.array([0.5, 0.49]), ["a", "b"], multi_label=True) == ["a"]
    assert chosen_labels(np.array([0.1, 0.2]), ["a", "b"], multi_label=True) == []
