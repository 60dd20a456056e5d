"""Programs for model cards: how the input of a trained model is made, and how the model is loaded without this
package.
"""

from __future__ import annotations

from ...models.model_card import public_name

#: What the programs of a card call the place of the adapter.
_FOLDER = 'folder = "."  # where this file lies'


def loading(kind: str, *, writes: bool) -> str:
    """A program that loads tokenizer and model as ``tokenizer`` and ``model``.

    Args:
        kind: of the adapter; ``none``: the model is whole.
        writes: the model writes; otherwise it has a classification head.
    """
    name = "CausalLM" if writes else "SequenceClassification"
    auto = f"AutoModelFor{name}" if kind == "none" else f"AutoPeftModelFor{name}"
    lines = ["import torch"]
    if kind == "none":
        lines.append(f"from transformers import {auto}, AutoTokenizer")
    else:
        lines += [*_own(kind), f"from peft import {auto}", "from transformers import AutoTokenizer"]
    return "\n".join(
        [
            *lines,
            *(["from layerselect.tasks.text.completions import prompt_tokens"] if writes else []),
            "",
            _FOLDER,
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f"model = {auto}.from_pretrained(folder{', dtype=torch.float32' if writes else ''}).eval()",
        ]
    )


def loading_elsewhere(kind: str, base_model: str, *, writes: bool) -> str:
    """A program that loads the model on a base model in another place; "" for a whole model."""
    if kind == "none":
        return ""
    name = "CausalLM" if writes else "SequenceClassification"
    base = f"{public_name(base_model)!r}  # a hub id, or its folder" if base_model else 'f"{folder}/base"'
    place = _FOLDER
    lines = [*(["import torch"] if writes else []), *_own(kind), "from peft import PeftModel"]
    if writes:
        options = "dtype=torch.float32"
        lines += [f"from transformers import AutoModelFor{name}", "", place, f"base = {base}"]
    else:
        lines += [f"from transformers import AutoConfig, AutoModelFor{name}", "", place, f"base = {base}"]
        lines.append('config = AutoConfig.from_pretrained(f"{folder}/base")')
        options = "config=config, ignore_mismatched_sizes=True"
    lines.append(f"plain = AutoModelFor{name}.from_pretrained(base, {options})")
    return "\n".join([*lines, "model = PeftModel.from_pretrained(plain, folder).eval()"])


def writing(max_new_tokens: int) -> str:
    """A program that lets the loaded model write behind ``text``, without chance."""
    return "\n".join(
        [
            "prompt = torch.tensor([prompt_tokens(tokenizer, text)])",
            "written = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), "
            f"max_new_tokens={max_new_tokens}, do_sample=False)",
            "found = tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True).strip()",
            "print(found)",
        ]
    )


def _own(kind: str) -> list[str]:
    """What makes peft know an adapter of ours."""
    known = not kind.startswith("bottleneck")
    return [] if known else ["import layerselect.models.bottleneck  # makes peft know this kind of adapter"]
