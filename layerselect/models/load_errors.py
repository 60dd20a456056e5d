"""One sentence out of the many that the loading of a model can fail with."""

from __future__ import annotations

import re
from pathlib import Path

_CONFIGURATION = re.compile(r"\.(\w+)Config'>")


def sentence_of(name: str, error: Exception) -> str:
    """What to say of ``error``, which was raised when the model ``name`` (a folder or a hub id) was loaded."""
    text = " ".join(str(error).split())
    is_folder = Path(name).is_dir()
    if "trust_remote_code" in text:
        return f"the model {name!r} needs code from its repository, which is never run here; choose another model"
    if "not implemented for 'Byte'" in text or "not implemented for 'Char'" in text:
        return (
            f"the weights of {name!r} are quantized, and no new head can be made beside them: use --head generate, or "
            "the checkpoint that they were made of, with --quantize"
        )
    if "attention implementation" in text or "attn_implementation" in text:
        return (
            f"the model {name!r} does not compute attention in that way ({text[:120]}): use --attention auto or eager"
        )
    if "AutoModelForCausalLM" in text:
        return (
            f"the model {name!r} is no decoder and so cannot write: use one (to predict intentions, --head classifier)"
        )
    if "AutoModelForSequenceClassification" in text:
        named = found[1] if (found := _CONFIGURATION.search(text)) else "this family"
        return (
            f"the model {name!r} cannot classify sequences: this version of transformers has no such head for "
            f"{named} (a decoder can write the labels: --head generate)"
        )
    if "should have a `model_type`" in text.lower():
        return (
            f"the config.json of {name!r} names no model_type, so nobody knows what it is: take it from where the "
            "model was made"
        )
    if "model type" in text or "Unrecognized model" in text:
        return f"the model {name!r} is of a family that this version of transformers does not know: {text[:200]}"
    if "tokenizer" in text.lower() or "sentencepiece" in text or "tiktoken" in text:
        return f"the tokenizer of {name!r} cannot be loaded: {text[:200]}"
    if isinstance(error, ImportError):
        return f"the model {name!r} needs a package that is not installed: {text[:200]}"
    if not is_folder and "connect" in text:
        return (
            f"{name!r} is no folder here, and the model hub cannot be reached to look for it; check the path or the "
            "network"
        )
    if not is_folder and ("safetensors" in text or "no file named" in text.lower()):
        return (
            f"the model {name!r} has no weights in safetensors format at the hub, and no others are read: choose "
            "another model"
        )
    if not is_folder:
        return (
            f"{name!r} is neither a folder here nor a model that the hub gave ({text[:160]}); check the name or the "
            "network"
        )
    return f"the model in {name!r} cannot be loaded: {type(error).__name__}: {text[:300]}"
