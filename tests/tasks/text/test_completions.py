"""Completions: their tokens, their batches, and their loss against a plain computation over whole sequences."""

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.tokenizers import load_tokenizer
from layerselect.tasks.text.completions import (
    CompletionCollator,
    CompletionSplit,
    base_of,
    completion_loss,
    completion_tokens,
    prompt_tokens,
)

from tests.helpers.models import hugging_face, with_lora

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]
COMPLETIONS = [[20, 21, 2], [23, 24, 25, 26, 2], [2]]
TOKENS = sum(map(len, COMPLETIONS))


def split():
    return CompletionSplit("train", [{"id": str(n)} for n in range(3)], PROMPTS, COMPLETIONS)


def batch_of(examples, pad=0):
    return CompletionCollator(pad)([examples[i] for i in range(len(examples))])


def plain_loss(model):
    """The model's own loss of each whole sequence, unpadded, with no label on the prompt; the mean over the tokens."""
    total = 0.0
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = torch.tensor([prompt + completion])
        labels = torch.tensor([[-100] * len(prompt) + completion])
        total = total + model(input_ids=ids, labels=labels).loss * len(completion)
    return total / TOKENS


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_loss_is_that_of_whole_sequences_without_labels_on_the_prompt(name):
    model = hugging_face(name).double().eval()
    loss, tokens = completion_loss(model, batch_of(split()))
    expected = plain_loss(model)
    assert tokens == TOKENS
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(model, loss), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-7)


