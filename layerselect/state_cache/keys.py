"""Which examples are in a batch: a key for each, the same whatever the example is padded with.

What the layers below a cut make of a token depends on the example's tokens and on where they stand. So a key is a hash
of what the model is given of the example, padding left out: token ids, token types, whatever else has a row for each
example. Positions belong to it. Where the model is told ``position_ids``, those of the tokens count. Where it is not,
it counts from the left end of the batch, padding included: then it counts how far from there the example begins, which
is nothing under padding on the right.

The decoder of an encoder-decoder is often given nothing but labels, of which the model makes its inputs. Behind the
last label that counts, they are padding. Where it makes them of something else, everything counts, padding included.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import LayerSelectError

#: The name under which a batch may carry its :class:`BatchKeys` to the model's call.
CARRIED = "cache_keys"

_KEY_BYTES = 16
_NO_LABEL = -100  # as torch's losses and transformers have it
#: Says nothing about hidden states.
_IGNORED = {
    CARRIED,
    "return_dict",
    "use_cache",
    "num_items_in_batch",
    "output_attentions",
    "output_hidden_states",
    "logits_to_keep",
    "cache_position",
    "label",
    "label_ids",
}
#: Say where one example of a packed row ends and the next begins.
_PACKING = ("cu_seq", "seq_idx", "sequence_ids", "max_length_q")


@dataclass(frozen=True)
class BatchKeys:
    """The examples of a batch.

    Attributes:
        keys: 16 bytes for each example.
        masks: for each stack of the model, bool [B, T] on the host: what is not padding; ``None`` where nothing is
            said.
        asks_padding: the first token behind padding has a label, and a causal language model would predict it from
            padding.
    """

    keys: tuple[bytes, ...]
    masks: tuple[Tensor | None, ...]
    asks_padding: bool = False


def keys_of(
    inputs: Mapping[str, Any], stacks: int = 1, *, shifts_labels: bool = False, decoder_below: bool = True
) -> BatchKeys:
    """The keys of a batch.

    Args:
        inputs: what the model is called with, by name; tensors on the host, or the host waits for them.
        stacks: 2 for an encoder-decoder, whose decoder's inputs are called ``decoder_...``.
        shifts_labels: it makes the decoder's inputs of the labels, moved on by one place, where it is given no other.
        decoder_below: whether states of the decoder are kept, too.

    Raises:
        LayerSelectError: there is no tensor in it; or several examples share a row (packing); or the attention mask is
            not one of zeros and ones for each token.
    """
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and name not in _IGNORED}
    _refuse_packing(inputs)
    labels = tensors.get("labels")
    if stacks > 1 and not decoder_below:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("decoder_")}
    has_decoder = stacks > 1 and decoder_below
    decoder_is_given = not {"decoder_input_ids", "decoder_inputs_embeds"}.isdisjoint(tensors)
    if not has_decoder or decoder_is_given:
        tensors.pop("labels", None)  # else the decoder's inputs may be made of them
    size = batch_size(tensors)
    groups = ("", "decoder_")[: 1 + has_decoder]
    masks = [_mask(tensors.pop(f"{group}attention_mask", None), f"{group}attention_mask", size) for group in groups]
    shifted = has_decoder and not decoder_is_given and shifts_labels and _are_tokens(labels)
    if shifted and labels is not None and masks[1] is None:
        masks[1] = _up_to_the_last(labels)
    hashes = [hashlib.blake2b(digest_size=_KEY_BYTES) for _ in range(size)]
    for group, mask in zip(groups, masks, strict=True):
        if mask is not None and f"{group}position_ids" not in tensors:
            for row, digest in zip(mask, hashes, strict=True):
                _add_places(digest, group, row)
    # What the decoder makes its inputs of is not known then: what stands where there is padding may count, too.
    whole = has_decoder and not decoder_is_given and not shifted
    for name in sorted(tensors):
        in_decoder = has_decoder and (name.startswith("decoder_") or name == "labels")
        _add(hashes, name, tensors[name], size, None if whole else masks[1 if in_decoder else 0])
    if whole and masks[0] is not None:
        for row, digest in zip(masks[0], hashes, strict=True):
            digest.update(np.packbits(row).data)
    there = tuple(None if mask is None else torch.from_numpy(mask) for mask in masks)
    return BatchKeys(
        tuple(digest.digest() for digest in hashes),
        there + (None,) * (stacks - len(there)),
        labels is not None and stacks == 1 and _asks_padding(masks[0], labels),
    )


def batch_size(inputs: Mapping[str, Any]) -> int:
    """The number of examples.

    Raises:
        LayerSelectError: no tensor says it.
    """
    named = [inputs[name] for name in ("input_ids", "inputs_embeds", "decoder_input_ids") if name in inputs]
    for value in (*named, *inputs.values()):
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
    raise LayerSelectError(
        "the model is called without a tensor, so the store of hidden states cannot tell examples apart"
    )


def _mask(value: Tensor | None, name: str, size: int) -> np.ndarray | None:
    if value is None:
        return None
    if value.ndim != 2 or len(value) != size:
        raise LayerSelectError(
            f"{name} is {list(value.shape)}: the store of hidden states needs one of [examples, tokens], since masks "
            "of another form let several examples share a row (packing); turn packing off, or train with "
            "state_cache='none'"
        )
    mask = value.detach().cpu()
    if not ((mask == 0) | (mask == 1)).all():
        raise LayerSelectError(
            f"{name} holds more than zeros and ones, so the store of hidden states cannot tell padding"
        )
    known: np.ndarray = (mask != 0).numpy()
    return known


def _are_tokens(labels: Tensor | None) -> bool:
    return labels is not None and labels.ndim == 2 and not labels.is_floating_point()


def _up_to_the_last(labels: Tensor) -> np.ndarray:
    """True up to the last label that counts: the token behind it is what its place predicts."""
    counts = _array(labels) != _NO_LABEL
    up_to_it: np.ndarray = np.logical_or.accumulate(counts[:, ::-1], axis=1)[:, ::-1].copy()
    return up_to_it


def _asks_padding(mask: np.ndarray | None, labels: Tensor) -> bool:
    if mask is None or labels.shape != mask.shape:
        return False
    asked = _array(labels) != _NO_LABEL
    return bool((~mask[:, :-1] & mask[:, 1:] & asked[:, 1:]).any())


def _refuse_packing(inputs: Mapping[str, Any]) -> None:
    found = next((n for n, v in inputs.items() if v is not None and n.startswith(_PACKING)), None)
    if found is not None:
        raise LayerSelectError(
            f"the model is called with {found}: several examples share a row (packing), and the store of hidden "
            "states keeps them one by one; turn packing off, or train with state_cache='none'"
        )


def _add_places(digest: Any, group: str, row: np.ndarray) -> None:
    places = np.flatnonzero(row)
    if len(places) and places[-1] != len(places) - 1:  # not flush left
        digest.update(f"{group}from".encode())
        contiguous = places[-1] - places[0] + 1 == len(places)
        digest.update((places[:1] if contiguous else places).astype(np.int64).tobytes())


def _add(hashes: list[Any], name: str, value: Tensor, size: int, mask: np.ndarray | None) -> None:
    array = _array(value)
    is_position = name.endswith("position_ids") and array.ndim == 2
    if is_position and len(array) == 1:
        array = np.repeat(array, size, axis=0)
    label = f"\0{name}\0{value.dtype}\0".encode()
    if name.endswith("position_ids") and array.ndim == 3 and array.shape[1] == size:  # of several kinds of positions
        array = np.ascontiguousarray(array.swapaxes(0, 1))
        mask = None
    if array.ndim == 0 or len(array) != size or name.endswith("head_mask"):  # the same for all
        content = label + str(array.shape).encode() + array.tobytes()
        for digest in hashes:
            digest.update(content)
        return
    padded = mask is not None and array.shape[:2] == mask.shape
    for i, digest in enumerate(hashes):
        row = array[i][mask[i]] if padded and mask is not None else array[i]
        if is_position:
            _check_positions(name, row)
        digest.update(label + str(row.shape).encode())
        digest.update(np.ascontiguousarray(row).data)


def _check_positions(name: str, row: np.ndarray) -> None:
    if len(row) > 1 and (np.diff(row) != 1).any():
        raise LayerSelectError(
            f"{name} start anew within a row: several examples share it (packing), and the store of hidden states "
            "keeps them one by one; turn packing off, or train with state_cache='none'"
        )


def _array(value: Tensor) -> np.ndarray:
    value = value.detach().cpu()
    return (value.view(torch.int16) if value.dtype == torch.bfloat16 else value).contiguous().numpy()
