"""``import layerselect`` brings no torch, and every public name is there all the same."""

import pickle
import pydoc
import subprocess
import sys
import typing
from pathlib import Path

import layerselect
import pytest

_SCRIPT = """
import sys
import layerselect
assert "torch" not in sys.modules and "numpy" not in sys.modules
names = {}
exec("from layerselect import *", names)
missing = set(layerselect.__all__) - set(names)
assert not missing, missing
assert layerselect.state_cache.StateStore and layerselect.errors.LayerSelectError is names["LayerSelectError"]
"""


def test_names_are_imported_when_asked_for(environment):
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["nothing", "", "a.b", "../setup", "é", "\ud800", "nul\0", "_nothing", "__nothing__"])
def test_other_names_are_not_there(name):
    assert not hasattr(layerselect, name)


def test_help_dir_and_pickle():
    assert set(layerselect.__all__) <= set(dir(layerselect))
    assert "class FastSelector" in pydoc.plain(pydoc.render_doc(layerselect))
    for name in layerselect.__all__:
        value = getattr(layerselect, name)
        assert name == "__version__" or pickle.loads(pickle.dumps(value)) is value


def test_a_checker_of_types_sees_the_same_names():
    """What it reads are the imports that do not run; and they are all of them."""
    text = Path(layerselect.__file__).read_text(encoding="utf-8")
    assert not typing.TYPE_CHECKING
    names: dict[str, object] = {}
    block = text.split("if TYPE_CHECKING:\n")[1].split("\n__all__")[0]
    exec("if True:\n" + block.replace("from .", "from layerselect."), names)
    seen = {name for name in names if not name.startswith("__")}
    assert seen == set(layerselect.__all__) - {"__version__"}
    assert all(names[name] is getattr(layerselect, name) for name in seen)
