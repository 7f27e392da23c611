"""The stories: what is done with an adapter, and after each step the law that must hold. Each starts on a new model."""

from pytest_peftbench.cases.life_cycle.asking import Story
from pytest_peftbench.cases.life_cycle.cell import Cell
from pytest_peftbench.cases.life_cycle.stories import (
    combining,
    generating,
    merging,
    mixing,
    quantised,
    running,
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
# Of an adapter that is run in another way than the others, and of one on quantised weights.
RUNNING = (*_BEGINNING, *running.STORIES, *mixing.STORIES)
ON_QUANTISED = (*_BEGINNING, *quantised.STORIES)


def stories_of(cell: Cell) -> tuple[Story, ...]:
    """What a cell is asked: everything, or what its way to be run or its type is about."""
    train = cell.experiment.train
    if cell.is_quantised:
        return ON_QUANTISED
    return RUNNING if train.compile or train.use_amp else STORIES
