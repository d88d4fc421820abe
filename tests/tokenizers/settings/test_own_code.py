"""Classes of the user's own file: named with it, and found only where it was handed over."""

import re
import sys
from dataclasses import dataclass
from typing import ClassVar, get_type_hints

import pytest

from tokenizers.base import Values
from tokenizers.modality import Modality
from tokenizers.settings.checked import Checked, allowed_value
from tokenizers.settings.own_code import (
    HANDED_OVER,
    CodeNeeded,
    file_of,
    find_class,
    handed_over,
    is_own,
    run_file,
)
from tokenizers.settings.plain import classes_of, from_plain, to_plain, up_to_date

FILE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Smell:
    strength: int = 1
"""


@pytest.fixture
def smells(tmp_path):
    """Hands over a file that defines a class, and takes it back."""
    before = set(sys.modules)
    (tmp_path / "smells.py").write_text(FILE)
    yield run_file(tmp_path / "smells.py")
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_class_is_named_with_its_file_and_read_back(smells):
    made = smells.Smell(3)
    plain = to_plain({"a": made})
    assert plain == {"a": {"class": "Smell", "from": "smells.py", "strength": 3}}
    assert from_plain(plain, dict[str, object]) == {"a": made}
    assert file_of(smells.Smell) == "smells.py" and is_own(smells.Smell)
    assert [file.name for file in handed_over()][-1] == "smells.py"


def test_a_file_that_was_not_handed_over_is_asked_for(smells):
    plain = to_plain(smells.Smell())
    del sys.modules[f"{HANDED_OVER}smells"]
    with pytest.raises(CodeNeeded, match=r"'Smell' is defined in smells\.py, .*--code smells\.py"):
        from_plain(plain, object)


def test_a_class_is_found_wherever_its_file_went(smells, tmp_path):
    """Under the name of a module that was imported, or of another file that was handed over."""
    del sys.modules[f"{HANDED_OVER}smells"]
    sys.modules["smells"] = smells
    assert find_class("Smell", "smells.py") is smells.Smell
    del sys.modules["smells"]
    (tmp_path / "renamed.py").write_text(FILE)
    renamed = run_file(tmp_path / "renamed.py")
    assert find_class("Smell", "smells.py") is renamed.Smell
    before = to_plain(smells.Smell(2))
    assert up_to_date(before, classes_of(renamed.Smell())) == to_plain(renamed.Smell(2))


@pytest.mark.parametrize(("name", "file"), [("Popen", "subprocess.py"), ("ndarray", "numpy.py")])
def test_what_others_define_is_never_taken_for_the_users_own(name, file):
    with pytest.raises(CodeNeeded, match="is defined in"):
        find_class(name, file)


def test_a_file_that_fails_is_named_with_its_line(tmp_path):
    (tmp_path / "wrong.py").write_text("a = 1\nb = a / 0\n")
    with pytest.raises(ValueError, match=r"wrong\.py, line 2, can't be used: ZeroDivisionError"):
        run_file(tmp_path / "wrong.py")
    with pytest.raises(ValueError, match="There is no configuration file"):
        run_file(tmp_path / "none.py")


@dataclass(frozen=True)
class Taste(Checked):
    """A kind that lacks most of what one has."""

    metrics: ClassVar = {"likeness": "higher"}

    def check(self, value, name):
        return value


def test_a_kind_that_lacks_something_is_told_what():
    with pytest.raises(ValueError, match=re.escape("lacks crop, score, floor, draw; it must meet")):
        allowed_value(get_type_hints(Modality)["values"], Taste(), "Modality.values")
    assert not isinstance(Taste(), Values)
