import ast
import subprocess
import sys
from pathlib import Path

import configs


def test_the_names_for_checkers_are_those_that_are_imported_late():
    tree = ast.parse(Path(configs.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    named = {node.module: tuple(each.name for each in node.names) for node in block.body}
    assert {module: set(names) for module, names in named.items()} == {
        module: set(names) for module, names in configs.MODULES.items()
    }
    assert sorted(configs.__all__) == sorted(name for own in named.values() for name in own)


def test_every_name_is_there_and_others_are_not():
    assert all(getattr(configs, name) is not None for name in configs.__all__)
    assert not hasattr(configs, "Nothing")


def test_commands_can_begin_before_anything_large_is_imported():
    code = "import sys, configs; print('numpy' in sys.modules, 'jax' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "False False\n"
