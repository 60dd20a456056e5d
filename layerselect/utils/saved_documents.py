"""Documents that users keep and hand on: one JSON file each, with the name and the version of its schema."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LayerSelectError
from .saved_files import DamagedFile, read_json
from .saved_words import shown
from .user_paths import user_path


@dataclass(frozen=True)
class DocumentKind:
    """A kind of document, and what is said of one that cannot be read.

    Attributes:
        schema: its name in the file.
        versions: those that are read; the last one is written.
        file: its name in a folder.
        name, title: what people call it, in a sentence and by itself.
        command: makes one.
        again: what to do with a damaged one, as the end of a sentence.
    """

    schema: str
    versions: tuple[int, ...]
    file: str
    name: str
    title: str
    command: str
    again: str

    def stamped(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with the schema and the version that is written."""
        return {"schema": self.schema, "version": self.versions[-1], **values}

    def file_at(self, path: str | Path) -> Path:
        """The file that a path means: the one of its own name in a folder."""
        place = user_path(path, f"the {self.name}")
        return place / self.file if place.is_dir() else place

    def write(self, path: str | Path, values: Mapping[str, Any]) -> Path:
        """Writes stamped values, whole or not at all; into a file of its own name where ``path`` is a folder."""
        place = self.file_at(path)
        aside = place.with_name(place.name + ".new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, allow_nan=False, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(place)
        return place

    def read(self, path: str | Path) -> tuple[Any, str]:
        """The JSON values in a file, or in the one of its own name in a folder; and which file that was.

        Raises:
            LayerSelectError: it is not there, or holds no JSON.
        """
        place = self.file_at(path)
        try:
            return read_json(place, advice=self.again), str(place)
        except DamagedFile as error:
            if error.missing:
                raise LayerSelectError(
                    f"the {self.name} {str(place)!r} cannot be read ({error.why}): make one with {self.command!r}"
                ) from error
            raise LayerSelectError(f"{str(place)!r} is not a {self.name}: {error.why}; {self.again}") from error

    def unstamped(self, values: Any, where: str) -> dict[str, Any]:
        """The values without schema and version.

        Raises:
            LayerSelectError: they are of another schema, or of a version that is not read.
        """
        if not isinstance(values, Mapping) or values.get("schema") != self.schema:
            raise LayerSelectError(f"{where!r} is not a {self.title}: make one with {self.command!r}")
        if values.get("version") not in self.versions:
            raise LayerSelectError(
                f"{where!r} is a {self.title} of version {shown(values.get('version'))}, and this package reads "
                f"{' and '.join(map(str, self.versions))}: {self.again} or install the version that wrote it"
            )
        return {name: value for name, value in values.items() if name not in ("schema", "version")}
