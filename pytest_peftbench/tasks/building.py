"""What the builds of the embedded models share: determinism, learning rate, Muon, hashes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

Progress = Callable[[str], None]


def warmup_then_cosine(step: int, steps: int) -> float:
    """Factor of the learning rate: up over 5 % of the steps, then half a cosine down to 2 %."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def muon_step(momenta: list[tuple[Tensor, Tensor]], learning_rate: float) -> None:
    """Muon's update: Nesterov momentum, made orthogonal. AdamW needs about twice the steps here."""
    for weight, momentum in momenta:
        assert weight.grad is not None
        momentum.lerp_(weight.grad, 0.05)
        update = _orthogonalize(weight.grad.lerp(momentum, 0.95))
        stretch = max(1.0, weight.shape[0] / weight.shape[1]) ** 0.5
        weight.mul_(1 - 0.01 * learning_rate).add_(update, alpha=-learning_rate * stretch)


def _orthogonalize(matrix: Tensor) -> Tensor:
    """Push all singular values towards 1: five quintic Newton-Schulz steps with Muon's coefficients."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix / (matrix.norm() + 1e-7)
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


@contextmanager
def deterministic() -> Iterator[None]:
    """One thread, deterministic algorithms and an own random state; all as before afterwards."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