def test_with_weights_the_loss_is_the_weighted_mean():
    """Against the model's own probabilities of each token, one sequence at a time."""
    weights = [[1.0, 4.0, 1.0], [2.0, 1.0, 1.0, 0.5, 1.0], [3.0]]
    model = hugging_face("llama").double().eval()
    examples = CompletionSplit("train", [{}] * 3, PROMPTS, COMPLETIONS, weights)
    total = 0.0
    for prompt, completion, each in zip(PROMPTS, COMPLETIONS, weights, strict=True):
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        total = total - (logits.log_softmax(-1)[range(len(completion)), completion] * torch.tensor(each)).sum()
    loss, whole = completion_loss(model, batch_of(examples))
    assert whole == sum(map(sum, weights))
    torch.testing.assert_close(loss, (total / whole).float(), rtol=1e-5, atol=1e-6)
    weightless = {"prompt": [5], "completion": [6, 2]}
    mixed = CompletionCollator(0)([examples[2], weightless])
    assert mixed["answer_weights"].tolist() == [[3.0, 0.0], [1.0, 1.0]]
    reversed_ = batch_of(examples.subset([2, 1, 0]))
    assert reversed_["answer_weights"].tolist() == [[3.0, 0, 0, 0, 0], weights[1], [*weights[0], 0, 0]]
    ones = CompletionSplit("train", [{}] * 3, PROMPTS, COMPLETIONS, [[1.0] * len(each) for each in COMPLETIONS])
    assert completion_loss(model, batch_of(ones))[0] == completion_loss(model, batch_of(split()))[0]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_prompt_has_no_loss(name):
    """Were it trained to be written, the output layer's gradient would differ: it is that of five positions alone."""
    model = hugging_face(name).eval()
    prompt, completion = PROMPTS[0], COMPLETIONS[1]
    loss, _ = completion_loss(model, batch_of(CompletionSplit("train", [{}], [prompt], [completion])))
    grad = gradients(model, loss)
    with torch.no_grad():
        body = model.model if name == "llama" else model.transformer
        hidden = body(torch.tensor([prompt + completion])).last_hidden_state[0, len(prompt) - 1 : -1]
        p = model.lm_head(hidden).softmax(-1)
        p[torch.arange(5), completion] -= 1
    if name == "llama":
        torch.testing.assert_close(grad["lm_head.weight"], p.T @ hidden / 5, rtol=1e-3, atol=1e-6)
    else:  # the same weights embed the input, where token 40 does not occur
        torch.testing.assert_close(grad["transformer.wte.weight"][40], (p.T @ hidden / 5)[40], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_changes_nothing(name):
    model = hugging_face(name).double().eval()
    alone = [completion_loss(model, batch_of(split().subset([i]))) for i in range(3)]
    expected = sum(loss * tokens for loss, tokens in alone) / TOKENS
    for pad in (0, 2, 33):
        batch = batch_of(split(), pad)
        batch["answer_ids"][batch["answer_mask"] == 0] = pad
        torch.testing.assert_close(completion_loss(model, batch)[0], expected, rtol=1e-5, atol=1e-6)


def test_an_adapter_is_trained_through_it():
    model = with_lora(hugging_face("llama"))
    loss, _ = completion_loss(model, batch_of(split()))
    grad = gradients(model, loss)
    assert grad and all("lora" in name for name in grad)
    assert type(base_of(model)).__name__ == "LlamaForCausalLM"


def test_a_batch_has_prompts_on_the_right_and_completions_on_the_left():
    batch = batch_of(split(), pad=3)
    assert sorted(batch) == ["answer_ids", "answer_mask", "attention_mask", "input_ids"]
    assert batch["input_ids"].tolist() == [PROMPTS[0], [3, 3, 3, 3, 3, 12, 13], [3, 3, 3, 14, 15, 16, 17]]
    assert batch["attention_mask"].tolist() == [[1] * 7, [0] * 5 + [1] * 2, [0] * 3 + [1] * 4]
    assert batch["answer_ids"].tolist() == [[20, 21, 2, 0, 0], COMPLETIONS[1], [2, 0, 0, 0, 0]]
    assert batch["answer_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5, [1, 0, 0, 0, 0]]


def test_a_split_knows_its_lengths_and_its_parts():
    whole = split()
    assert whole.lengths == [10, 7, 5] and len(whole) == 3
    part = whole.subset([2, 0], "probe")
    assert (part.name, part.lengths, part.rows) == ("probe", [5, 10], [{"id": "2"}, {"id": "0"}])
    assert part[0] == {"prompt": PROMPTS[2], "completion": COMPLETIONS[2]}
    with pytest.raises(ValueError):
        CompletionSplit("train", [{}], PROMPTS, COMPLETIONS)


def word_tokenizer(pieces, pre_tokenizer):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("scheme", ["first", "always", "never", "doubled"])
def test_a_completion_is_tokenized_as_it_stands_behind_the_prompt(scheme):
    """Tokenizers that mark a space, and put such a mark in front of every text or not."""
    from tokenizers import normalizers, pre_tokenizers

    pieces = [
        "<unk>",
        "</s>",
        "▁",
        "Text",
        "▁Text",
        "\nRevised:",
        "▁\nRevised:",
        "Revised:",
        "▁Revised:",
        "▁he",
        "▁went",
    ]
    if scheme == "doubled":  # as Llama 2: a mark in front of every text, though it begins with a space
        tokenizer = word_tokenizer(pieces, pre_tokenizers.Split("▁", "merged_with_next"))
        tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        assert tokenizer.tokenize(" he") == ["▁", "▁he"]
    else:
        tokenizer = word_tokenizer(pieces, pre_tokenizers.Metaspace(prepend_scheme=scheme))
    prompt = "Text \nRevised:"
    tokens = completion_tokens(tokenizer, prompt, "he went")
    assert tokenizer.convert_ids_to_tokens(tokens) == ["▁he", "▁went", "</s>"]
    assert [*prompt_tokens(tokenizer, prompt), *tokens[:-1]] == tokenizer(f"{prompt} he went")["input_ids"]


def test_a_tokenizer_that_joins_the_cue_with_what_follows_is_given_the_completion_alone():
    from tokenizers import pre_tokenizers

    tokenizer = word_tokenizer(
        ["<unk>", "</s>", "Revised: yes", " yes", "Revised:"], pre_tokenizers.Split("|", "removed")
    )
    assert completion_tokens(tokenizer, "Revised:", "yes") == [3, 1]


def test_a_prompt_is_left_open(bert_folder, llama_folder):
    closing = load_tokenizer(bert_folder)  # [CLS] ... [SEP]
    closing.eos_token = "[SEP]"
    assert closing.decode(closing("The baker")["input_ids"]) == "[CLS] The baker [SEP]"
    assert closing.decode(prompt_tokens(closing, "The baker")) == "[CLS] The baker"
    opened = load_tokenizer(llama_folder)
    assert opened.decode(prompt_tokens(opened, "The baker")) == "The baker"


def test_a_completion_ends_with_the_end_token(llama_folder):
    tokenizer = load_tokenizer(llama_folder)
    assert tokenizer.decode(completion_tokens(tokenizer, "clarity :", "the market")) == "the market [SEP]"
    assert completion_tokens(tokenizer, "clarity :", "") == [tokenizer.eos_token_id]
    tokenizer.eos_token = None
    with pytest.raises(LayerSelectError, match="no end token"):
        completion_tokens(tokenizer, "clarity :", "the market")
