"""The figures of image generation: likeness to the concept, drift on unrelated prompts."""

from __future__ import annotations

from torch import Tensor


def drift(cosines: Tensor) -> float:
    """How far pictures of unrelated prompts moved away from the base model's: mean of (1 - cosine) / 2.

    cosines: of shape (pictures,), between the image encoder's embeddings of the adapted and of the base model's
    picture of the same prompt and noise. From 0, nothing forgotten, to 1; lower is better. PEFT's
    `method_comparison/image-gen` has the same without the half.
    """
    return float((1 - cosines.double()).mean() / 2)


def similarity(cosines: Tensor) -> float:
    """Mean cosine between embeddings of generated and held-out pictures of the concept; at most 1, higher is better.

    cosines: of shape (pictures,). As `dino_similarity` in PEFT's `method_comparison/image-gen`.
    """
    return float(cosines.double().mean())
