"""The figures of math reasoning: answers parsed and compared, losses per token, forgetting."""

from __future__ import annotations

import re
from fractions import Fraction

from torch import Tensor, nn

# MetaMath's and GSM8K's ways to announce the final answer (PEFT, method_comparison/MetaMathQA/utils.py)
DELIMITERS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", "#### ")


# No exponents: nobody writes an answer so, and as a fraction 1e999999999 takes minutes.
_NUMBER = re.compile(r"[+-]?\d+([./]\d+)?", re.ASCII)


def parse_answer(text: str) -> str | None:
    """The final answer in a chain of thought: what follows the last delimiter, up to the end of its line.

    None when no delimiter stands in the text. A percent or dollar sign and closing punctuation are dropped.
    """
    text = text.strip()
    found = [(text.rfind(delimiter), delimiter) for delimiter in DELIMITERS if delimiter in text]
    if not found:
        return None
    position, delimiter = max(found, key=lambda item: (item[0], len(item[1])))
    lines = text[position + len(delimiter) :].strip().splitlines()
    return lines[0].strip(" .!?$%") if lines else ""


def is_correct(prediction: str, response: str) -> bool:
    """Whether two chains of thought end in the same answer: as numbers (also `3/4`, `1,200`), else as text.

    Raises ValueError when `response`, the reference, holds no answer.
    """
    expected, obtained = parse_answer(response), parse_answer(prediction)
    if expected is None:
        raise ValueError(f"the reference holds no answer (none of {DELIMITERS}): {response!r}")
    if obtained is None:
        return False
    number = _number(expected)
    return obtained == expected if number is None else _number(obtained) == number


def _number(text: str) -> float | None:
    """The number that `text` writes out; a fraction is rounded as its decimals are: `20/35` is 0.5714285714285714."""
    text = text.replace(",", "").replace(" ", "")
    try:
        return float(Fraction(text)) if _NUMBER.fullmatch(text) else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def token_losses(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Cross-entropy of each token given those before it, in nats; NaN-free zeros where there is nothing to predict.

    logits: (batch, positions, vocabulary), where the last `input_ids.shape[1]` positions belong to the tokens
    (methods that prepend virtual tokens have more). input_ids, attention_mask: (batch, tokens), padded on the
    right. Returns (batch, tokens - 1).
    """
    tokens = input_ids.shape[1]
    logits = logits[:, -tokens:][:, :-1].float()
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
    return losses.masked_fill(attention_mask[:, 1:] == 0, 0.0)


def forgetting(before: Tensor, after: Tensor) -> float:
    """Rise of the mean per-token cross-entropy on general text, in nats; lower is better, 0 is nothing forgotten.

    before, after: losses of shape (tokens,), of the base model and of the trained one, over the same tokens.
    Raises ValueError when the shapes differ or there is no token. A loss that is not finite gives NaN.
    """
    if before.shape != after.shape or before.numel() == 0:
        raise ValueError(f"losses over the same tokens expected, found shapes {before.shape} and {after.shape}")
    return float((after.double() - before.double()).mean())
