import pytest
from layerselect import LayerSelectError
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.plan.settings import PlanSettings
from layerselect.tasks.revise.config import ReviseConfig
from layerselect.tasks.run.presets import preset_settings
from layerselect.tasks.text.formats import TOKENS, available_formats

BASE = {"data": "demo", "model": "demo", "out": "x"}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("epochs", 0, "--epochs 0"),
        ("lr", -1e-3, "--lr -0.001"),
        ("batch_size", 0, "--batch-size 0"),
        ("holdout", 1.0, "--holdout 1.0"),
        ("dropout", 1.5, "--dropout 1.5"),
        ("max_steps", 0, "--max-steps 0"),
        ("patience", -1, "--patience -1"),
        ("warmup", -3, "--warmup -3"),
        ("class_weights", "cubic", "--class-weights cubic is not one of none, sqrt, balanced"),
        ("mode", "melt", "--mode melt is not one of"),
        ("keep", "all", "--keep all"),
        ("format", "xml", "'xml'"),
        ("adapter", "prompt", "'prompt'"),
    ],
)
def test_a_bad_value_is_repeated_as_the_user_wrote_it(name, value, shown):
    with pytest.raises(LayerSelectError, match=shown):
        IntentConfig(**BASE, **{name: value})


def test_a_run_is_continued_with_its_own_settings_only():
    saved = IntentConfig(**BASE).as_dict()
    IntentConfig(**{**BASE, "out": "elsewhere"}, device="cpu").check_same_run(saved, "interrupted")
    with pytest.raises(LayerSelectError, match="has --lr 0.001, not 0.5"):
        IntentConfig(**BASE, lr=0.5).check_same_run(saved, "interrupted")


def test_how_much_is_read_follows_the_format():
    assert set(TOKENS) == set(available_formats())
    for name, tokens in TOKENS.items():
        assert IntentConfig(**BASE, format=name).max_length == tokens
        assert IntentConfig(**BASE, format=name, max_length=7).max_length == 7
    assert IntentConfig(**BASE, **preset_settings("ir-tuning", "intent")).max_length == 256
    assert PlanSettings(model="m").max_length == IntentConfig(**BASE).max_length == TOKENS["edits"]
    assert ReviseConfig(**BASE).predictor_config("p").max_length == TOKENS["edits"]
    assert ReviseConfig(**BASE, predictor_max_length=9).predictor_config("p").max_length == 9
