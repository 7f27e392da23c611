"""The stories: what is done with an adapter, and after each step the law that must hold. Each starts on a new model."""

from pytest_peftbench.cases.life_cycle.stories import combining, generating, merging, saving, several, using

# In this order: whether an adapter can be added and trained, the first two tell.
STORIES = (
    *using.STORIES,
    *saving.STORIES,
    *merging.STORIES,
    *several.STORIES,
    *combining.STORIES,
    *generating.STORIES,
)
