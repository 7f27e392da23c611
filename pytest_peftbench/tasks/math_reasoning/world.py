"""Text for the embedded math task: what the base model reads in pretraining, and the benchmark's data.

The base model learns to reason in story form ("So 12+5=17, then 17-3=14. Tom ends up with 14 pens.") and sees
"Question:", "Answer:", "Think" and "####" only in other settings. Fine-tuning brings the two together: the
benchmark asks "Question: ... Think step by step.\\nAnswer:" and wants "12+5=17. 17-3=14. #### 14".

Everything is drawn from a `random.Random` that the caller seeds; the same seed gives the same text anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

NAMES = ["Tom", "Ana", "Ben", "Eva", "Sam", "Lily", "Max", "Zoe", "Leo", "Mia", "Ned", "Ida"]
ITEMS = ["apples", "coins", "books", "cards", "pens", "shells", "nuts", "stones", "cakes", "stamps"]
PLACES = ["river", "hill", "lake", "town", "forest", "island", "valley", "harbor", "desert", "village"]
ADJECTIVES = ["old", "quiet", "large", "small", "green", "cold", "bright", "famous", "narrow", "deep"]
ANIMALS = ["foxes", "owls", "deer", "crows", "hares", "otters", "bees", "swans", "wolves", "trout"]
DIRECTIONS = ["north", "south", "east", "west"]
FIRST_SYLLABLES = ["Bel", "Kor", "Mar", "Tan", "Vel", "Sor", "Lin", "Dra"]
LAST_SYLLABLES = ["da", "no", "mi", "ra", "tus", "len", "vik", "sha"]

BENCHMARK_PROMPT = "Question: {query} Think step by step.\nAnswer:"
MAX_TOTAL = 60
LARGEST_FACTOR = 7
PRIMER_DOCUMENTS = 12_000
HELD_OUT_MODULUS = 12
TITLE_MODULUS = 8


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a problem: each of `steps`, (operator, operand), is applied to `start` in turn."""

    start: int
    steps: tuple[tuple[str, int], ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The start and the operands in order."""
        return (self.start, *(operand for _, operand in self.steps))

    @property
    def equations(self) -> list[str]:
        """One "12+5=17" for each step."""
        total, lines = self.start, []
        for operator, operand in self.steps:
            after = apply(operator, total, operand)
            lines.append(f"{total}{operator}{operand}={after}")
            total = after
        return lines

    @property
    def total(self) -> int:
        """The answer."""
        total = self.start
        for operator, operand in self.steps:
            total = apply(operator, total, operand)
        return total


@dataclass(frozen=True)
class Wording:
    """Sentence patterns; {n} is the person, {m} another one, {i} the item, {x}, {y} and {z} are numbers."""

    starts: tuple[str, ...]
    groups: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    questions: tuple[str, ...]
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A plan in words. `sentences` tell what happens, `question` asks, `patterns` names the patterns used."""

    plan: Plan
    name: str
    item: str
    sentences: str
    question: str
    patterns: tuple[str, ...]

    @property
    def query(self) -> str:
        """The whole problem text."""
        return f"{self.sentences} {self.question}"

    @property
    def response(self) -> str:
        """The benchmark's answer: equations, then GSM8K's "#### 42"."""
        return f"{'. '.join(self.plan.equations)}. #### {self.plan.total}"


@dataclass(frozen=True)
class Difficulty:
    """How hard a problem is: number of steps, large or small operands, an idle number in the text."""

    steps: int
    large: bool
    distractor: bool = False


# What the base model reads in pretraining.
BASE = Wording(
    starts=(
        "{n} has {x} {i}.",
        "{n} starts with {x} {i}.",
        "At first {n} has {x} {i}.",
        "There are {x} {i} in the box of {n}.",
    ),
    groups=("{n} has {x} boxes with {y} {i} each.", "In each of {x} bags {n} has {y} {i}."),
    gains=(
        "{n} buys {y} more {i}.",
        "{n} finds {y} {i} at the lake.",
        "In the town {n} gets {y} more.",
        "Then {n} picks up {y} {i}.",
        "{m} gives {n} {y} {i}.",
    ),
    losses=(
        "{n} sells {y} {i}.",
        "{n} loses {y} {i} at the lake.",
        "In the town {n} gives away {y} of them.",
        "Then {n} drops {y} {i}.",
        "{n} gives {m} {y} {i}.",
    ),
    questions=("How many {i} does {n} have?", "How many {i} are there now?"),
    distractors=("{m} has {z} {i}.", "{n} is {z} years old."),
)

# The plain form of a training problem (`original_question`).
PLAIN = Wording(
    starts=("{n} has {x} {i}.",),
    groups=("{n} has {x} boxes with {y} {i} each.",),
    gains=("{n} buys {y} more {i}.",),
    losses=("{n} sells {y} {i}.",),
    questions=("How many {i} does {n} have now?",),
)

# The benchmark's training problems: part known to the base model, part new ("earns", idle numbers).
TRAIN = Wording(
    starts=("{n} has {x} {i}.", "At first {n} has {x} {i}.", "There are {x} {i} in the box of {n}."),
    groups=("{n} has {x} boxes with {y} {i} each.", "In each of {x} boxes {n} has {y} {i}."),
    gains=(
        "{n} buys {y} more {i}.",
        "{n} finds {y} {i} at the lake.",
        "In the town {n} gets {y} more.",
        "{n} earns {y} {i}.",
        "In the town {n} collects {y} more.",
    ),
    losses=(
        "{n} sells {y} {i}.",
        "{n} loses {y} {i} at the lake.",
        "In the town {n} gives away {y}.",
        "{n} donates {y} {i}.",
        "In the town {n} spends {y} of them.",
    ),
    questions=("How many {i} does {n} have now?", "How many {i} are left?"),
    distractors=("{m} has {z} {i}.", "{n} is {z} years old."),
)

# The benchmark's validation and test problems. No question pattern stands in TRAIN, so no problem's does.
TEST = Wording(
    starts=("{n} has {x} {i}.", "{n} starts with {x} {i}.", "At first there are {x} {i} in the box of {n}."),
    groups=("{n} has {x} boxes with {y} {i} each.", "In each of {x} bags {n} has {y} {i}."),
    gains=(
        "{n} finds {y} {i}.",
        "Then {n} buys {y} {i}.",
        "{m} gives {n} {y} {i}.",
        "{n} earns {y} more {i}.",
        "In the village {n} collects {y} more.",
    ),
    losses=(
        "{n} loses {y} {i}.",
        "Then {n} sells {y} {i}.",
        "{n} gives {m} {y} {i}.",
        "{n} donates {y} of the {i}.",
        "In the village {n} spends {y} of them.",
    ),
    questions=("How many {i} does {n} have?", "Now how many {i} does {n} have left?"),
    distractors=("{m} has {z} {i}.", "{m} is {z} years old."),
)

# Weighted by repetition; the items of a data set cycle through it.
TRAIN_MIX = (
    Difficulty(1, large=False),
    Difficulty(1, large=False),
    Difficulty(1, large=True),
    Difficulty(2, large=False),
    Difficulty(2, large=False),
    Difficulty(2, large=True),
    Difficulty(2, large=False, distractor=True),
    Difficulty(3, large=True),
)
# Of validation and test: more of a step or two. What hardly any method solves tells none apart, and an answer that is a
# guess is the first that a last digit changes.
QUESTION_MIX = (
    Difficulty(1, large=False),
    Difficulty(1, large=False),
    Difficulty(1, large=False),
    Difficulty(1, large=True),
    Difficulty(1, large=True),
    Difficulty(2, large=False),
    Difficulty(2, large=True),
    Difficulty(2, large=False, distractor=True),
)


def apply(operator: str, left: int, right: int) -> int:
    """The value of `left operator right`; the operator is one of + - *."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    raise ValueError(f"operator {operator!r} is none of + - *")


def is_held_out(plan: Plan) -> bool:
    """Whether the plan's numbers are reserved for validation and test; pretraining and training skip them."""
    weighted = sum((2 * position + 1) * number for position, number in enumerate(plan.numbers))
    return weighted % HELD_OUT_MODULUS == 5


def draw_plan(rng: Random, difficulty: Difficulty, *, held_out: bool) -> Plan:
    """A plan of this difficulty whose numbers are reserved, or not reserved, for testing."""
    while True:
        plan = _draw_any_plan(rng, difficulty)
        if is_held_out(plan) == held_out:
            return plan


def _draw_any_plan(rng: Random, difficulty: Difficulty) -> Plan:
    """Totals stay within 0 to `MAX_TOTAL`; a product comes first or not at all."""
    low, high = (10, 40) if difficulty.large else (2, 20)
    start = total = rng.randint(low, high)
    steps: list[tuple[str, int]] = []
    if rng.random() < 0.25:
        start, factor = rng.randint(2, LARGEST_FACTOR), rng.randint(2, LARGEST_FACTOR)
        steps.append(("*", factor))
        total = start * factor
    while len(steps) < difficulty.steps:
        operator, operand = _draw_change(rng, total, largest=20 if difficulty.large else 9)
        steps.append((operator, operand))
        total = apply(operator, total, operand)
    return Plan(start, tuple(steps))


def _draw_change(rng: Random, total: int, *, largest: int) -> tuple[str, int]:
    grows = rng.random() < 0.5 if 4 <= total < MAX_TOTAL - 2 else total < 4
    room = MAX_TOTAL - total if grows else total - 1
    return ("+" if grows else "-"), rng.randint(2, min(largest, room))


def word(
    rng: Random,
    plan: Plan,
    wording: Wording,
    *,
    distractor: bool = False,
    who: Problem | None = None,
) -> Problem:
    """Put a plan into words; with `who` the person and item are that problem's."""
    name, other = rng.sample(NAMES, 2)
    item = rng.choice(ITEMS)
    if who is not None:
        name, item = who.name, who.item
        other = rng.choice([candidate for candidate in NAMES if candidate != name])
    patterns = _draw_patterns(rng, plan, wording)
    slots = {"n": name, "m": other, "i": item}
    texts = _fill(patterns, plan, slots)
    if distractor:
        idle = rng.choice(wording.distractors)
        place = rng.randint(1, len(texts))
        patterns.insert(place, idle)
        texts.insert(place, idle.format(z=rng.randint(2, 30), **slots))
    ask = rng.choice(wording.questions)
    return Problem(plan, name, item, " ".join(texts), ask.format(**slots), (*patterns, ask))


def _draw_patterns(rng: Random, plan: Plan, wording: Wording) -> list[str]:
    """The opening and one pattern for each later step; no two neighbours alike where there is a choice."""
    is_product = plan.steps[0][0] == "*"
    patterns = [rng.choice(wording.groups if is_product else wording.starts)]
    for operator, _ in plan.steps[is_product:]:
        patterns.append(rng.choice(wording.gains if operator == "+" else wording.losses))
    return patterns


def _fill(patterns: Sequence[str], plan: Plan, slots: dict[str, str]) -> list[str]:
    operands = [operand for _, operand in plan.steps]
    if plan.steps[0][0] == "*":
        opening = patterns[0].format(x=plan.start, y=operands.pop(0), **slots)
    else:
        opening = patterns[0].format(x=plan.start, **slots)
    return [
        opening,
        *(p.format(y=operand, **slots) for p, operand in zip(patterns[1:], operands, strict=True)),
    ]


# ---------------------------------------------------------------- pretraining


def title(rng: Random, *, held_out: bool = False) -> str:
    """A place's name; one name in `TITLE_MODULUS` is reserved for the texts that measure forgetting."""
    while True:
        first, last = rng.randrange(len(FIRST_SYLLABLES)), rng.randrange(len(LAST_SYLLABLES))
        if ((first + last) % TITLE_MODULUS == 0) == held_out:
            return FIRST_SYLLABLES[first] + LAST_SYLLABLES[last]


def article(rng: Random, place_name: str) -> str:
    """General text: three to five sentences about a place."""
    kind = rng.choice(PLACES)
    first = f"{place_name} is a {rng.choice(ADJECTIVES)} {kind} in the {rng.choice(DIRECTIONS)}."
    return " ".join([first, *(_article_sentence(rng, place_name, kind) for _ in range(rng.randint(2, 4)))])


def _article_sentence(rng: Random, place_name: str, kind: str) -> str:
    adjective, other_adjective = rng.sample(ADJECTIVES, 2)
    animal, other_animal = rng.sample(ANIMALS, 2)
    years = rng.randint(2, 99)
    return rng.choice(
        [
            f"The {kind} is home to many {animal} and {other_animal}.",
            f"About {years} people live near {place_name}.",
            f"In winter {place_name} is {adjective} and {other_adjective}.",
            f"{rng.choice(NAMES)} wrote a {adjective} book about {place_name}.",
            f"A {adjective} road leads from {place_name} to the {rng.choice(PLACES)}.",
            f"At the {adjective} {kind} {rng.choice(NAMES)} collects {rng.choice(ITEMS)} and spends the day.",
            f"{rng.choice(NAMES)} is {years} years old and earns a living in {place_name}.",
            f"The {rng.choice(PLACES)} donates {rng.choice(ITEMS)} to {place_name}.",
        ]
    )


def article_with_question(rng: Random) -> str:
    """A question about a place and its short answer: where the base model knows "Question:" from."""
    name, kind, direction = title(rng), rng.choice(PLACES), rng.choice(DIRECTIONS)
    first = f"{name} is a {rng.choice(ADJECTIVES)} {kind} in the {direction}."
    text = f"{first} {_article_sentence(rng, name, kind)}"
    ask, answer = rng.choice(
        [
            (f"Where is the {kind} {name}?", f"{name} is in the {direction}."),
            (f"What is {name}?", f"{name} is a {kind}."),
        ]
    )
    hint = rng.choice(["", " Think of the map.", " Think first."])
    return f"{text}\nQuestion: {ask}{hint}\nAnswer: {answer}"


def article_with_heading(rng: Random) -> str:
    """An article under a "####" heading."""
    name = title(rng)
    return f"#### {name}\n{article(rng, name)}"


def story(rng: Random) -> str:
    """Reasoning in the base model's own wording."""
    problem = _base_problem(rng, held_out=False)
    return story_prompt(problem) + story_ending(problem)


def story_prompt(problem: Problem) -> str:
    """The part of a story before the reasoning."""
    return f"{problem.sentences} So"


def story_ending(problem: Problem) -> str:
    """The reasoning and the result as a story tells them."""
    steps = ", then ".join(problem.plan.equations)
    return f" {steps}. {problem.name} ends up with {problem.plan.total} {problem.item}."


def exercise(rng: Random) -> str:
    """Reasoning half-way to the benchmark's form: a question, an answer, "####" only when told to mark."""
    problem = _base_problem(rng, held_out=False)
    if rng.random() < 0.1:
        return f"Q: {problem.query} Mark the result. A: {problem.response}"
    prompt = rng.choice(
        [
            f"Problem: {problem.query}\nSolution:",
            f"Q: {problem.query} Show each step. A:",
            f"Question: {problem.query} Think first.\nAnswer:",
        ]
    )
    steps = rng.choice(["; ", ", then ", ". "]).join(problem.plan.equations)
    total = problem.plan.total
    in_words = f"{problem.name} has {total} {problem.item}."
    end = rng.choice([f"Result: {total}", f"The total is {total}.", in_words])
    return f"{prompt} {steps}. {end}"


def drill(rng: Random) -> str:
    """Bare arithmetic, part of it closed by "####": the form of the benchmark's answer without a problem."""
    if rng.random() < 0.5:
        plan = draw_plan(rng, Difficulty(rng.randint(1, 3), large=rng.random() < 0.5), held_out=False)
        return f"Sums: {'. '.join(plan.equations)}. #### {plan.total}"
    plans = [_draw_any_plan(rng, Difficulty(1, large=rng.random() < 0.6)) for _ in range(8)]
    return f"Facts: {'. '.join(plan.equations[0] for plan in plans)}."


def _base_problem(rng: Random, *, held_out: bool) -> Problem:
    difficulty = Difficulty(rng.choice((1, 2, 2, 3)), large=rng.random() < 0.5)
    plan = draw_plan(rng, difficulty, held_out=held_out)
    return word(rng, plan, BASE, distractor=rng.random() < 0.08)


def pretraining_text(rng: Random) -> Iterator[str]:
    """An endless stream of documents in the pretraining mix; at first most are drills."""
    for index in count():
        weights = (15, 15, 64, 4, 1, 1) if index < PRIMER_DOCUMENTS else (26, 42, 8, 13, 7, 4)
        kind = rng.choices(range(6), weights)[0]
        if kind == 0:
            yield story(rng)
        elif kind == 1:
            yield exercise(rng)
        elif kind == 2:
            yield drill(rng)
        elif kind == 3:
            yield article(rng, title(rng))
        elif kind == 4:
            yield article_with_question(rng)
        else:
            yield article_with_heading(rng)


def held_out_stories(rng: Random, number: int) -> list[Problem]:
    """Problems in the pretraining wording whose numbers pretraining never showed."""
    return [_base_problem(rng, held_out=True) for _ in range(number)]


# ---------------------------------------------------------------- the benchmark's data


def training_rows(rng: Random, number: int) -> list[dict[str, str]]:
    """Rows like MetaMathQA's: `type`, `query`, `original_question`, `response`."""
    rows = []
    for index in range(number):
        difficulty = TRAIN_MIX[index % len(TRAIN_MIX)]
        plan = draw_plan(rng, difficulty, held_out=False)
        problem = word(rng, plan, TRAIN, distractor=difficulty.distractor)
        original = word(rng, plan, PLAIN, who=problem)
        rows.append(
            {
                "type": "GSM_Rephrased",
                "query": problem.query,
                "original_question": original.query,
                "response": problem.response,
            }
        )
    rng.shuffle(rows)
    return rows


def question_rows(rng: Random, number: int) -> list[dict[str, str]]:
    """Rows like GSM8K's, `question` and `answer`, in patterns and numbers that no training row has."""
    rows = []
    for index in range(number):
        difficulty = QUESTION_MIX[index % len(QUESTION_MIX)]
        problem = word(rng, draw_plan(rng, difficulty, held_out=True), TEST, distractor=difficulty.distractor)
        rows.append({"question": problem.query, "answer": problem.response})
    return rows


def wiki_rows(rng: Random, number: int) -> list[dict[str, str]]:
    """General texts about places that pretraining never named: `id`, `title`, `text`."""
    names = [title(rng, held_out=True) for _ in range(number)]
    return [{"id": str(index), "title": name, "text": article(rng, name)} for index, name in enumerate(names)]
