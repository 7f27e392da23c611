import math

import pytest
import torch

from pytest_peftbench.tasks.math_reasoning.scores import forgetting, is_correct, parse_answer, token_losses


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The dot product is $4^2 = \\boxed{16}$.The answer is: 16", "16"),
        ("The answer is 16", "16"),
        ("The final answer is: 16", "16"),
        ("The final answer is 16", "16"),
        ("She has 40 + 2 eggs.\n#### 42", "42"),
    ],
)
def test_an_answer_is_found_behind_each_of_the_announcements_that_peft_knows(text, answer):
    assert parse_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is: 16\n", "16"),
        ("The answer is: 16.", "16"),
        ("The answer is: 16!?", "16"),
        ("The answer is: 16\n\nQuestion: And now?", "16"),
        ("The answer is: $5", "5"),
        ("#### 50%", "50"),
        ("#### 1,200", "1,200"),
        ("The answer is: \\frac{1}{2}", "\\frac{1}{2}"),
    ],
)
def test_what_surrounds_the_answer_is_cut_off(text, answer):
    assert parse_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "The answer is: 1. No, the answer is wrong. The answer is: 2",
        "The answer is: 1\n#### 2",
        "#### 1\nThe answer is 2",
        "The answer is 1. The final answer is: 2",
    ],
)
def test_the_last_announced_answer_counts(text):
    assert parse_answer(text) == "2"


@pytest.mark.parametrize("text", ["", "sixteen", "The answer: 16", "####16", "the answer is: 16", "The answer is:"])
def test_a_text_that_announces_nothing_has_no_answer(text):
    assert parse_answer(text) is None


def test_an_announced_answer_of_punctuation_alone_is_empty():
    assert parse_answer("The answer is: $.") == ""


@pytest.mark.parametrize(
    ("obtained", "expected"),
    [
        ("16", "16"),
        ("16.0", "16"),
        ("1,200", "1200"),
        ("1200", "1,200"),
        ("1 200", "1200"),
        ("3/4", "0.75"),
        ("6/8", "3/4"),
        ("0.5714285714285714", "20/35"),
        ("-3", "-3.00"),
        ("$5", "5"),
        ("50%", "50"),
        ("x + 1", "x + 1"),
        ("1/0", "1/0"),
    ],
)
def test_equal_answers_are_correct_however_they_are_written(obtained, expected):
    assert is_correct(f"So. The answer is: {obtained}", f"Thus.\n#### {expected}")


@pytest.mark.parametrize(
    ("obtained", "expected"),
    [
        ("16", "17"),
        ("1,200", "1.2"),
        ("-16", "16"),
        ("3/4", "4/3"),
        ("x + 1", "1 + x"),
        ("sixteen", "16"),
        ("1e1", "10"),  # nobody writes an answer so, and 1e999999999 takes minutes to compare
        ("9e999999999", "9"),
        ("1_0", "10"),
        ("nan", "0"),
        ("16", "x"),
    ],
)
def test_other_answers_are_wrong(obtained, expected):
    assert not is_correct(f"The answer is: {obtained}", f"#### {expected}")


def test_no_answer_is_a_wrong_answer():
    assert not is_correct("I do not know.", "#### 16")
    assert not is_correct("", "#### 16")
    assert not is_correct("The answer is: .", "#### 16")


def test_a_reference_without_an_answer_is_an_error_that_shows_it():
    with pytest.raises(ValueError, match=r"holds no answer.*nothing to see here"):
        is_correct("The answer is: 16", "nothing to see here")


def reference_losses(logits, ids, mask):
    """Cross-entropy token by token, in plain Python."""
    losses = torch.zeros(ids.shape[0], ids.shape[1] - 1)
    for row in range(ids.shape[0]):
        for position in range(1, ids.shape[1]):
            if mask[row, position]:
                scores = [math.exp(score) for score in logits[row, position - 1].tolist()]
                losses[row, position - 1] = -math.log(scores[ids[row, position]] / sum(scores))
    return losses


def batch(seed=0, rows=3, tokens=6, vocabulary=11):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, tokens, vocabulary, generator=generator)
    ids = torch.randint(vocabulary, (rows, tokens), generator=generator)
    mask = torch.tensor([[1] * tokens, [1] * 4 + [0] * (tokens - 4), [1, 1] + [0] * (tokens - 2)])
    return logits, ids, mask


def test_token_losses_are_those_of_the_next_token_and_zero_at_padding():
    logits, ids, mask = batch()

    losses = token_losses(logits, ids, mask)

    assert torch.allclose(losses, reference_losses(logits, ids, mask), atol=1e-5)
    assert (losses == 0).tolist() == (mask[:, 1:] == 0).tolist()


def test_virtual_tokens_before_the_text_leave_the_losses_as_they_are():
    logits, ids, mask = batch()
    with_virtual_tokens = torch.cat([torch.randn(3, 4, 11), logits], dim=1)

    assert torch.equal(token_losses(with_virtual_tokens, ids, mask), token_losses(logits, ids, mask))


def test_nan_at_padding_does_not_reach_the_losses_but_nan_at_a_token_does():
    logits, ids, mask = batch()
    logits[1, 4:] = math.nan

    assert torch.isfinite(token_losses(logits, ids, mask)).all()

    logits[1, 0] = math.nan
    assert torch.isnan(token_losses(logits, ids, mask)).nonzero().tolist() == [[1, 0]]


def test_losses_of_half_precision_logits_are_computed_in_float32():
    logits, ids, mask = batch()

    losses = token_losses(logits.bfloat16(), ids, mask)

    assert losses.dtype == torch.float32
    assert torch.equal(losses, token_losses(logits.bfloat16().float(), ids, mask))


def test_forgetting_is_positive_when_the_losses_rose():
    before, after = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0])

    assert forgetting(before, after) == 0.25
    assert forgetting(after, before) == -0.25
    assert forgetting(before, before) == 0


def test_forgetting_sees_a_difference_that_a_float32_sum_would_lose():
    before = torch.full((200_000,), 4.0)
    after = before.clone()
    after[0] += 1e-3

    assert forgetting(before, after) == pytest.approx(1e-3 / 200_000, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_gives_no_number_to_pass_with(bad):
    losses = torch.tensor([bad, 2.0])

    assert math.isnan(forgetting(losses, losses))


@pytest.mark.parametrize(("before", "after"), [((3,), (2,)), ((0,), (0,)), ((2, 1), (2,))])
def test_forgetting_of_other_tokens_or_of_none_is_an_error(before, after):
    with pytest.raises(ValueError, match="same tokens"):
        forgetting(torch.zeros(before), torch.zeros(after))
