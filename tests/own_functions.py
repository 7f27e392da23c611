"""The functions of this package: their names, and how to give them others while something runs."""

import ast
import inspect
import sys
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType

import pytest_peftbench

PACKAGE = Path(pytest_peftbench.__file__).parent
NEW_NAME = "renamed"


def own_names():
    """Qualified names of all functions of the package, without `<locals>`, as owners of operators have them."""
    return {name for file in PACKAGE.rglob("*.py") for name in _names(ast.parse(file.read_text(encoding="utf-8")), ())}


def _names(node, outer):
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
        inner = (*outer, child.name) if is_function or isinstance(child, ast.ClassDef) else outer
        if is_function:
            yield ".".join(inner)
        yield from _names(child, inner)


def owners_of(*rows_by_phase):
    """Who owns the rows of operators or of tensors, without telling forward from backward."""
    rows = [row for phases in rows_by_phase for phase in phases.values() for row in phase]
    return {row.partition(" @ ")[2].removesuffix(" (backward)") for row in rows}


@contextmanager
def all_renamed():
    """Every function of the package that is imported has another name, and so have those inside it."""
    before = [(function, function.__code__, function.__qualname__) for function in _functions()]
    try:
        for function, code, _ in before:
            function.__code__ = _renamed(code)
            function.__qualname__ = NEW_NAME
        yield
    finally:
        for function, code, name in before:
            function.__code__, function.__qualname__ = code, name


def _functions():
    """The functions of all imported modules of the package and of their classes, each once."""
    name = pytest_peftbench.__name__
    modules = [module for key, module in sys.modules.items() if key == name or key.startswith(f"{name}.")]
    values = [value for module in modules for value in vars(module).values()]
    classes = [value for value in values if isinstance(value, type) and value.__module__.startswith(name)]
    members = [value for cls in classes for value in vars(cls).values()]
    found = {id(function): function for value in [*values, *members] for function in _inside(value)}
    return [function for function in found.values() if Path(function.__code__.co_filename).is_relative_to(PACKAGE)]


def _inside(value):
    """The functions behind a module's or a class's attribute: wrapped ones and those of properties too."""
    if isinstance(value, property):
        inner = [value.fget, value.fset]
    elif isinstance(value, cached_property):
        inner = [value.func]
    else:
        inner = [getattr(value, "__func__", value)]
    for function in inner:
        while function is not None:
            if isinstance(function, FunctionType):
                yield function
            function = inspect.getattr_static(function, "__wrapped__", None)


def _renamed(code):
    consts = tuple(_renamed(const) if isinstance(const, CodeType) else const for const in code.co_consts)
    names = {"co_name": NEW_NAME}
    if sys.version_info >= (3, 11):
        names["co_qualname"] = NEW_NAME
    return code.replace(co_consts=consts, **names)
