"""Label words: what is to be written, and how likely it is, against one model call for each answer and prompt."""

import numpy as np
import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.running import reads_ahead
from layerselect.models.tokenizers import load_tokenizer
from layerselect.tasks.text import verbalizer as label_words
from layerselect.tasks.text.formats import CUE
from layerselect.tasks.text.verbalizer import Verbalizer, label_logits, label_sets, nll, pad_answers, score

from tests.helpers.models import HUGGING_FACE, hugging_face
from tests.helpers.tiny_intent import LABELS

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
ANSWERS = [[20, 21, 2], [22, 2], [23, 24, 25, 26, 2], [2]]
WRITERS = [name for name in HUGGING_FACE if name not in ("bert", "t5")]


def padded(prompts):
    """Prompts as a batch, padded on the left with zeros."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return {"input_ids": ids, "attention_mask": mask}


def log_p(model, prompt, answer):
    """log P(answer | prompt), token by token: one whole sequence without padding for each token."""
    total = 0.0
    for number, token in enumerate(answer):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer[:number]])).logits[0, -1]
        total += logits.double().log_softmax(-1)[token].item()
    return total


@pytest.fixture(params=WRITERS)
def writer(request):
    return hugging_face(request.param).eval()


def test_the_score_is_the_log_probability_of_the_answer(writer):
    expected = [[log_p(writer, prompt, answer) for answer in ANSWERS] for prompt in PROMPTS]
    torch.testing.assert_close(score(writer, padded(PROMPTS), ANSWERS), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_the_loss_is_its_negative(writer):
    chosen = [ANSWERS[2], ANSWERS[0], ANSWERS[3]]
    expected = [-log_p(writer, prompt, answer) for prompt, answer in zip(PROMPTS, chosen, strict=True)]
    losses = nll(writer, padded(PROMPTS), *pad_answers(chosen))
    torch.testing.assert_close(losses.detach(), torch.tensor(expected), rtol=1e-4, atol=1e-4)


class Forgetful(torch.nn.Module):
    """A decoder that keeps nothing of what it has read and gives the logits of all positions."""

    def __init__(self):
        super().__init__()
        self.inner = hugging_face("llama")

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        logits = self.inner(input_ids, attention_mask, use_cache=False).logits
        return type("Output", (), {"logits": logits})()


def test_a_model_without_a_memory_gives_the_same():
    forgetful = Forgetful().eval()
    ours = score(forgetful, padded(PROMPTS), ANSWERS)
    torch.testing.assert_close(ours, score(forgetful.inner, padded(PROMPTS), ANSWERS), rtol=1e-4, atol=1e-4)


def test_only_the_answer_has_a_loss():
    """The output layer's gradient is that of the answer's three positions, worked out by hand."""
    model = hugging_face("llama")
    answer = [20, 21, 2]
    nll(model, padded(PROMPTS[:1]), *pad_answers([answer]))[0].backward()
    with torch.no_grad():
        hidden = model.model(torch.tensor([PROMPTS[0] + answer])).last_hidden_state[0, len(PROMPTS[0]) - 1 : -1]
        p = model.lm_head(hidden).softmax(-1)
        p[torch.arange(3), answer] -= 1
    torch.testing.assert_close(model.lm_head.weight.grad, p.T @ hidden, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "bert"])
def test_an_encoder_reads_ahead(name):
    assert reads_ahead(hugging_face(name).eval()) == (name == "bert")


def test_single_labels_are_compared_as_they_are():
    scores = torch.tensor([[-1.0, -3.0]])
    assert label_logits(scores, torch.eye(2, dtype=torch.bool)).tolist() == [[-1.0, -3.0]]
    assert label_logits(scores, torch.tensor([[False, True], [True, False]])).tolist() == [[-3.0, -1.0]]


def test_a_label_is_as_likely_as_all_answers_that_hold_it():
    p = torch.tensor([[0.2, 0.1, 0.05, 0.15]])  # a, b, c, a+c: the model would write something else half of the time
    membership = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=torch.bool)
    probabilities = torch.sigmoid(label_logits(p.log(), membership))
    torch.testing.assert_close(probabilities, torch.tensor([[0.7, 0.2, 0.4]]))


def test_label_sets_are_those_of_the_training_split():
    assert label_sets(np.array([1, 1, 0]), 3) == [(0,), (1,), (2,)]
    rows = np.array([[1, 1, 0]] * 2 + [[0, 1, 1]] * 3 + [[1, 0, 1]] * 2 + [[1, 0, 0]], dtype=np.float32)
    assert label_sets(rows, 3) == [(0,), (1,), (2,), (1, 2), (0, 1), (0, 2)]


def test_rare_sets_are_left_out_where_there_are_many(monkeypatch):
    monkeypatch.setattr(label_words, "MAX_SETS", 1)
    rows = np.array([[1, 1, 0], [0, 1, 1], [0, 1, 1]], dtype=np.float32)
    assert label_sets(rows, 3) == [(0,), (1,), (2,), (1, 2)]


@pytest.fixture
def words(llama_folder):
    return load_tokenizer(llama_folder)


def test_what_is_written_is_the_label_and_the_end(words):
    found = Verbalizer(words, LABELS, [(0,), (1,), (2,), (0, 2)])
    assert [words.decode(tokens) for tokens in found.tokens] == [
        "clarity [SEP]",
        "fluency [SEP]",
        "style [SEP]",
        "clarity, style [SEP]",
    ]
    assert found.longest == 4
    assert found.membership().tolist() == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
        [True, False, True],
    ]


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_words_are_tokenized_as_they_stand_behind_the_prompt(scheme):
    """Tokenizers that mark a space, and put such a mark in front of every text or not."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "</s>", "▁", "Intention:", "▁Intention:", "▁fluency", "fluency", "▁style", "style"]
    inner = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    found = Verbalizer(tokenizer, ["fluency", "style"])
    prompt = tokenizer(CUE)["input_ids"]
    for label, tokens in zip(("fluency", "style"), found.tokens, strict=True):
        assert prompt + tokens == [*tokenizer(f"{CUE} {label}")["input_ids"], tokenizer.eos_token_id]
        assert tokenizer.convert_ids_to_tokens(tokens) == [f"▁{label}", "</s>"]


def test_labels_that_are_written_alike_are_refused(words):
    with pytest.raises(LayerSelectError, match="writes the labels '☃' and '☂' alike"):
        Verbalizer(words, ["☃", "☂"])  # neither is in the vocabulary


def test_a_tokenizer_without_an_end_token_is_refused(words):
    words.eos_token = None
    with pytest.raises(LayerSelectError, match="no end token"):
        Verbalizer(words, LABELS)
