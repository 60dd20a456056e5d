"""What SECURITY.md promises about files of strangers, held against the sources of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import layerselect
import pytest

SOURCES = sorted(Path(layerselect.__file__).parent.rglob("*.py"))
#: Modules whose loaders run what they read.
LOADERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: Of this one, what runs nothing.
SAFE_YAML = {"safe_load", "safe_dump", "YAMLError"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {("torch", "load"), ("torch", "hub"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle")}


def breaches(tree: ast.AST) -> list[str]:
    """What a file of the package must not hold."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [f"line {node.lineno} imports {name}" for name in names if name.partition(".")[0] in LOADERS]
            plain = isinstance(node, ast.Import) and all(alias.asname is None for alias in node.names)
            found += [f"line {node.lineno} imports {name}" for name in names if name[:4] == "yaml" and not plain]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            unsafe = node.value.id == "yaml" and node.attr not in SAFE_YAML
            if unsafe or (node.value.id, node.attr) in METHODS:
                found.append(f"line {node.lineno} uses {node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                found.append(f"line {node.lineno} calls {node.func.id}")
            for word in node.keywords:
                trusted = not (isinstance(word.value, ast.Constant) and word.value.value is False)
                if word.arg in ("trust_remote_code", "allow_pickle") and trusted:
                    found.append(f"line {node.lineno} sets {word.arg}")
    return found


def test_nothing_in_the_package_runs_what_it_reads():
    found = {path.name: breaches(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert len(SOURCES) > 100


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from yaml import load",
        "import yaml as other",
        "import yaml; yaml.load('x')",
        "import yaml; yaml.unsafe_load('x')",
        "import torch; torch.load('x')",
        "eval('1')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=trusted)",
    ],
)
def test_the_search_finds(line):
    assert breaches(ast.parse(line))
