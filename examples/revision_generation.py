"""Intention-Tuning step by step: a generator of revisions starts from what a predictor of intentions has learned.

    python examples/revision_generation.py                                          # demo corpus, tiny model from
    random weights python examples/revision_generation.py --data iterater-sent:PATH --model MODEL-FOLDER --predictor
    runs/intent --steps 200

`layerselect revise` does all of this and more (scores, resuming, reports, baselines); here every part is in sight.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from layerselect import FastSelector, Fixed
from layerselect.data import load_corpus
from layerselect.metrics import revision_scores
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.demo import build_demo_causal_lm
from layerselect.models.load import load_causal_lm
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise.examples import build_revision_splits, token_budget
from layerselect.tasks.revise.generate import GenerationConfig, generate
from layerselect.tasks.revise.prompts import read_completion, write_prompt
from layerselect.tasks.run.training import SimilarLengths
from layerselect.tasks.text.completions import CompletionCollator, completion_loss
from layerselect.transfer import (
    alignment_ratio,
    base_fingerprint,
    own_frequency,
    pick_layers,
    read_importance,
    transfer_adapter,
)
from transformers import set_seed

BATCH = 8


def main(data: str, model_name: str, predictor: Path | None, steps: int, place: Path, seed: int = 0) -> dict:
    corpus = load_corpus(data)
    set_seed(seed)
    if model_name == "demo":
        # Random weights cannot be adapted by a little LoRA, so the layers themselves train and are transferred.
        texts = [
            text
            for row in corpus.splits["train"]
            for text in (write_prompt(row["before"], row["intentions"]), row["after"])
        ]
        made = build_demo_causal_lm(texts, corpus.labels, max_length=256)
        made.model.save_pretrained(place / "model")
        made.tokenizer.save_pretrained(place / "model")
        model_name, adapter = str(place / "model"), AdapterConfig("none")
    else:
        adapter = AdapterConfig("lora", rank=16, alpha=32)

    # Step 1: a predictor learns the intentions, and records how often each layer was selected.
    if predictor is None:
        config = IntentConfig(
            data=data,
            model=model_name,
            out=str(place / "predictor"),
            adapter=adapter.kind,
            max_steps=steps,
            keep="last",
        )
        predictor = run_intent(config).folder
    frequency = read_importance(predictor).frequency
    shared = pick_layers(frequency)
    print(f"the predictor selected its layers {frequency} times; layers {shared} are taken over")

    # Step 2: a generator of the same base model starts these layers from the predictor's adapters.
    set_seed(seed)
    loaded = load_causal_lm(model_name)
    fingerprint = base_fingerprint(loaded.model, loaded.layer_names)
    model = add_adapter(loaded, adapter)
    transfer_adapter(model, predictor, shared, base_fingerprint=fingerprint)

    # The shared layers train, the others stay as they are; now and then all are measured.
    selector = FastSelector(model, Fixed(shared, probe=True), mode="freeze", probe_every=10)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=5e-4)
    selector.attach(optimizer)
    splits = build_revision_splits(corpus, loaded.tokenizer, max_length=64)
    collate = CompletionCollator(loaded.tokenizer.pad_token_id)
    losses: list[float] = []
    model.train()
    for batch in batches(splits.train, steps, seed):
        loss, _ = completion_loss(model, collate(batch))
        loss.backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    # Would the generator have chosen the same layers by its own gradients?
    own, probes = own_frequency(selector.history.arrays())
    ratio = alignment_ratio(shared, pick_layers(own.tolist())) if probes else float("nan")
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, alignment ratio {ratio:.2f} over {probes} probes")

    # What it writes.
    some = splits.report[0].subset(range(min(8, len(splits.report[0]))))
    budgets = [token_budget(len(loaded.tokenizer(row["source"])["input_ids"])) for row in some.rows]
    written = generate(
        model, loaded.tokenizer, some.prompts, GenerationConfig(), batch_size=BATCH, budgets=budgets, device="cpu"
    )
    texts = [read_completion(text) for text in written]
    scores = revision_scores([row["source"] for row in some.rows], texts, [row["references"] for row in some.rows])
    print(
        f"source:    {some.rows[0]['source']}\nrevision:  {texts[0]}\nSARI {scores.sari:.1f} on {scores.examples} texts"
    )
    return {"losses": losses, "shared": shared, "ratio": ratio, "sari": scores.sari}


def batches(train, steps: int, seed: int):
    """``steps`` batches of examples of similar length, epoch after epoch."""
    sampler = SimilarLengths(train.lengths, BATCH, seed=seed)
    done = epoch = 0
    while done < steps:
        sampler.set_epoch(epoch)
        order = list(sampler)
        for start in range(0, len(order), BATCH):
            if done < steps:
                yield [train[i] for i in order[start : start + BATCH]]
                done += 1
        epoch += 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo")
    parser.add_argument("--model", default="demo", help="a model folder or hub id, or 'demo'")
    parser.add_argument(
        "--predictor", type=Path, help="a finished run of 'layerselect intent' (default: one is trained)"
    )
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        main(options.data, options.model, options.predictor, options.steps, Path(folder))
