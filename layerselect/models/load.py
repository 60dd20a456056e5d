"""Pretrained models: from a folder or a hub id to a model, its tokenizer, and what in it was never trained."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from ..errors import LayerSelectError
from ..layers.find import split_parameters
from ..layers.stacks import has_forward
from .configuration import head_of, read_configuration
from .folders import checked_source, held_in
from .fresh import fresh_modules, in_full_precision, wake
from .held_sizes import no_larger_than
from .holding import Holding, check_holding, check_placed, check_quantized, keep_holding
from .load_errors import sentence_of
from .running import reads_ahead
from .tokenizers import pad_on, saved_tokenizer, separates_pairs
from .traits import called_in_a_pass, find_traits, reason
from .vocabulary import embedding_rows, settle_end, settle_padding

logger = logging.getLogger(__name__)

#: Put between the two parts of a pair where the tokenizer puts nothing there (most decoders').
PAIR_SEPARATOR = "\n=>\n"


@dataclass
class LoadedModel:
    """A model that is ready for adapters.

    Attributes:
        model: as its :class:`~layerselect.models.holding.Holding` says, in evaluation mode; what no pretraining has
            reached is float32.
        tokenizer: has a padding token.
        source: what the user asked for.
        layer_names: qualified names of the layers that run on a text, in forward order; those of a tower for images do
            not.
        fresh: qualified names of the modules outside the layers that no pretraining has reached.
        separator: text to put between the parts of a pair, ``None`` where the tokenizer separates them.
        writes: it writes verbalizer words; otherwise it has a classification head.
    """

    model: nn.Module
    tokenizer: Any
    source: str
    layer_names: list[str]
    fresh: list[str] = field(default_factory=list)
    separator: str | None = None
    writes: bool = False


def load_classifier(
    source: str | Path,
    labels: Sequence[str],
    *,
    multi_label: bool,
    dropout: float | None = None,
    holding: Holding | None = None,
) -> LoadedModel:
    """Loads a pretrained encoder, decoder or encoder-decoder with a classification head for ``labels``.

    No code from a repository is run and no pickle is read. A head of another size in the checkpoint is
    replaced. The head starts from the global random generator: seed it first.

    Args:
        source: a folder written by ``save_pretrained``, or a hub id.
        labels: the names of the classes, in class order.
        multi_label: several labels may be right at once (sigmoid) or exactly one (softmax).
        dropout: overrides the checkpoint's hidden and attention dropout where its configuration has them.
        holding: how the weights are held, and where; without it in float32 on the CPU.

    Raises:
        LayerSelectError: no such folder or hub id, no safetensors weights, no such architecture, or no layers; or the
            machine cannot hold a model so.
    """
    name = checked_source(source)
    overrides = head_of(labels, multi_label=multi_label)
    model, tokenizer, missing = _load(name, AutoModelForSequenceClassification, dropout, overrides, holding)
    loaded = prepare(model, tokenizer, str(source), missing)
    find_traits(loaded.model, loaded.source, pad=loaded.tokenizer.pad_token_id, writes=False)
    return loaded


def load_causal_lm(source: str | Path, *, dropout: float | None = None, holding: Holding | None = None) -> LoadedModel:
    """Loads a pretrained decoder with its language-model head, to write verbalizer words or revisions.

    As :func:`load_classifier`; nothing is added to the model.

    Raises:
        LayerSelectError: as :func:`load_classifier`; or the model does not write: an encoder, an encoder-decoder, a
            checkpoint without a language-model head, a tokenizer without an end token.
    """
    name = checked_source(source)
    model, tokenizer, missing = _load(name, AutoModelForCausalLM, dropout, {}, holding)
    try:
        ahead = reads_ahead(model)
    except Exception as error:  # what other people's models raise
        raise LayerSelectError(f"{str(source)!r} cannot be run on the tokens of a text: {reason(error)}") from error
    if ahead:
        raise LayerSelectError(
            f"{str(source)!r} reads its input in both directions and so cannot write: use a decoder (to predict "
            "intentions, --head classifier)"
        )
    head = model.get_output_embeddings()
    lacks = [f"{path}.weight" for path, module in model.named_modules() if head is not None and module is head]
    if head is None or set(lacks) & set(missing):
        raise LayerSelectError(
            f"the checkpoint {str(source)!r} has no language-model head and so cannot write: use another one (to "
            "predict intentions, --head classifier)"
        )
    loaded = prepare(model, tokenizer, str(source), missing, writes=True)
    find_traits(loaded.model, loaded.source, pad=loaded.tokenizer.pad_token_id, writes=True)
    return loaded


def _load(
    name: str, auto: Any, dropout: float | None, overrides: dict[str, Any], holding: Holding | None
) -> tuple[nn.Module, Any, list[str]]:
    """Model, tokenizer, and the names of the parameters that no checkpoint filled."""
    holding = holding or Holding()
    check_holding(holding)
    try:
        config = read_configuration(name, dropout, overrides, holding)
        tokenizer = saved_tokenizer(name)
        with no_larger_than(held_in(Path(name)) if Path(name).is_dir() else None, name):
            model, info = auto.from_pretrained(
                name,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **loading_arguments(auto, config, holding),
            )
    except LayerSelectError:
        raise
    except Exception as error:  # configurations, tokenizers and models of all makes raise whatever they like
        raise LayerSelectError(sentence_of(name, error)) from error
    model = placed_as_asked(model, holding, name)
    return model, tokenizer, [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]


def loading_arguments(auto: Any, config: Any, holding: Holding) -> dict[str, Any]:
    """What ``from_pretrained`` is given about how the model is held."""
    if holding.quantize == "none":
        return holding.arguments()
    with torch.device("meta"):
        blank = auto.from_config(config)
    layers = split_parameters(blank).names
    linear = [path for path, module in blank.named_modules() if isinstance(module, nn.Linear)]
    return holding.arguments(path for path in linear if not _inside(path, layers))


def placed_as_asked(model: nn.Module, holding: Holding, source: str) -> nn.Module:
    """The model on its device, with a note of how it is held."""
    keep_holding(model, holding)
    check_quantized(model, holding, source)
    check_placed(model, source)
    stays = holding.places_itself or holding.on_host or holding.device == "cpu"
    return model if stays else model.to(holding.place)


def prepare(
    model: nn.Module, tokenizer: Any, source: str, missing_keys: Sequence[str], *, writes: bool = False
) -> LoadedModel:
    """Settles padding and separators and finds layers and fresh modules of a model however it was made.

    Args:
        missing_keys: qualified names of the parameters that no checkpoint filled.
        writes: the model is to write.

    Raises:
        LayerSelectError: the model has no stack of layers, or its tokenizer no token to pad with.
    """
    rows = embedding_rows(model)
    if writes:
        settle_end(tokenizer, model.config, rows, source)
    settle_padding(tokenizer, rows, source)
    # A decoder's head reads the last token that is not padding; without this number it reads the padding.
    model.config.pad_token_id = tokenizer.pad_token_id
    pad_on(tokenizer, writes=writes)
    model.eval()
    every = split_parameters(model).names
    called = called_in_a_pass(model, pad=tokenizer.pad_token_id, writes=writes)
    layer_names = [name for name in every if _runs(name, called)] or every
    if len(layer_names) < len(every):
        logger.warning(
            "%s: %d of its %d layers do not run on a text (%s, ...): they take no part",
            source,
            len(every) - len(layer_names),
            len(every),
            next(name for name in every if name not in layer_names),
        )
    trained_in_part = [key for key in missing_keys if _inside(key, layer_names)]
    if trained_in_part and len(trained_in_part) < sum(_inside(n, layer_names) for n, _ in model.named_parameters()):
        logger.warning(
            "the checkpoint %s lacks %d weights of the layers (%s, ...): they start at random",
            source,
            len(trained_in_part),
            sorted(trained_in_part)[0],
        )
    fresh = [name for name in fresh_modules(model, missing_keys, every) if _may_run(model, name, called)]
    logger.info("trained whole, because no pretraining reached them: %s", ", ".join(fresh) or "none")
    if woken := wake(model, fresh):
        logger.info("scaled up, because their initial values are very small: %s", ", ".join(woken))
    in_full_precision(model, fresh)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        source=source,
        layer_names=layer_names,
        fresh=fresh,
        separator=None if separates_pairs(tokenizer) and not writes else PAIR_SEPARATOR,
        writes=writes,
    )


def quiet_transformers() -> None:
    """Switches off the loading bars and reports of ``transformers``, for programs with a display of their own."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def model_identity(model: nn.Module) -> dict[str, Any]:
    """What tells one architecture from another, to recognise an adapter that belongs to a different model."""
    config = model.config.to_dict()
    keys = (
        "model_type",
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "d_model",
        "num_layers",
        "n_embd",
        "n_layer",
    )
    return {key: config[key] for key in keys if config.get(key) is not None}


def _inside(name: str, layer_names: Sequence[str]) -> bool:
    return any(name.startswith(layer + ".") for layer in layer_names)


def _runs(name: str, called: Collection[str] | None) -> bool:
    """Whether a module, or one in it, was called."""
    return called is None or any(other == name or other.startswith(name + ".") for other in called)


def _may_run(model: nn.Module, name: str, called: Collection[str] | None) -> bool:
    """Whether what stands around a module was called: some modules are read by what holds them, and never called
    themselves.
    """
    around = name.rpartition(".")[0]
    while around and not has_forward(model.get_submodule(around)):
        around = around.rpartition(".")[0]
    return _runs(name, called) or not around or _runs(around, called)
