"""Embedded base models with their tokenizer and data: small to ship, large enough to tell methods apart."""

from pathlib import Path

TASKS_DIR = Path(__file__).parent
TINY_DIRS = {"math": TASKS_DIR / "math_reasoning" / "tiny", "image": TASKS_DIR / "image_generation" / "tiny"}
MATH_MODEL = TINY_DIRS["math"] / "model"
MATH_DATA = TINY_DIRS["math"] / "data"
IMAGE_MODEL = TINY_DIRS["image"] / "model"
IMAGE_DATA = TINY_DIRS["image"] / "data"
