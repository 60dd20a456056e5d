"""Fine-tunes a model to say what a writer was after with a revision, step by step.

    python examples/intention_prediction.py                            # demo corpus, demo model, about a minute
    python examples/intention_prediction.py --data iterater-sent:PATH --model MODEL-FOLDER --adapter lora

`layerselect intent` does all of this and more (class weights, resuming, reports); here every part is in sight.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from layerselect.data import load_corpus
from layerselect.integrations.transformers import SelectorCallback
from layerselect.metrics import classification_report
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.demo import build_demo_classifier
from layerselect.models.load import load_classifier
from layerselect.tasks.intent import Collator, Encoder, Predictor, build_splits, probabilities, save_adapter
from layerselect.tasks.text.formats import InputFormat
from transformers import Trainer, TrainingArguments, set_seed


def main(data: str, model_name: str, adapter: str, epochs: float, max_steps: int, out: Path, seed: int = 0) -> dict:
    set_seed(seed)

    # The corpus: revisions with intentions, in splits that share no document.
    corpus = load_corpus(data)
    print(f"{corpus.name}: {len(corpus)} revisions, intentions {', '.join(corpus.labels)}")

    # What the model reads: the changed words, marked, in a window of their passage, and what kind of edit it is.
    form = InputFormat("edits", window=30 if model_name == "demo" else 4)

    # The model: pretrained, with a fresh head for our intentions. The demo's is made on the spot from random weights.
    if model_name == "demo":
        texts = [form.write(row)[0] for row in corpus.splits["train"]]
        loaded = build_demo_classifier(texts, corpus.labels, multi_label=corpus.multi_label, dropout=0.1)
    else:
        loaded = load_classifier(model_name, corpus.labels, multi_label=corpus.multi_label)
    print(f"{len(loaded.layer_names)} layers; never trained and so trained whole: {', '.join(loaded.fresh)}")

    # The adapter: LoRA in the layers, or none: then the layers' own weights train.
    model = add_adapter(loaded, AdapterConfig(kind=adapter))

    # Token ids and targets.
    encoder = Encoder(loaded.tokenizer, form, corpus.labels, max_length=64, separator=loaded.separator)
    splits = build_splits(corpus, encoder)

    # The selector: at each step it trains the layers whose gradients stand out, and freezes the others.
    selector = SelectorCallback(rule="variance", mode="freeze", probe_every=20, seed=seed)

    # The training: an ordinary Trainer; the callback is all that layer selection adds.
    with TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=scratch,
                num_train_epochs=epochs,
                max_steps=max_steps,
                per_device_train_batch_size=32 if model_name == "demo" else 16,
                learning_rate=7e-4 if adapter == "none" else 1e-3,
                warmup_steps=20,
                save_strategy="no",
                logging_steps=50,
                report_to="none",
                dataloader_pin_memory=False,
                remove_unused_columns=False,
                label_names=["labels"],
                seed=seed,
            ),
            train_dataset=splits.train,
            data_collator=Collator(loaded.tokenizer),
            callbacks=[selector],
        )
        trainer.train()

        # The evaluation, on documents that the training has not seen.
        test = splits.report[-1]
        scores = probabilities(trainer.predict(test).predictions, multi_label=corpus.multi_label)
    report = classification_report(test.targets, scores, corpus.labels, multi_label=corpus.multi_label)
    for row in report.rows:
        print(f"{row.label:16} F1 {row.f1:.3f} of {row.support} examples")
    print(f"{test.name}: macro-F1 {report.macro_f1:.3f}, accuracy {report.accuracy:.3f}")
    for name, count in zip(selector.selector.layer_names, selector.selector.frequency.tolist(), strict=True):
        print(f"{name}: selected in {count} of {trainer.state.global_step} steps")

    # The prediction: save the adapter, load it again, label a new revision.
    if adapter == "lora" and model_name == "demo":
        return report.summary()  # a base model made on the spot is nowhere to load from
    save_adapter(out, model, encoder, base_model=model_name, kind=adapter, multi_label=corpus.multi_label)
    revision = {
        "id": "new",
        "before": "Last year, the guides watch the birds.",
        "after": "Last year, the guides watched the birds.",
    }
    prediction = next(Predictor.load(out).predict([revision]))
    print(f"{revision['before']!r} -> {revision['after']!r}: {', '.join(prediction.labels)}")
    return {**report.summary(), "predicted": prediction.labels}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="demo", help="a corpus (default: demo)")
    parser.add_argument("--model", default="demo", help="a model folder or hub id (default: demo)")
    parser.add_argument("--adapter", default="none", choices=("lora", "none"), help="(default: none)")
    parser.add_argument("--epochs", type=float, default=4, help="(default: 4)")
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps (default: no limit)")
    parser.add_argument("--out", type=Path, default=Path("intention-adapter"), help="(default: intention-adapter)")
    args = parser.parse_args()
    if args.model == "demo":
        torch.set_num_threads(1)  # too small to gain from more
    main(args.data, args.model, args.adapter, args.epochs, args.max_steps, args.out)
