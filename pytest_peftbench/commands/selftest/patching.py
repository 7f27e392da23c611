"""Changes the source of functions while the program runs, and puts everything back."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any


class StaleEdit(LookupError):
    """An edit that no longer fits: the target, or the text in it, is gone."""


@dataclass(frozen=True)
class Edit:
    """Another text in a function's source.

    target: `module:function` or `module:Class.method`, where it is defined and not where it is inherited. old, new:
    the text there and what takes its place; further lines of `new` are indented like the line in which `old` starts.
    times: how often `old` stands there.
    """

    target: str
    old: str
    new: str
    times: int = 1

    def apply(self, source: str) -> str:
        """The edited source. Raises StaleEdit when `old` is not there just as often as expected."""
        found = source.count(self.old)
        if found != self.times:
            raise StaleEdit(f"{self.target}: holds this {found} times, expected {self.times}:\n{self.old}")
        edited, *rest = source.split(self.old)
        for part in rest:
            line = edited.rpartition("\n")[2]
            indent = line[: len(line) - len(line.lstrip())]
            edited += self.new.replace("\n", f"\n{indent}") + part
        return edited


@contextmanager
def patched(edits: Sequence[Edit]) -> Iterator[None]:
    """Apply `edits` while the body runs, those of one function together. Raises StaleEdit, with nothing changed.

    A function keeps its identity and gets other code, so that it changes wherever it was imported to or decorated.
    """
    by_target: dict[str, list[Edit]] = {}
    for edit in edits:
        by_target.setdefault(edit.target, []).append(edit)
    replacements = [(function_at(target), group) for target, group in by_target.items()]
    codes = [(function, function.__code__, _edited(function, group)) for function, group in replacements]
    with ExitStack() as restore:
        for function, original, edited in codes:
            restore.callback(setattr, function, "__code__", original)
            function.__code__ = edited
        yield


def function_at(target: str) -> FunctionType:
    """The function that the target names, below decorators, a property or a bound class."""
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    try:
        owner: Any = import_module(module)
        for part in classes:
            owner = getattr(owner, part)
    except (ImportError, AttributeError) as error:
        raise StaleEdit(f"{target}: {error}") from error
    if name not in vars(owner):
        raise StaleEdit(f"{target}: {owner.__name__} does not define {name!r}")
    found: Any = vars(owner)[name]
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    function = inspect.unwrap(found)
    if not isinstance(function, FunctionType):
        raise StaleEdit(f"{target}: is no function written in Python")
    if captured := set(function.__code__.co_freevars) - {"__class__"}:
        raise StaleEdit(f"{target}: made inside another function, whose {', '.join(sorted(captured))} it reads")
    return function


def _edited(function: FunctionType, edits: Sequence[Edit]) -> CodeType:
    """The code of the edited source, in the function's own file and line.

    It is compiled inside a function whose argument is `__class__`, which is where `super()` looks for its class.
    """
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        source = edit.apply(source)
    # global: a method may call a function of its own name
    head = f"def _define(__class__):\n global {function.__code__.co_name}\n"
    tree = ast.parse(head + textwrap.indent(source, " "))
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 3)
    (define,) = _codes(compile(tree, function.__code__.co_filename, "exec"))
    (code,) = (code for code in _codes(define) if code.co_name == function.__code__.co_name)
    # by this name the counters tell whose operators they count
    return code.replace(co_qualname=function.__qualname__) if sys.version_info >= (3, 11) else code


def _codes(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]
