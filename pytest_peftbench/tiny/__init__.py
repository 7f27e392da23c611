"""Embedded base models with their tokenizer and data: small to ship, large enough to tell methods apart."""

from pathlib import Path

TINY_DIR = Path(__file__).parent
MATH_MODEL = TINY_DIR / "math" / "model"
MATH_DATA = TINY_DIR / "math" / "data"
IMAGE_MODEL = TINY_DIR / "image" / "model"
IMAGE_DATA = TINY_DIR / "image" / "data"
