"""Cached hidden states inside transformers.Trainer: one more argument of the callback."""

from __future__ import annotations

import pytest
import torch
from layerselect.integrations.transformers import SelectorCallback, last_checkpoint
from layerselect.state_cache import StateStore

from tests.helpers.models import hugging_face
from tests.integrations.trainers import StopAfter, assert_same_end, build, train

KEPT = {"mode": "freeze", "probe_every": 3, "state_cache": "cached", "cut": 2}


@pytest.mark.parametrize(
    "settings",
    [{}, {"bf16": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_the_same_training(tmp_path, settings):
    """Beside layers 2 and 3 alone, by freezing: the same weights, bit for bit, since the batches of each epoch are
    padded alike.
    """
    ends = []
    for name, options in (
        ("kept", {"rule": "all", **KEPT}),
        ("frozen", {"rule": "fixed:layers=[2,3]", "mode": "freeze"}),
    ):
        callback = SelectorCallback(options)
        trainer = train(tmp_path / name, callback, examples=6, save_strategy="no", **settings)
        ends.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
        if name == "kept":
            assert callback.selector.state_cache is not None and callback.selector.state_cache.read > 0
            forwards = [vars(module).get("forward") for module in trainer.model.modules()]
            assert not any(type(f).__module__.startswith("layerselect") for f in forwards)
    for name, ours in ends[0].items():
        torch.testing.assert_close(ours, ends[1][name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_resumed_training_reads_what_the_first_has_kept(tmp_path):
    whole = SelectorCallback({"rule": "variance", **KEPT})
    end = train(tmp_path / "whole", whole, examples=6)
    with StateStore(tmp_path / "states") as store:
        options = {"rule": "variance", **KEPT, "state_cache_store": store}
        train(tmp_path / "cut", SelectorCallback(options), StopAfter(4), examples=6)
        resumed = SelectorCallback(options)
        trainer = train(tmp_path / "cut", resumed, resume=last_checkpoint(tmp_path / "cut"), examples=6)
    assert resumed.selector.cut == 2 and resumed.selector.state_cache is not None
    assert resumed.selector.state_cache.filled == 0 and resumed.selector.state_cache.read == 8
    assert_same_end((trainer, resumed), (end, whole))


def test_noise_on_embeddings(tmp_path):
    """NEFTune: the same losses as by freezing alone; nothing is kept while it is on."""
    ends = []
    for name, options in (
        ("kept", {"rule": "all", **KEPT}),
        ("frozen", {"rule": "fixed:layers=[2,3]", "mode": "freeze"}),
    ):
        callback = SelectorCallback(options)
        trainer = train(tmp_path / name, callback, examples=6, save_strategy="no", neftune_noise_alpha=20.0)
        ends.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        if name == "kept":
            assert (callback.selector.state_cache.filled, callback.selector.state_cache.read) == (0, 0)
    assert ends[0] == ends[1]


def test_an_evaluation_of_the_trainer_reads(tmp_path):
    trainer = build(
        tmp_path, SelectorCallback({"rule": "all", **KEPT}), evaluates=True, examples=6, eval_strategy="epoch"
    )
    trainer.train()
    assert trainer.predict(trainer.eval_dataset).predictions.shape[0] == 4
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


def test_an_evaluation_with_another_adapter_in_the_middle_of_a_training(tmp_path):
    from peft import LoraConfig
    from transformers import TrainerCallback

    class Evaluates(TrainerCallback):
        def __init__(self) -> None:
            self.seen: list[torch.Tensor] = []

        def on_step_end(self, args, state, control, model=None, **kwargs):
            tokens = torch.arange(3, 12)[None]
            with torch.no_grad():
                with model.disable_adapter():
                    self.seen.append(model(input_ids=tokens).logits)
                model.set_adapter("reference")
                self.seen.append(model(input_ids=tokens).logits)
                model.set_adapter("default")

    def run(options: dict, name: str) -> torch.Tensor:
        evaluates = Evaluates()
        trainer = build(tmp_path / name, SelectorCallback(options), evaluates, examples=6, save_strategy="no")
        torch.manual_seed(5)
        trainer.model.add_adapter("reference", LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        trainer.model.set_adapter("default")
        trainer.train()
        return torch.stack(evaluates.seen)

    kept = run({"rule": "all", **KEPT}, "kept")
    assert torch.equal(kept, run({"rule": "fixed:layers=[2,3]", "mode": "freeze"}, "frozen"))


def test_a_preference_training_whose_reference_is_the_model_without_its_adapter(tmp_path):
    """DPO: the losses of the same training without a store, in which nothing below the cut trains."""
    trl = pytest.importorskip("trl")
    tokenizers = pytest.importorskip("tokenizers")
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, 60)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )
    pairs = [
        {"prompt": f"w{3 + i} w{4 + i}", "chosen": f" w{5 + i} w{6 + i} w7", "rejected": f" w{9 + i} w{8 + i}"}
        for i in range(8)
    ]
    losses = []
    for name in ("kept", "frozen"):
        model = get_peft_model(
            hugging_face("llama"), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if "lora_B" in parameter_name:
                    parameter.normal_(0, 0.3)
                if name == "frozen" and (".layers.0." in parameter_name or ".layers.1." in parameter_name):
                    parameter.requires_grad_(False)
        callback = SelectorCallback({"rule": "all", **KEPT} if name == "kept" else {"rule": "all", "mode": "freeze"})
        arguments = trl.DPOConfig(
            output_dir=str(tmp_path / name),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            report_to=[],
            logging_steps=1,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            bf16=False,
        )
        trainer = trl.DPOTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
            callbacks=[callback],
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        if name == "kept":
            assert callback.selector.state_cache.read > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
