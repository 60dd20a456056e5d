"""Writing in batches, against writing token by token without a cache, a batch or ``generate``."""

import logging

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.tokenizers import load_tokenizer
from layerselect.tasks.revise.generate import GenerationConfig, generate
from transformers import GenerationConfig as TheirConfig

from tests.helpers.models import HUGGING_FACE, hugging_face, with_lora

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17], [5, 5, 5], [40, 41, 42, 43, 44]]
BUDGETS = [4, 9, 1, 6, 12]
END = 3
GREEDY = GenerationConfig()
WRITERS = [name for name in HUGGING_FACE if name not in ("bert", "t5")]


class Numbers:
    """A tokenizer that shows the tokens it is given."""

    eos_token_id, pad_token_id = END, None

    def decode(self, tokens, **_):
        return f" {' '.join(map(str, tokens))}"


def spiky(name, seed=0):
    """A model in float64 whose choices are far from ties: random weights alone make nearly the same logits for all."""
    model = hugging_face(name, seed).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def write(model, config=GREEDY, *, batch_size=2, prompts=PROMPTS, budgets=BUDGETS, **options):
    return generate(model, Numbers(), prompts, config, batch_size=batch_size, budgets=budgets, device="cpu", **options)


def token_by_token(model, prompt, budget):
    tokens = list(prompt)
    for _ in range(budget):
        with torch.no_grad():
            token = model(torch.tensor([tokens])).logits[0, -1].argmax().item()
        if token == END:
            break
        tokens.append(token)
    return " ".join(map(str, tokens[len(prompt) :]))


@pytest.mark.parametrize("name", WRITERS)
def test_greedy_is_the_most_likely_token_each_time(name):
    model = spiky(name)
    expected = [token_by_token(model, prompt, budget) for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)]
    assert len(set(expected)) > 3, "the model writes the same whatever it reads"
    for batch_size in (1, 2, 5, 9):
        assert write(model, batch_size=batch_size) == expected


def test_writing_stops_at_the_end_token():
    """A model that has just one thing to say: the end token after three others."""
    model = spiky("llama")
    wanted = {7: 20, 20: 21, 21: 22, 22: END}

    def say(module, args, kwargs, output):
        output.logits = torch.full_like(output.logits, -5.0)
        for row, token in enumerate(kwargs["input_ids"][:, -1].tolist()):
            output.logits[row, -1, wanted.get(token, 30)] = 5.0
        return output

    with_hook = model.register_forward_hook(say, with_kwargs=True)
    try:
        assert write(model, prompts=[[7], [9, 9, 22], [8]], budgets=[8, 8, 3], batch_size=3) == [
            "20 21 22",
            "",
            "30 30 30",
        ]
    finally:
        with_hook.remove()


def test_an_example_does_not_depend_on_the_budgets_of_the_others():
    model = spiky("llama")
    for config in (GREEDY, GenerationConfig(beams=3)):
        alone = [
            write(model, config, prompts=[prompt], budgets=[budget])[0]
            for prompt, budget in zip(PROMPTS, BUDGETS, strict=True)
        ]
        assert write(model, config, batch_size=5) == alone
        assert all(len(text.split()) <= budget for text, budget in zip(alone, BUDGETS, strict=True))


def log_p(model, prompt, text):
    tokens = [*map(int, text.split())]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(tokens)), tokens].sum().item()


def test_beams_find_likelier_texts():
    model = hugging_face("llama").double().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
        model.lm_head.weight[END] = 0  # so that all texts are of one length
    budgets = [5] * len(PROMPTS)
    greedy, beams = (
        [log_p(model, prompt, text) for prompt, text in zip(PROMPTS, texts, strict=True)]
        for texts in (write(model, budgets=budgets), write(model, GenerationConfig(beams=8), budgets=budgets))
    )
    assert sum(beams) > sum(greedy)


def test_the_limit_holds_for_every_budget():
    texts = write(spiky("gpt2"), GenerationConfig(max_new_tokens=3))
    assert [len(text.split()) <= min(3, budget) for text, budget in zip(texts, BUDGETS, strict=True)] == [True] * 5
    assert max(len(text.split()) for text in texts) == 3


SAMPLED = GenerationConfig(sample=True, temperature=1.5, seed=5)


def test_draws_repeat_and_leave_the_global_generator_alone():
    model = hugging_face("llama")
    state = torch.get_rng_state()
    first = write(model, SAMPLED)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    assert write(model, SAMPLED) == first
    assert write(model, GenerationConfig(sample=True, temperature=1.5, seed=6)) != first
    assert first != write(model)


