"""The stories: what is done with an adapter, and after each step the law that must hold. Each starts on a new model."""

from pytest_peftbench.cases.life_cycle.asking import Story
from pytest_peftbench.cases.life_cycle.cell import Cell
from pytest_peftbench.cases.life_cycle.stories import (
    combining,
    generating,
    merging,
    quantised,
    saving,
    several,
    using,
)

# Whether an adapter can be added and trained: without that nothing else is asked.
_BEGINNING = (using.birth, using.training)
# In this order.
STORIES = (
    *using.STORIES,
    *saving.STORIES,
    *merging.STORIES,
    *several.STORIES,
    *combining.STORIES,
    *generating.STORIES,
)
# Of one on quantised weights.
ON_QUANTISED = (*_BEGINNING, *quantised.STORIES)


def stories_of(cell: Cell) -> tuple[Story, ...]:
    """What a cell is asked: everything, or what its type is about."""
    return ON_QUANTISED if cell.is_quantised else STORIES
