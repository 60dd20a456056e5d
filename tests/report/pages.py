"""Pages of every command, of small and of strange runs, made without training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from layerselect.metrics import classification_report, edit_reports
from layerselect.report import card as card_page
from layerselect.report import compare as compare_page
from layerselect.report import intent as intent_page
from layerselect.report import pilot as pilot_page
from layerselect.report import plan as plan_page
from layerselect.report import revise as revise_page
from layerselect.report.compare import CompareReport, MethodRun
from layerselect.report.plan import PlanReport
from layerselect.report.plan_figure import Bar
from layerselect.report.verdict_figure import Compared
from layerselect.tasks.compare.rows import Row, Spread
from layerselect.tasks.compare.verdicts import Difference
from layerselect.utils.paired import Variance

from tests.card.made import made
from tests.report.revised import COPIED, TRAINED, prediction
from tests.report.test_intent_report import make as make_intent
from tests.report.test_revise_report import make as make_revise

PATH = "/a/folder/of/a/long/path" * 13
WORD = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung" * 2
LABELS = [
    "clarity",
    WORD,
    "تحسين الوضوح والسلاسة في النص",
    "明確さと一貫性を高めるための修正",
    "meaning-changed and some more words",
]
EDITS, NAMED = edit_reports(["a b c d"], ["a x c y e"], [["a x c", "b c d"]], [LABELS])


def history(steps=400, layers=6, *, seed=0, never=(), held=True):
    """A run in mode freeze: layers stay frozen for a while, and their scores are held."""
    random = np.random.default_rng(seed)
    trained = np.repeat(random.random((-(-steps // 20), layers)) > 0.4, 20, axis=0)[:steps]
    scores = np.exp(random.normal(size=(steps, layers)) + np.arange(layers) / 3).astype(np.float32)
    mask = trained ^ (random.random((steps, layers)) > 0.93)
    for layer in never:
        mask[:, layer] = trained[:, layer] = False
        scores[:, layer] = np.nan
    found = {"step": np.arange(steps), "scores": scores, "mask": mask}
    return {**found, "trained": trained} if held else found


def quality(labels, multi_label=False):
    random = np.random.default_rng(1)
    count = 40 * len(labels)
    scores = random.random((count, len(labels)))
    targets = scores > 0.5 if multi_label else scores.argmax(axis=1)
    targets[: count // 3] = targets[: count // 3][::-1]
    return classification_report(np.asarray(targets).astype(int), scores, labels, multi_label=multi_label)


def intent(labels=("clarity", "style"), multi_label=False, steps=400, layers=6, **options):
    found = quality(list(labels), multi_label)
    row = {"split": "validation", "epoch": 1.0, "loss": 1.0, "macro_f1": 0.5, "macro_auprc": 0.6, "accuracy": 0.5}
    at = [step for step in (1, 100, 200, 300, 400) if step <= steps]
    base = make_intent()
    facts = {"examples": 12345, "documents": 77, "labels": dict.fromkeys(labels, 1234)}
    return intent_page.render(
        replace(
            base,
            labels=list(labels),
            multi_label=multi_label,
            settings={**base.settings, "out": options.get("out", "run"), "learning_rate": 5e-5, "split_seed": 20260101},
            corpus={**base.corpus, "name": options.get("name", "essays"), "splits": {"validation": facts}},
            training={
                **base.training,
                "steps": steps,
                "seconds": 1234.5,
                "seconds_per_step": 0.03718,
                "peak_memory_mb": 679.53,
                "trained_parameters": 317100.4,
                "layers_selected": 3.744,
                "num_layers": layers,
            },
            splits={split: {"majority class": found, "trained model": found} for split in ("validation", "test")},
            metrics=[{**row, "step": step, "macro_f1": step / 500} for step in at],
            losses=[{"step": step, "loss": 2 - step / 400} for step in range(1, steps + 1, 10)],
            layer_names=[f"layer.{i}" for i in range(layers)],
            history=history(steps, layers, never=options.get("never", ())),
        )
    )


def revise(strange=False):
    if not strange:
        return revise_page.render(make_revise(history=history(30, 4)))
    texts = [
        ("من أجل توضيح المعنى بشكل أفضل .", "لتوضيح المعنى بشكل أفضل ."),
        ("これは明確ではない文です。", "これは明確な文です。" * 20),
        (f"See {PATH} for more.", f"See https://example.org/{PATH} for it."),
        (WORD, ""),
    ]
    rows = [
        prediction(
            f"{PATH}-{number}", source, text, text, source, intentions=LABELS, split=LABELS[number % 2], sari=40.0
        )
        for number, (source, text) in enumerate(texts * 7)
    ]
    base = make_revise()
    best = replace(TRAINED, gleu=0.75, edits=EDITS, by_intention=NAMED)
    facts = {"examples": 12345, "documents": 1, "cut": 1234, "sentences": 50, "kept_sentences": 30}
    return revise_page.render(
        replace(
            base,
            settings={**base.settings, "model": PATH, "from": PATH},
            corpus={
                **base.corpus,
                "name": PATH,
                "notes": [PATH],
                "defects": [f"{PATH}.csv:3: bad"],
                "splits": {WORD: {**facts, "intentions": dict.fromkeys(LABELS, 12345)}},
            },
            versions={WORD: PATH},
            splits={WORD: {"source copied": COPIED, WORD: TRAINED, "trained model": best}},
            predictions=rows,
            layer_names=[f"layer.{i}" for i in range(30)],
            history=history(1200, 30, never=(7,)),
            transfer={
                "kind": "shared",
                "layers": list(range(0, 30, 2)),
                "own": list(range(15, 30)),
                "ratio": 0.25,
                "frequency": [30 * layer for layer in range(30)],
                "own_frequency": list(range(30)),
                "own_steps": 30,
                "first_loss": 2.5,
                "untrained_loss": 2.25,
                "warnings": [f"mind {PATH}"],
            },
        )
    )


def comparison(names=("all", "ir", "head"), seeds=1, settings=None, layers=4, failed=()):
    random = np.random.default_rng(2)
    rows = [
        Row(name, "baseline", {key: Spread(value, 0.0, 1) for key in ("macro_f1", "accuracy")}, 1)
        for name, value in (("majority class", 0.1), ("logistic regression", 0.81))
    ]
    spread = 0.0123 if seeds > 1 else 0.0
    for number, name in enumerate(names):
        values = {key: Spread(0.8 + 0.01 * (number % 2), spread, seeds) for key in ("macro_f1", "accuracy")}
        values |= {"seconds_per_step": Spread(0.03 + number / 1e4, spread / 9, seeds)}
        values |= {"trained_parameters": Spread(1234567.0, 890.0, seeds)}
        variance = Variance(1e-4, 0.0, 0.0, 60, seeds, 1)
        against = Difference(0.01, -0.01, 0.03, -0.005, 0.025, seeds, 60, variance) if number else None
        verdict = "undecided" if number else ""
        rows.append(Row(name, f"what {name} does", values, seeds, difference=against, verdict=verdict))
    rows += [Row(name, "failed", {}, 0, (f"seed 0: no {PATH}",)) for name in failed]
    facts = {"layers_selected": 2.0, "num_layers": layers, "layers_with_gradient": 2.5, "mode": "freeze"}
    shown = {row.name: row.values for row in rows if row.what != "baseline" and row.values}
    return compare_page.render(
        CompareReport(
            settings={"data": "essays", "model": "m", "seeds": seeds, **(settings or {})},
            split="test",
            seeds=seeds,
            reference=names[0],
            margin=0.02,
            columns=(
                ("macro_f1", "macro-F1", 3),
                ("accuracy", "accuracy", 3),
                ("seconds_per_step", "s per step", 3),
                ("trained_parameters", "trained parameters", 0),
            ),
            digits=3,
            about_baselines="A model below the logistic regression has not learned the task.",
            rows=rows,
            quality_columns=["macro_f1", "accuracy"],
            notes=["How to read the table.", *(f"{name} failed: {PATH}" for name in failed)],
            curve="macro-F1",
            curves={name: [([10, 20, 30], random.random(3).tolist()) for _ in range(seeds)] for name in names},
            quality="macro-F1",
            differences=[
                Compared(row.name, d.mean, (d.low, d.high), (d.equal_low, d.equal_high), row.verdict)
                for row in rows
                if (d := row.difference) is not None
            ],
            where="test",
            clock="seconds per step",
            points={
                name: (v["seconds_per_step"].mean, spread / 9, v["macro_f1"].mean, spread) for name, v in shown.items()
            },
            baselines={row.name: row.values["macro_f1"].mean for row in rows if row.what == "baseline"},
            maps=[
                MethodRun(name, f"what {name} does", 0, facts, history(60, layers, seed=i), [""] * layers)
                for i, name in enumerate(names)
            ],
        )
    )


def card(layers=6, source="demo", **changes):
    random = np.random.default_rng(3)
    fresh = (random.normal(size=layers) + 2).tolist()
    coupling = np.clip(random.normal(scale=0.4, size=(layers, layers)), -1, 1)
    coupling = (coupling + coupling.T) / 2
    np.fill_diagonal(coupling, 1.0)
    found = made(fresh, coupling if layers > 1 else None, prefix=changes.pop("prefix", "layers"))
    for number, layer in enumerate(found.layers):
        found.layers[number] = replace(layer, gradient_norm=10.0 ** (number % 5 - 2), energy=1e6 * (number + 1))
    return card_page.render(replace(found, model={**found.model, "source": source}, **changes))


MANY = ("all/lora", f"layer-card:card='{PATH}';k=4/none", *(f"topk:k={k}/bottleneck" for k in range(2)), "方法/الطريقة")


def planned(name="org/model", memory: int | None = 24_000_000_000, scale=1):
    """A plan of six ways, each held in two ways."""
    ways = {"full": (15, 42, 28), "all": (15.2, 0.5, 35), "ir": (15.2, 0.5, 35), "cached": (15.2, 0.1, 9)}
    bars = {
        held: [
            Bar(way, *(int(1e9 * scale * part * share) for part in parts), int(1.02e9 * scale * share * sum(parts)))
            for way, parts in ways.items()
        ]
        for held, share in (("bfloat16", 1.0), ("4bit, checkpointing", 0.3))
    }
    headings = [("trains", True), ("weights in", True), ("weights", False), ("peak", False), ("fits", False)]
    lines = [
        ([bar.name, held, f"{bar.weights / 1e9:.2f}", f"{bar.peak / 1e9:.2f}", "yes"], bar.peak < (memory or 0))
        for held, group in bars.items()
        for bar in group
    ]
    headline = f"{name}: 8,030,261,248 weights in 32 layers; intent, batches of 16 x 256 tokens"
    return plan_page.render(PlanReport(name, headline, headings, "GB", lines, bars, memory, ["peak: the most."]))


def pilot(strange=False):
    def look(number, mean, width):
        ends = {"low": mean - width, "high": mean + width, "quality": 0.5 + mean, "chance": 0.5}
        return {"round": number, "mean": mean, **ends}

    ends = (("head", -0.2, "worse"), ("upper:1", -0.04, "unlikely"), ("upper:2", -0.002, "as good"))
    rest = (("uniform:3", 0.001, "not needed"), ("ir:3", -0.01, "running"))
    candidates = [
        {
            "name": f"{name}-{WORD}" if strange else name,
            "layers": list(range(number * (30 if strange else 1))),
            "cost": 0.4 + number / 10,
            "trial": 0.01,
            "state": state,
            "left": None if state == "running" else 4,
            "looks": [look(at, mean, 0.1 / at) for at in range(1, 5)],
        }
        for number, (name, mean, state) in enumerate((*ends, *rest))
    ]
    if strange:
        candidates.append({**candidates[0], "name": PATH, "state": "running", "left": None, "looks": []})
    answer = {"chosen": candidates[2]["name"], "sure": not strange, "why": "it is as good", "more": None}
    found = {
        "answer": {**answer, "cheapest_open": None if strange else "upper:1"},
        "reference": {"name": "all", "quality": 0.5},
        "margin": 0.02,
        "rounds": {"folds": 4, "seeds": 2, "more": 0, "planned": 4, "done": 4},
        "cost": 0.0951,
        "caches": not strange,
        "candidates": candidates,
        "sizes": {"steps": 1234, "held_out": 12345, "left_out": [WORD] * strange},
    }
    return pilot_page.render(found, {"data": PATH if strange else "a.csv", "seed": 3}, by="macro_f1", seconds=1234.5)


PAGES = {
    "intent": intent,
    "intent-strange": lambda: intent(LABELS, steps=1200, layers=30, never=(3,), out=PATH, name=PATH),
    "intent-several": lambda: intent(LABELS, multi_label=True, layers=12, never=(0,)),
    "intent-one-step": lambda: intent(steps=1, layers=1),
    "revise": revise,
    "revise-strange": lambda: revise(strange=True),
    "compare": comparison,
    "compare-strange": lambda: comparison(MANY, 3, {"data": PATH, "model": PATH, WORD: PATH}, 30, failed=(WORD,)),
    "card": card,
    "card-strange": lambda: card(30, PATH, prefix=f"model.{WORD}.layers"),
    "plan": planned,
    "plan-strange": lambda: planned(PATH, None, 1e-3),
    "card-of-one-layer": lambda: card(1, stability=None),
    "pilot": pilot,
    "pilot-strange": lambda: pilot(strange=True),
}