def test_few_probable_tokens_are_drawn_from_a_small_share():
    model = spiky("llama")
    assert write(model, GenerationConfig(sample=True, top_p=1e-6)) == write(model)
    assert write(model, GenerationConfig(sample=True, temperature=1e-4)) == write(model)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_settings_of_the_checkpoint_are_set_aside(adapted, caplog, recwarn):
    model = spiky("llama")
    model = with_lora(model).double().eval() if adapted else model
    expected = write(model)
    base = model.get_base_model() if adapted else model
    theirs = TheirConfig(
        do_sample=True,
        temperature=5.0,
        top_k=3,
        num_beams=4,
        repetition_penalty=9.0,
        min_new_tokens=9,
        max_length=3,
        eos_token_id=[END, 30],
        use_cache=False,
    )
    base.generation_config = theirs
    before = theirs.to_dict()
    with caplog.at_level(logging.WARNING):
        recwarn.clear()
        assert write(model) == expected
    assert base.generation_config is theirs and theirs.to_dict() == before
    assert not caplog.records
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]


def test_an_adapter_takes_part():
    model = spiky("llama")
    plain = write(model)
    adapted = with_lora(model).double()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(50)
    texts = write(adapted)
    assert texts != plain
    assert texts == [token_by_token(adapted, *pair) for pair in zip(PROMPTS, BUDGETS, strict=True)]
    with adapted.disable_adapter():
        assert write(adapted) == plain


def test_every_module_is_put_back_in_its_mode():
    model = with_lora(spiky("gpt2"), lora_dropout=0.5).double().train()
    model.get_base_model().transformer.h[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    expected = write(model)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert expected == write(model), "dropout took part"
    assert all(parameter.grad is None for parameter in model.parameters())

    def stop(done, total):
        raise KeyboardInterrupt

    theirs = model.generation_config
    with pytest.raises(KeyboardInterrupt):
        write(model, SAMPLED, on_batch=stop)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.generation_config is theirs


def test_progress_is_told():
    told = []
    write(spiky("llama"), on_batch=lambda done, total: told.append((done, total)))
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert write(spiky("llama"), prompts=[], budgets=[]) == []


def test_a_model_s_positions_are_its_limit(caplog):
    model = hugging_face("opt").double().eval()  # 64 positions, which it has learned
    prompts, budgets = [[5] * 60, [6] * 10], [30, 4]
    with caplog.at_level(logging.WARNING):
        texts = write(model, prompts=prompts, budgets=budgets)
    assert "1 of 2 texts may end early" in caplog.text and len(caplog.records) == 1
    assert len(texts[0].split()) <= 3
    with pytest.raises(LayerSelectError, match="prompt 1 has 63 tokens and the model 64 positions"):
        write(model, prompts=[[5], [5] * 63], budgets=budgets)


def test_a_tokenizer_of_its_own(llama_folder):
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(llama_folder)
    model = AutoModelForCausalLM.from_pretrained(llama_folder)
    prompt = tokenizer("The baker finds")["input_ids"]
    (text,) = generate(model, tokenizer, [prompt], GREEDY, batch_size=4, budgets=[5], device="cpu")
    assert text == text.strip()
    assert not {"[SEP]", "[CLS]", "[PAD]"} & set(text.split())
    tokenizer.eos_token = None
    with pytest.raises(LayerSelectError, match="no end token"):
        generate(model, tokenizer, [prompt], GREEDY, batch_size=4, budgets=[5], device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams=0 must be at least 1"),
        ({"beams": 2, "sample": True}, "exclude each other"),
        ({"sample": True, "temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"sample": True, "temperature": float("inf")}, "temperature=inf"),
        ({"sample": True, "temperature": float("nan")}, "temperature=nan"),
        ({"sample": True, "top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"sample": True, "top_p": 1.1}, "top_p=1.1"),
        ({"temperature": 0.5}, "change nothing without sample=True"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(LayerSelectError, match=message):
        GenerationConfig(**options)


def test_prompts_and_budgets_that_do_not_fit_are_refused():
    model = spiky("llama")
    with pytest.raises(LayerSelectError, match="2 prompts and 1 budgets"):
        write(model, prompts=[[5], [6]], budgets=[3])
    with pytest.raises(LayerSelectError, match="prompt 1 has 0 tokens"):
        write(model, prompts=[[5], []], budgets=[3, 3])
    with pytest.raises(LayerSelectError, match="prompt 0 has 1 tokens and a budget of 0"):
        write(model, prompts=[[5], [6]], budgets=[0, 3])
