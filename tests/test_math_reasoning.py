from dataclasses import replace
from itertools import islice

import peft
import pytest
import torch
import transformers
from support import DEFAULTS

from pytest_peftbench.cases.methods import needs_of
from pytest_peftbench.results.files import InputError
from pytest_peftbench.tasks.config import Place
from pytest_peftbench.tasks.math_reasoning import task as math_reasoning
from pytest_peftbench.tasks.math_reasoning.data import Problem
from pytest_peftbench.tasks.math_reasoning.scores import is_correct, parse_answer
from pytest_peftbench.tasks.math_reasoning.spec import MathTrainConfig
from pytest_peftbench.tasks.math_reasoning.task import IGNORE, MathReasoning

EOS = 2
HERE = Place()


def config(**params):
    return MathTrainConfig(**{**DEFAULTS, "batch_size": 4, "batch_size_eval": 3, **params})


def load_data(**params):
    return MathReasoning.load_data(config(**params), HERE)


def load_base_model(place=HERE, **params):
    return MathReasoning.load_base_model(config(**params), place)


def task_on(data, **params):
    return MathReasoning(config(**params), HERE, data)


@pytest.fixture(scope="module")
def data():
    return load_data()


@pytest.fixture(scope="module")
def few(data):
    """Texts of many lengths, and few of everything else."""
    texts = sorted(data.train, key=len)[:: len(data.train) // 100][:100]
    return replace(data, train=texts, valid=data.valid[:4], test=data.test[:5], documents=data.documents[:4])


@pytest.fixture(scope="module")
def base():
    return load_base_model().eval()


# Data


def test_a_training_text_is_prompt_response_and_the_end_token(data):
    text = data.tokenizer.decode(data.train[0])

    assert text.startswith("Question: ")
    assert " Think step by step.\nAnswer: " in text
    assert parse_answer(text)
    assert all(ids[-1] == data.tokenizer.eos_token_id for ids in data.train if len(ids) < 128)


def test_texts_and_prompts_are_cut_at_the_longest_allowed_length():
    short = load_data(max_seq_length=16)

    assert {len(ids) for ids in short.train} == {16}
    assert max(len(problem.prompt) for problem in short.test) == 16


def test_the_digest_tells_data_of_another_prompt_or_length_apart(data):
    again = load_data()
    other = load_data(query_template="Q: {query}")
    shorter = load_data(max_seq_length=16)

    assert again.digest == data.digest
    assert len({data.digest, other.digest, shorter.digest}) == 3


def test_each_reference_holds_an_answer(data):
    assert all(is_correct(problem.response, problem.response) for problem in [*data.valid, *data.test])


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_quantised_base_model_needs_bitsandbytes(monkeypatch, dtype):
    monkeypatch.setattr(math_reasoning, "installed", lambda package: "not installed")

    with pytest.raises(InputError, match=f"dtype: '{dtype}' needs bitsandbytes; pip install bitsandbytes"):
        load_base_model(dtype=dtype)


@pytest.mark.parametrize(("dtype", "bits"), [("int8", "load_in_8bit"), ("int4", "load_in_4bit")])
def test_a_quantised_base_model_is_made_on_its_device_by_bitsandbytes(monkeypatch, dtype, bits):
    asked = {}

    def from_pretrained(path, **kwargs):
        asked.update(kwargs)
        return torch.nn.Module(), {"missing_keys": [], "mismatched_keys": []}

    monkeypatch.setattr(math_reasoning, "installed", lambda package: "0.49.2")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_pretrained)

    load_base_model(Place("cuda:1"), dtype=dtype)

    assert asked["device_map"] == "cuda:1"
    assert "dtype" not in asked
    assert [name for name in ("load_in_8bit", "load_in_4bit") if getattr(asked["quantization_config"], name)] == [bits]


def test_gradient_checkpointing_and_the_type_of_the_weights_are_as_the_parameters_say():
    model = load_base_model(use_gc=True, dtype="bfloat16")

    assert model.is_gradient_checkpointing
    assert model.dtype == torch.bfloat16


# Batches


