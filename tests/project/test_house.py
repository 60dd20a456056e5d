"""The house keeps its walls: rooms, no circles, a library that knows nothing of the application, few files in the
hallway, no long files.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import layerselect

PACKAGE = Path(layerselect.__file__).parent
ROOT = Path(__file__).parents[2]
#: What stands on the library and may be reached from it nowhere; ``__main__`` is the door to it.
APPLICATION = {"tasks", "data", "models", "metrics", "report", "cli", "transfer"}
DOORS = {"layerselect.__main__"}
LINES, COLUMNS = 300, 120
NATIVE = (".cpp", ".h", ".cu", ".cuh")
#: Files of the package and of its core that have more lines, each with the reason.
LONGER = {
    "layerselect/selector/selector.py": "the public class: a third is the docstrings of its arguments and methods",
    "layerselect/tasks/run/settings.py": "the options that all runs share, each with its help text",
    "layerselect/tasks/revise/cutting.py": "a quarter is a table of abbreviations, one to a line",
}


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> set[str]:
    """The modules of the package that it imports anywhere, inside functions and for type checkers, too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base)
    return found & set(MODULES)


@functools.cache
def imports() -> dict[str, set[str]]:
    """Of every module; not read where the tests are only collected."""
    return {module: imports_of(module) for module in MODULES}


def room(module: str) -> str:
    """The folder of a module below the package's; the tasks' are rooms of their own."""
    parts = module.split(".")[1:] if MODULES[module].name == "__init__.py" else module.split(".")[1:-1]
    return ".".join(parts[:2] if parts[:1] == ["tasks"] else parts[:1])


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach one another (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_modules_import_one_another():
    assert circles(imports()) == []


def test_no_rooms_import_one_another():
    rooms: dict[str, set[str]] = {room(module): set() for module in MODULES}
    for module, imported in imports().items():
        rooms[room(module)] |= {room(other) for other in imported} - {room(module), ""}
    rooms[""] = set()  # the hallway: what all may import, and what opens the public names
    assert circles(rooms) == []


def test_the_library_does_not_reach_into_the_application():
    reached = {
        f"{module} imports {other}"
        for module, imported in imports().items()
        if room(module).partition(".")[0] not in APPLICATION and module not in DOORS
        for other in imported
        if room(other).partition(".")[0] in APPLICATION
    }
    assert reached == set()


def test_the_hallway_is_short():
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def sources(*suffixes: str) -> dict[str, str]:
    """The files of the package and of its core with such names: the path of each and what is in it."""
    return {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_text(encoding="utf-8")
        for folder in (PACKAGE, ROOT / "csrc")
        for path in folder.rglob("*")
        if path.suffix in suffixes
    }


def too_long(content: str, limit: int) -> list[int]:
    """The numbers of the lines with more than ``limit`` characters."""
    return [number for number, line in enumerate(content.splitlines(), 1) if len(line) > limit]


def test_files_are_short_or_have_a_reason():
    files = sources(".py", *NATIVE)
    found = {name for name, content in files.items() if len(content.splitlines()) > LINES}
    assert found == set(LONGER)  # a reason that is not needed any more goes


def test_lines_of_the_core_are_short():
    """Those of Python are ruff's to check."""
    files = sources(*NATIVE)
    assert files and [name for name, content in files.items() if too_long(content, COLUMNS)] == []


def test_the_map_of_tests_names_what_is_there():
    """``tests/README.md`` says which files hold a feature."""
    tests = ROOT / "tests"
    rows = [row for row in (tests / "README.md").read_text(encoding="utf-8").splitlines() if row.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`([\w/*]+(?:/|\.py))`", row.split(" | ")[1])]
    assert len(named) > 40 and [name for name in named if not list(tests.glob(name))] == []


def test_a_long_line_is_found():
    assert too_long(f"short\n{'x' * 121}\n{'x' * 120}", COLUMNS) == [2]


def test_every_room_says_what_it_is():
    for module in MODULES:
        assert ast.get_docstring(tree_of(module)), module


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e", "f"}, "f": {"e"}}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["e", "f"]]


def test_the_library_needs_none_of_the_application_packages():
    """In a process in which they cannot be imported. `make check-install` does the same where they are not
    installed.
    """
    library = sorted(
        m for m in MODULES if room(m).partition(".")[0] not in APPLICATION | {"integrations"} and m not in DOORS
    )
    program = """
import importlib, sys
class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"transformers", "peft", "accelerate", "datasets", "sklearn", "pandas", "openpyxl",
                                      "jinja2", "matplotlib", "rouge_score", "gguf", "trl", "scipy"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nowhere())
for module in sys.argv[1:]:
    importlib.import_module(module)
"""
    done = subprocess.run([sys.executable, "-c", program, *library], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr[-1500:]
