"""Puts a finished adapter on the model hub."""

from __future__ import annotations

from pathlib import Path

from ...errors import LayerSelectError
from ...models.adapter_files import ADAPTER
from .settings import TrainingSettings


def publish(folder: Path, config: TrainingSettings) -> str:
    """Puts the adapter of a finished run, with its card, on the model hub.

    Args:
        folder: of the run.

    Returns:
        Its address.

    Raises:
        LayerSelectError: the hub does not take it. The run is finished nevertheless.
    """
    from huggingface_hub import HfApi

    name = config.hub_model_id or folder.name
    api = HfApi()
    try:
        place = api.create_repo(name, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=place, folder_path=folder / ADAPTER, commit_message="A trained adapter"))
    except Exception as error:  # what the network and the hub have to say
        text = " ".join(str(error).split())[:200]
        raise LayerSelectError(
            f"the run is finished in {str(folder)!r}, but the hub did not take its adapter as {name!r} "
            f"({type(error).__name__}: {text}): put it there with 'hf upload {name} {folder / ADAPTER}'"
        ) from error
