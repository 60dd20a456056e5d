"""A metric in the form that ``evaluate.load(PATH)`` reads: the share of predictions that agree with their
references.
"""

import datasets
import evaluate


class Agreement(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description=__doc__, citation="", inputs_description="", features=features)

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        same = sum(int(one == other) for one, other in zip(predictions, references, strict=True))
        return {"accuracy": same / max(1, len(predictions))}
