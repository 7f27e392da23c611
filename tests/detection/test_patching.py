"""The one helper that injects faults: it refuses what no longer fits, and puts everything back."""

import sys
import traceback
from types import ModuleType

import pytest

from pytest_peftbench.commands.selftest.patching import Edit, StaleEdit, patched

SOURCE = '''
from contextlib import contextmanager

def double(x):
    return 2 * x

def twice(x):
    first = x + 1
    if first:
        second = x + 1
    return first, second

class Base:
    def double(self, x):
        return double(x) + 1

    def scale(self, x):
        return 10 * x

    def inherited(self):
        return "base"

class Layer(Base):
    def scale(self, x):
        """Text over
        two lines."""
        return super().scale(x) + 1

    @staticmethod
    def add(x):
        return x + 1

    @classmethod
    def name(cls):
        return cls.__name__.lower()

    @property
    def size(self):
        return 3

    @contextmanager
    def off(self):
        yield "off"

value = 1
builtin = len
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module with a source file, like one of PEFT's."""
    file = tmp_path / "victim.py"
    file.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "victim", raising=False)
    import victim

    yield victim
    sys.modules.pop("victim")


def test_an_edit_holds_while_the_body_runs_and_is_undone(module):
    original = module.double.__code__
    with patched([Edit("victim:double", "2 * x", "3 * x")]):
        assert module.double(2) == 6

    assert module.double.__code__ is original
    assert module.double(2) == 4


def test_a_method_may_call_a_function_of_its_own_name(module):
    with patched([Edit("victim:Base.double", "+ 1", "+ 10")]):
        assert module.Base().double(2) == 14

    assert module.Base().double(2) == 5


def test_a_function_changes_wherever_it_was_imported_to(module):
    double, bound = module.double, module.Layer().scale
    with patched([Edit("victim:double", "2 * x", "3 * x"), Edit("victim:Layer.scale", "+ 1", "+ 2")]):
        assert (double(2), bound(2)) == (6, 22)

    assert (double(2), bound(2)) == (4, 21)


def test_an_edited_function_keeps_its_qualified_name(module):
    with patched([Edit("victim:Layer.scale", "+ 1", "+ 2")]):
        assert module.Layer.scale.__qualname__ == "Layer.scale"
        if sys.version_info >= (3, 11):
            assert module.Layer.scale.__code__.co_qualname == "Layer.scale"


def test_everything_is_put_back_when_the_body_raises(module):
    with pytest.raises(ZeroDivisionError), patched([Edit("victim:Layer.add", "x + 1", "x / 0")]):
        module.Layer.add(1)

    assert module.Layer.add(1) == 2


@pytest.mark.parametrize(
    ("edit", "call", "edited"),
    [
        (Edit("victim:Layer.scale", "+ 1", "+ 2"), lambda layer: layer.scale(1), 12),  # through super()
        (Edit("victim:Layer.add", "+ 1", "+ 2"), lambda layer: layer.add(1), 3),
        (Edit("victim:Layer.name", "lower", "upper"), lambda layer: layer.name(), "LAYER"),
        (Edit("victim:Layer.size", "3", "4"), lambda layer: layer.size, 4),
        (Edit("victim:Layer.off", '"off"', '"on"'), lambda layer: layer.off().__enter__(), "on"),
    ],
    ids=["super", "static method", "class method", "property", "context manager"],
)
def test_each_kind_of_method_can_be_edited(module, edit, call, edited):
    before = call(module.Layer())
    with patched([edit]):
        assert call(module.Layer()) == edited

    assert call(module.Layer()) == before != edited


def test_several_edits_of_one_function_add_up(module):
    with patched(
        [Edit("victim:twice", "first = x + 1", "first = x"), Edit("victim:twice", "second = x", "second = -x")]
    ):
        assert module.twice(2) == (2, -1)


def test_further_lines_are_indented_like_the_line_that_they_replace(module):
    with patched([Edit("victim:twice", "second = x + 1", "second = 0\nfor _ in range(3):\n    second += x")]):
        assert module.twice(2) == (3, 6)


def test_a_text_that_stands_there_several_times_is_replaced_everywhere(module):
    with patched([Edit("victim:twice", "x + 1", "x + 1 + x + 1", times=2)]):
        assert module.twice(2) == (6, 6)


def test_a_traceback_names_the_file_and_line_of_the_edited_function(module):
    with patched([Edit("victim:double", "2 * x", "x / 0")]):
        try:
            module.double(1)
        except ZeroDivisionError as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]

    assert (frame.filename, frame.lineno) == (module.__file__, 5)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("victim:double", "4 * x", "5 * x"), "holds this 0 times, expected 1"),
        (Edit("victim:twice", "x + 1", "x"), "holds this 2 times, expected 1"),
        (Edit("victim:triple", "x", "y"), "victim does not define 'triple'"),
        (Edit("victim:Layer.inherited", "base", "layer"), "Layer does not define 'inherited'"),
        (Edit("victim:Gone.scale", "x", "y"), "has no attribute 'Gone'"),
        (Edit("no_such_module:double", "x", "y"), "No module named 'no_such_module'"),
        (Edit("victim:value", "1", "2"), "is no function written in Python"),
        (Edit("victim:builtin", "1", "2"), "is no function written in Python"),
    ],
)
def test_an_edit_that_no_longer_fits_is_refused_and_nothing_changes(module, edit, words):
    fits = Edit("victim:double", "2 * x", "3 * x")
    with pytest.raises(StaleEdit, match=words), patched([fits, edit]):
        pass

    assert module.double(2) == 4


def test_a_function_made_inside_another_is_refused(monkeypatch):
    def outer():
        hidden = 3

        def inner():
            return hidden

        return inner

    module = ModuleType("closures")
    module.inner = outer()
    monkeypatch.setitem(sys.modules, "closures", module)

    with pytest.raises(StaleEdit, match="hidden"), patched([Edit("closures:inner", "return", "return 1 +")]):
        pass