def batches(data, seed=0, count=None):
    task = task_on(data)
    per_epoch = -(-len(data.train) // task.config.batch_size)
    return list(islice(task.batches(seed), count or per_epoch))


def texts_of(batch):
    return [
        tuple(ids[mask == 1].tolist()) for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def test_padding_is_ignored_and_every_other_token_counts_the_query_too(few):
    for batch in batches(few):
        padding = batch["attention_mask"] == 0
        assert (batch["labels"][padding] == IGNORE).all()
        assert torch.equal(batch["labels"][~padding], batch["input_ids"][~padding])


def test_the_end_token_of_each_text_counts_that_of_the_longest_too(few):
    assert few.tokenizer.pad_token_id == few.tokenizer.eos_token_id == EOS
    for batch in batches(few):
        ends = (batch["labels"] == EOS).sum(dim=1)
        assert ends.tolist() == [1] * len(ends)
        longest = batch["attention_mask"].sum(dim=1).argmax()
        assert batch["labels"][longest, -1] == EOS


def test_padding_stands_on_the_right_and_is_no_longer_than_needed(few):
    for batch in batches(few):
        mask = batch["attention_mask"]
        assert mask[:, 0].all()
        assert (mask.diff(dim=1) <= 0).all()
        assert mask[:, -1].any()


def test_an_epoch_holds_each_text_once_and_so_does_the_next_in_another_order(few):
    both = batches(few, count=50)
    first, second = ([text for batch in half for text in texts_of(batch)] for half in (both[:25], both[25:]))

    assert sorted(first) == sorted(second) == sorted(map(tuple, few.train))
    assert first != second


def test_a_batch_holds_texts_of_similar_length(few):
    lengths = [[len(text) for text in texts_of(batch)] for batch in batches(few)]
    spread = sum(max(batch) - min(batch) for batch in lengths) / len(lengths)
    overall = max(map(len, few.train)) - min(map(len, few.train))

    assert spread < overall / 4


def test_long_and_short_batches_take_turns(few):
    longest = [max(len(text) for text in texts_of(batch)) for batch in batches(few)[:20]]

    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_the_order_depends_on_the_seed(few):
    order = [texts_of(batch) for batch in batches(few, seed=0)]

    assert [texts_of(batch) for batch in batches(few, seed=0)] == order
    assert [texts_of(batch) for batch in batches(few, seed=1)] != order


def test_data_that_do_not_fit_the_parameters_are_told_before_anything_is_trained(few):
    def problems(**params):
        return list(task_on(few, **params).problems())

    assert problems() == []
    assert list(task_on(replace(few, train=[])).problems()) == [
        "model_id: its data hold no training text of at most 1300 characters"
    ]
    for split in ("valid", "test", "documents"):
        assert list(task_on(replace(few, **{split: []})).problems()) == [f"model_id: its data hold nothing for {split}"]
    rows = len(few.train)
    assert problems(batch_size=rows) == []
    assert problems(batch_size=rows + 1) == [
        f"batch_size: must be at most the number of training texts, {rows}, is {rows + 1}"
    ]
    (short,) = problems(generation_kwargs={"max_length": 3})
    assert "generation_kwargs: max_length must be above the longest prompt's" in short
    (junk,) = problems(generation_kwargs={"max_new_tokens": 4, "cache_implementation": "junk"})
    assert "generation_kwargs: Invalid `cache_implementation` (junk)" in junk


# Evaluation


class Parrot(torch.nn.Module):
    """Answers the prompt at position i of the test set with the i-th answer."""

    def __init__(self, data, answers):
        super().__init__()
        self.data = data
        self.answers = iter(answers)

    def generate(self, input_ids, attention_mask, generation_config, **extra):
        replies = self.data.tokenizer([next(self.answers) for _ in input_ids], padding=True, return_tensors="pt")
        return torch.cat([input_ids, replies["input_ids"]], dim=1)


def no_inputs(size):
    return {}


def test_accuracy_is_the_share_of_problems_whose_answer_is_right(few):
    problems = [Problem(few.test[0].prompt, f"#### {number}") for number in (1, 2, 3, 4)]
    model = Parrot(few, ["The answer is: 1", "The answer is: 3", "I do not know", "So. The answer is: 4.0"])

    valid = task_on(replace(few, valid=problems)).validate(model, no_inputs)

    assert valid == {"valid_accuracy": 0.5}


def test_samples_tell_each_problem_and_each_document_in_order(few, base):
    problems = [Problem(few.test[0].prompt, f"#### {number}") for number in (1, 2, 3)]
    model = Parrot(few, ["The answer is: 1", "The answer is: 3", "The answer is: 3"])
    model.forward = base.forward
    task = task_on(replace(few, test=problems))

    evaluation = task.evaluate(model, no_inputs, task.reference(base))

    assert evaluation.samples == {"test_correct": "101", "forgetting_per_document": [0.0] * 4}
    assert evaluation.metrics == {"test_accuracy": pytest.approx(2 / 3), "forgetting": 0.0}


class Counter(torch.nn.Module):
    """Answers each prompt with the number of its tokens, and remembers the batches."""

    def __init__(self, data):
        super().__init__()
        self.data = data
        self.batches = []

    def generate(self, input_ids, attention_mask, generation_config, **extra):
        lengths = attention_mask.sum(1).tolist()
        self.batches.append(lengths)
        replies = [f"The answer is: {length}" for length in lengths]
        return torch.cat([input_ids, self.data.tokenizer(replies, padding=True, return_tensors="pt").input_ids], dim=1)


def test_prompts_of_similar_length_share_a_batch_and_results_keep_the_given_order(few, base):
    lengths = (9, 5, 12, 7, 5, 10)
    problems = [Problem([4] * length, f"#### {length if length > 6 else 0}") for length in lengths]
    model = Counter(few)
    model.forward = base.forward

    task = task_on(replace(few, test=problems))

    evaluation = task.evaluate(model, no_inputs, task.reference(base))

    assert evaluation.samples["test_correct"] == "101101"
    assert model.batches == [[12, 10, 9], [7, 5, 5]]


def test_a_model_that_lost_its_language_has_forgotten(few, base):
    broken = load_base_model().eval()
    with torch.no_grad():
        broken.lm_head.weight.mul_(0.1)

    task = task_on(few)
    evaluation = task.evaluate(broken, no_inputs, task.reference(base))

    assert evaluation.metrics["forgetting"] > 0.5
    assert all(rise > 0 for rise in evaluation.samples["forgetting_per_document"])


def test_long_documents_of_a_large_vocabulary_are_not_taken_all_at_once(few, base, monkeypatch):
    longest = max(len(ids) for ids in few.documents)
    monkeypatch.setattr(math_reasoning, "_MOST_LOGITS", 2 * longest * len(few.tokenizer))
    sizes = []

    def forward(**batch):
        sizes.append(len(batch["input_ids"]))
        return base(**batch)

    losses = task_on(few).reference(forward)

    assert sizes == [2, 2]
    assert [len(found) for found in losses] == [len(ids) - 1 for ids in few.documents]


def test_losses_on_documents_do_not_depend_on_the_batch_they_stand_in(few, base):
    together = task_on(few, batch_size_eval=4).reference(base)
    alone = task_on(few, batch_size_eval=1).reference(base)

    assert [len(losses) for losses in together] == [len(ids) - 1 for ids in few.documents]
    for first, second in zip(together, alone, strict=True):
        assert torch.allclose(first, second, atol=1e-4)


def test_decoding_takes_exactly_the_steps_asked_for(few, base):
    calls = []
    handle = base.lm_head.register_forward_hook(lambda *args: calls.append(1))
    try:
        task_on(few).decode(base, 5, no_inputs)
    finally:
        handle.remove()

    assert len(calls) == 5


def test_both_limits_of_generation_may_be_given_as_peft_s_parameters_do(few, base):
    task = task_on(few, generation_kwargs={"max_length": 800, "max_new_tokens": 2})

    assert set(task.validate(base, no_inputs)) == {"valid_accuracy"}


def test_virtual_tokens_are_cut_off_the_output(few):
    adapter = peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_base_model(), adapter).eval()
    task = task_on(few)
    batch = task.probe_batch()

    assert task.output(model, batch).shape[:2] == batch["input_ids"].shape


def test_what_the_method_needs_in_each_forward_reaches_forward_and_generate(few, base):
    adapter = peft.PolyConfig(r=2, n_tasks=1, n_skills=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(load_base_model(), adapter).eval()
    seen = []
    inputs = needs_of({"peft_type": "POLY"}).inputs

    def spy(size):
        seen.append(size)
        return inputs(size)

    task = task_on(few)
    evaluation = task.evaluate(model, spy, task.reference(base))

    assert seen == [3, 2, 3, 1]  # two batches of problems, two of documents
    assert evaluation.metrics["forgetting"] == 0.0
