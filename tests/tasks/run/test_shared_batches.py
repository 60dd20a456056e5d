"""The order of several processes cut into their parts, and what of a batch only stands in."""

from __future__ import annotations

import pytest
import torch
from layerselect.tasks.run.shared_batches import COUNTS, SharedCollator, SimilarLengths, WithStandIns

LENGTHS = [(7 * i) % 11 + 1 for i in range(21)]


class Examples:
    lengths = LENGTHS

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, index: int) -> int:
        assert index >= 0
        return index


def collate(examples: list[int]) -> dict[str, torch.Tensor]:
    return {"examples": torch.tensor(examples)}


@pytest.mark.parametrize(("processes", "batch"), [(2, 4), (3, 3), (4, 5), (2, 21), (8, 1)])
def test_the_parts_of_each_step_are_the_batch_of_one_process(processes, batch):
    whole = SimilarLengths(LENGTHS, processes * batch, seed=1)
    shared = SimilarLengths(LENGTHS, processes * batch, seed=1, filled=True)
    for epoch in range(2):
        whole.set_epoch(epoch)
        shared.set_epoch(epoch)
        order, filled, size = list(whole), list(shared), processes * batch
        assert len(filled) == len(shared) == -(-len(order) // size) * size
        data, collator = WithStandIns(Examples()), SharedCollator(collate)
        for start in range(0, len(filled), size):
            seen = []
            for part in range(processes):
                numbers = filled[start + part * batch : start + (part + 1) * batch]
                made = collator([data[i] for i in numbers])
                assert len(made["examples"]) >= 1
                if made[COUNTS].item():
                    seen += made["examples"].tolist()
                else:
                    assert len(made["examples"]) == 1
            assert seen == order[start : start + size]


def test_one_process_has_no_stand_ins():
    assert sorted(SimilarLengths(LENGTHS, 4)) == list(range(21))
