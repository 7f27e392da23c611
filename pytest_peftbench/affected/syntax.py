"""Whether a change to a Python file is one to its code."""

from __future__ import annotations

import ast


def is_same_code(old: bytes, new: bytes) -> bool:
    """Whether two sources differ in comments, docstrings and layout alone; no where either cannot be parsed."""
    try:
        return _code(old) == _code(new)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _code(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):  # a lambda's is no list
            body[:] = [statement for statement in body if not _is_text(statement)]
    return ast.dump(tree)


def _is_text(statement: ast.AST) -> bool:
    """Whether it is a text that nobody takes, such as a docstring."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
