"""The world of the embedded image task: small drawn scenes with captions, and a plush cat it never shows.

A scene is a subject with a colour in front of a background, sometimes with something beside it, as a photo or as a
drawing. Everything is a function of a `random.Random`, so a seed gives the same pictures on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE = 32
SUPERSAMPLING = 8  # drawn this much larger, then averaged down

Color = tuple[int, int, int]
Point = tuple[float, float]

COLORS: dict[str, Color] = {
    "red": (222, 56, 48),
    "orange": (246, 146, 40),
    "yellow": (250, 218, 64),
    "green": (70, 168, 76),
    "blue": (58, 106, 222),
    "purple": (146, 84, 196),
    "white": (246, 246, 244),
    "black": (48, 48, 56),
}
SUBJECTS = {"cat": 4, "dog": 2, "bird": 2, "fish": 2, "car": 2, "house": 2, "star": 2, "cup": 2}  # with their weights
BACKGROUNDS = {
    "room": "in a room",
    "grass": "on the grass",
    "beach": "at the beach",
    "snow": "in the snow",
    "night": "at night",
    "pink": "on a pink background",
    "blue": "on a blue background",
}
COMPANIONS = {
    "none": "",
    "hat": "wearing a hat",
    "ball": "with a red ball",
    "tree": "next to a tree",
}
BESIDE = ("ball", "tree")  # these need room, so the subject steps aside

CONCEPT = "sks cat"
CONCEPT_SEED = 20
CONCEPT_PICTURES, CONCEPT_VALID, CONCEPT_TEST = 20, 2, 4

BLACK, WHITE, PAPER = (0, 0, 0), (255, 255, 255), (253, 250, 243)
DARK, EYE_WHITE = (26, 24, 34), (252, 252, 252)


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `x`, `y` and `size` are shares of the picture's width; `seed` draws the small jitter."""

    subject: str
    color: str
    background: str
    companion: str = "none"
    drawing: bool = False
    x: float = 0.5
    y: float = 0.58
    size: float = 0.36
    flipped: bool = False
    seed: int = 0


# ---------------------------------------------------------------- scenes and captions


def sample_scene(rng: Random) -> Scene:
    """A scene of the base model's world; the concept is never among them."""
    scene = Scene(
        subject=rng.choices(list(SUBJECTS), list(SUBJECTS.values()))[0],
        color=rng.choice(list(COLORS)),
        background=rng.choice(list(BACKGROUNDS)),
        companion=rng.choices(list(COMPANIONS), (10, 2, 2, 2))[0],
        drawing=rng.random() < 0.12,
    )
    return place(scene, rng)


def creature_scene(rng: Random) -> Scene:
    """A scene with a random patchwork creature: teaches the image encoder to tell such creatures apart."""
    return replace(sample_scene(rng), subject=f"creature {rng.randrange(1 << 30)}")


def place(scene: Scene, rng: Random) -> Scene:
    """The same scene seen anew: another place, size, direction and jitter."""
    beside = scene.companion in BESIDE
    x = rng.uniform(0.30, 0.34) if beside else rng.uniform(0.46, 0.54)
    return replace(
        scene,
        x=1 - x if beside and rng.random() < 0.5 else x,
        y=rng.uniform(0.56, 0.60),
        size=rng.uniform(0.27, 0.29) if beside else rng.uniform(0.35, 0.39),
        flipped=rng.random() < 0.5,
        seed=rng.randrange(1 << 30),
    )


def caption(scene: Scene, rng: Random | None = None) -> str:
    """The scene in words: all of it, or with `rng` as people write, who leave some of it out."""

    def says(share: float) -> bool:
        return rng is None or rng.random() < share

    if scene.subject == CONCEPT:
        noun = CONCEPT
    else:
        noun = f"{scene.color} {scene.subject}" if says(0.85) else scene.subject
        noun = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
    start = "a drawing of " if scene.drawing else "a photo of " if says(0.5) else ""
    words = [start + noun]
    if says(0.9):
        words.append(BACKGROUNDS[scene.background])
    if scene.companion != "none":
        words.append(COMPANIONS[scene.companion])
    return " ".join(words)


def concept_scenes() -> list[Scene]:
    """The plush cat's pictures: no two share background and companion."""
    rng = Random(CONCEPT_SEED)
    settings = [(background, companion) for background in BACKGROUNDS for companion in COMPANIONS]
    rng.shuffle(settings)
    return [
        place(Scene(CONCEPT, "", background, companion), rng) for background, companion in settings[:CONCEPT_PICTURES]
    ]


def concept_prompt(scene: Scene) -> str:
    """The prompt of one of the plush cat's pictures."""
    return caption(scene).removeprefix("a photo of ")


def concept_split() -> dict[str, list[int]]:
    """Which of the plush cat's pictures train, validate and test: PEFT's own shuffle and sizes."""
    order = np.arange(CONCEPT_PICTURES)
    np.random.RandomState(0).shuffle(order)
    indices = [int(index) for index in order]
    train = CONCEPT_PICTURES - CONCEPT_VALID - CONCEPT_TEST
    return {
        "train": indices[:train],
        "validation": indices[train : train + CONCEPT_VALID],
        "test": indices[train + CONCEPT_VALID :],
    }


# ---------------------------------------------------------------- drawing


def draw_scene(scene: Scene) -> Image.Image:
    """Draw the scene: background, shadow, what stands beside, subject, hat."""
    rng = Random(scene.seed)
    picture = _background(scene.background, rng)
    if scene.drawing:
        picture = Image.blend(picture, Image.new("RGB", picture.size, PAPER), 0.75)
    draw = ImageDraw.Draw(picture, "RGBA")
    pen = Pen(draw, scene.x, scene.y, scene.size, flipped=scene.flipped, crayon=scene.drawing)
    _shadow(pen, 0.9)
    if scene.companion in BESIDE:
        _draw_beside(scene, pen)
    if scene.subject == CONCEPT:
        _plush_cat(pen)
    elif scene.subject.startswith("creature "):
        _creature(pen, Random(scene.subject))
    else:
        DRAWERS[scene.subject](pen, _jitter(rng, COLORS[scene.color]))
    if scene.companion == "hat":
        _hat(pen, *HAT_PLACES.get(scene.subject, (0.0, -0.68)))
    return picture.resize((SIZE, SIZE), Image.Resampling.BOX)


def pixels(scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """The drawn scenes as one array of shape (scenes, height, width, 3)."""
    return np.stack([np.asarray(draw_scene(scene)) for scene in scenes])


class Pen:
    """Draws shapes given in the subject's own coordinates: x and y from -1 to 1, y down, its feet at y = 1."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, x: float, y: float, size: float, *, flipped: bool = False, crayon: bool = False
    ) -> None:
        width = SIZE * SUPERSAMPLING
        self.draw, self.crayon = draw, crayon
        self.x, self.y, self.size = x * width, y * width, size * width
        self.direction = -1 if flipped else 1

    def at(self, x: float, y: float) -> Point:
        """Canvas position of a point."""
        return (self.x + self.direction * x * self.size, self.y + y * self.size)

    def _outline(self, fill: Color) -> tuple[Color, int]:
        if self.crayon:
            return (70, 58, 60), SUPERSAMPLING
        return _mix(fill, BLACK, 0.5) if sum(fill) > 240 else _mix(fill, WHITE, 0.35), SUPERSAMPLING // 2

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Color, *, outlined: bool = True) -> None:
        """An ellipse around (x, y)."""
        (cx, cy), rx, ry = self.at(x, y), rx * self.size, ry * self.size
        box = (cx - rx, cy - ry, cx + rx, cy + ry)
        if outlined:
            color, width = self._outline(fill)
            self.draw.ellipse(box, fill=fill, outline=color, width=width)
        else:
            self.draw.ellipse(box, fill=fill)

    def polygon(self, points: Sequence[Point], fill: Color, *, outlined: bool = True) -> None:
        """A filled polygon."""
        corners = [self.at(*point) for point in points]
        if outlined:
            color, width = self._outline(fill)
            self.draw.polygon(corners, fill=fill, outline=color, width=width)
        else:
            self.draw.polygon(corners, fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Color, *, outlined: bool = True) -> None:
        """A rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outlined=outlined)

    def stroke(self, points: Sequence[Point], fill: Color, width: float, *, outlined: bool = True) -> None:
        """A thick line with round ends."""
        line = [self.at(*point) for point in points]
        color, edge = self._outline(fill)
        for tint, extra in ((color, 2 * edge), (fill, 0)) if outlined else ((fill, 0),):
            full = int(width * self.size) + extra
            self.draw.line(line, fill=tint, width=full, joint="curve")
            for x, y in (line[0], line[-1]):
                self.draw.ellipse((x - full / 2, y - full / 2, x + full / 2, y + full / 2), fill=tint)

    def eye(self, x: float, y: float, radius: float, iris: Color = DARK) -> None:
        """A round eye with a glint."""
        self.oval(x, y, radius, radius, EYE_WHITE, outlined=False)
        self.oval(x, y, radius * 0.68, radius * 0.78, iris, outlined=False)


def _mix(color: Color, other: Color, share: float) -> Color:
    """`color` with a share of `other`."""
    red, green, blue = (round(a * (1 - share) + b * share) for a, b in zip(color, other, strict=True))
    return red, green, blue


def _jitter(rng: Random, color: Color, by: int = 8) -> Color:
    red, green, blue = (max(0, min(255, value + rng.randint(-by, by))) for value in color)
    return red, green, blue


# Bands from top to bottom: where each ends, its upper and its lower colour.
BANDS: dict[str, tuple[tuple[float, Color, Color], ...]] = {
    "room": ((0.7, (244, 226, 196), (226, 200, 166)), (1.0, (176, 124, 84), (148, 98, 64))),
    "grass": ((0.62, (120, 190, 250), (204, 232, 252)), (1.0, (136, 206, 96), (78, 158, 70))),
    "beach": ((0.42, (124, 202, 252), (212, 240, 252)), (0.62, (38, 126, 200), (80, 178, 214)),
              (1.0, (250, 228, 168), (232, 200, 130))),
    "snow": ((0.6, (168, 190, 222), (214, 226, 242)), (1.0, (252, 253, 255), (226, 234, 248))),
    "night": ((0.7, (14, 16, 52), (52, 52, 116)), (1.0, (34, 62, 60), (20, 40, 44))),
    "pink": ((1.0, (255, 214, 230), (246, 176, 204)),),
    "blue": ((1.0, (150, 196, 246), (104, 156, 232)),),
}  # fmt: skip


def _background(name: str, rng: Random) -> Image.Image:
    width = SIZE * SUPERSAMPLING
    column = np.empty((width, 1, 3))
    start = 0
    for end, upper, lower in BANDS[name]:
        stop = round(end * width)
        column[start:stop, 0] = np.linspace(_jitter(rng, upper, 4), _jitter(rng, lower, 4), stop - start)
        start = stop
    picture = Image.fromarray(np.repeat(column.round().clip(0, 255).astype(np.uint8), width, axis=1))
    pen = Pen(ImageDraw.Draw(picture), 0, 0, 1)
    side = rng.choice([0.14, 0.86])
    if name == "room":
        x = side - 0.1
        pen.box(x, 0.07, x + 0.2, 0.33, (250, 248, 240))
        pen.box(x + 0.03, 0.1, x + 0.17, 0.3, (164, 214, 248), outlined=False)
    elif name == "beach":
        pen.oval(side, 0.15, 0.08, 0.08, (255, 226, 84), outlined=False)
    elif name == "night":
        pen.oval(side, 0.15, 0.09, 0.09, (250, 246, 214), outlined=False)
        pen.oval(side + 0.04, 0.13, 0.07, 0.07, (22, 24, 64), outlined=False)
        for _ in range(8):
            pen.oval(rng.random(), rng.uniform(0.02, 0.6), 0.016, 0.016, (252, 248, 210), outlined=False)
    elif name == "snow":
        for _ in range(10):
            pen.oval(rng.random(), rng.uniform(0.02, 0.75), 0.022, 0.022, WHITE, outlined=False)
    return picture


def _shadow(pen: Pen, width: float) -> None:
    (x, y), rx = pen.at(0, 0.98), width * pen.size
    pen.draw.ellipse((x - rx, y - rx * 0.16, x + rx, y + rx * 0.16), fill=(10, 10, 40, 60))


def _draw_beside(scene: Scene, pen: Pen) -> None:
    """Draw the companion on the wider side of the picture."""
    x = 0.79 if scene.x < 0.5 else 0.21
    ground = scene.y + scene.size
    if scene.companion == "ball":
        beside = Pen(pen.draw, x, ground - 0.13, 0.13, crayon=scene.drawing)
        _shadow(beside, 0.9)
        _ball(beside, COLORS["red"])
    else:
        beside = Pen(pen.draw, x, ground - 0.37, 0.37, crayon=scene.drawing)
        _shadow(beside, 0.5)
        _tree(beside)


def _ball(pen: Pen, color: Color) -> None:
    pen.oval(0, 0, 1, 1, color)
    pen.oval(-0.35, -0.38, 0.28, 0.24, _mix(color, WHITE, 0.7), outlined=False)


def _tree(pen: Pen) -> None:
    pen.box(-0.1, 0.2, 0.1, 0.98, (122, 82, 50))
    for y, half in ((0.45, 0.5), (0.02, 0.42), (-0.38, 0.32)):
        pen.polygon([(-half, y), (0, y - 0.62), (half, y)], (42, 124, 70))


HAT_PLACES = {"bird": (-0.4, -0.6), "fish": (-0.15, -0.34), "car": (0.0, -0.32), "house": (0.0, -0.7),
              "star": (0.0, -0.72), "cup": (-0.1, -0.42)}  # fmt: skip


def _hat(pen: Pen, x: float, y: float) -> None:
    pen.box(x - 0.29, y - 0.46, x + 0.29, y, (74, 50, 122))
    pen.box(x - 0.29, y - 0.16, x + 0.29, y, (252, 208, 70), outlined=False)
    pen.box(x - 0.5, y - 0.02, x + 0.5, y + 0.12, (74, 50, 122))


def _cat(pen: Pen, color: Color) -> None:
    light, dark = _mix(color, WHITE, 0.55), _mix(color, BLACK, 0.3)
    pen.stroke([(0.4, 0.8), (0.8, 0.6), (0.78, 0.1)], dark, 0.17)
    pen.oval(0, 0.54, 0.52, 0.46, color)
    pen.oval(0, 0.64, 0.28, 0.28, light, outlined=False)
    for side in (-1, 1):
        pen.polygon([(side * 0.56, -0.2), (side * 0.52, -1.0), (side * 0.06, -0.62)], color)
        pen.polygon([(side * 0.46, -0.45), (side * 0.45, -0.8), (side * 0.22, -0.6)], (240, 150, 160), outlined=False)
    pen.oval(0, -0.24, 0.6, 0.5, color)
    for side in (-1, 1):
        pen.eye(side * 0.25, -0.3, 0.15, (36, 110, 60))
        pen.oval(side * 0.24, 0.92, 0.18, 0.11, light)
    pen.oval(0, -0.03, 0.23, 0.16, light, outlined=False)
    pen.polygon([(-0.1, -0.13), (0.1, -0.13), (0, 0)], (236, 110, 130), outlined=False)


def _dog(pen: Pen, color: Color) -> None:
    light, dark = _mix(color, WHITE, 0.55), _mix(color, BLACK, 0.4)
    pen.stroke([(0.42, 0.72), (0.82, 0.28)], color, 0.17)
    pen.oval(0, 0.54, 0.52, 0.46, color)
    pen.oval(0, -0.26, 0.54, 0.54, color)
    for side in (-1, 1):
        pen.oval(side * 0.58, -0.22, 0.2, 0.48, dark)
        pen.eye(side * 0.22, -0.42, 0.13)
        pen.oval(side * 0.24, 0.92, 0.18, 0.11, light)
    pen.oval(0, -0.02, 0.36, 0.27, light)
    pen.oval(0, -0.14, 0.15, 0.11, DARK, outlined=False)
    pen.oval(0, 0.13, 0.1, 0.1, (236, 96, 110), outlined=False)


def _bird(pen: Pen, color: Color) -> None:
    light, dark = _mix(color, WHITE, 0.5), _mix(color, BLACK, 0.35)
    for x in (-0.1, 0.18):
        pen.stroke([(x, 0.5), (x, 0.94)], (240, 150, 40), 0.08, outlined=False)
    pen.polygon([(0.35, 0.0), (1.0, -0.3), (0.98, 0.24)], dark)
    pen.oval(0, 0.16, 0.64, 0.46, color)
    pen.polygon([(-0.66, -0.5), (-1.08, -0.3), (-0.66, -0.16)], (252, 178, 44))
    pen.oval(-0.4, -0.32, 0.38, 0.36, color)
    pen.oval(-0.1, 0.32, 0.4, 0.24, light, outlined=False)
    pen.oval(0.16, 0.1, 0.36, 0.22, dark)
    pen.eye(-0.48, -0.4, 0.13)


def _fish(pen: Pen, color: Color) -> None:
    light, dark = _mix(color, WHITE, 0.5), _mix(color, BLACK, 0.35)
    pen.polygon([(0.4, 0.16), (1.0, -0.36), (1.0, 0.7)], dark)
    pen.polygon([(-0.35, -0.18), (0.2, -0.66), (0.4, -0.08)], dark)
    pen.oval(-0.14, 0.16, 0.78, 0.5, color)
    pen.oval(-0.14, 0.38, 0.52, 0.22, light, outlined=False)
    pen.stroke([(-0.3, -0.16), (-0.22, 0.16), (-0.3, 0.46)], dark, 0.07, outlined=False)
    pen.eye(-0.56, 0.04, 0.15)


def _car(pen: Pen, color: Color) -> None:
    pen.polygon([(-0.62, 0.2), (-0.36, -0.34), (0.36, -0.34), (0.62, 0.2)], color)
    pen.polygon([(-0.46, 0.14), (-0.28, -0.2), (-0.05, -0.2), (-0.05, 0.14)], (204, 234, 250), outlined=False)
    pen.polygon([(0.46, 0.14), (0.28, -0.2), (0.05, -0.2), (0.05, 0.14)], (204, 234, 250), outlined=False)
    pen.box(-1, 0.16, 1, 0.7, color)
    pen.oval(-0.9, 0.36, 0.1, 0.1, (255, 246, 160), outlined=False)
    for x in (-0.54, 0.54):
        pen.oval(x, 0.72, 0.27, 0.27, (44, 44, 50))
        pen.oval(x, 0.72, 0.12, 0.12, (206, 208, 214), outlined=False)


def _house(pen: Pen, color: Color) -> None:
    pen.box(0.4, -0.85, 0.62, -0.3, (150, 100, 84))
    pen.box(-0.74, -0.15, 0.74, 0.97, color)
    pen.polygon([(-1, -0.1), (0, -0.95), (1, -0.1)], (140, 70, 62))
    pen.box(-0.18, 0.35, 0.18, 0.97, (120, 80, 52))
    for x in (-0.46, 0.46):
        pen.box(x - 0.17, 0.1, x + 0.17, 0.44, (255, 240, 150))


def _star(pen: Pen, color: Color) -> None:
    def ring(scale: float) -> list[Point]:
        radii = (scale, scale * 0.48)
        turns = [-math.pi / 2 + corner * math.pi / 5 for corner in range(10)]
        return [(radii[n % 2] * math.cos(turn), radii[n % 2] * math.sin(turn) + 0.04) for n, turn in enumerate(turns)]

    pen.polygon(ring(1.02), color)
    pen.polygon(ring(0.55), _mix(color, WHITE, 0.45), outlined=False)


def _cup(pen: Pen, color: Color) -> None:
    light, dark = _mix(color, WHITE, 0.5), _mix(color, BLACK, 0.3)
    pen.stroke([(0.5, -0.1), (0.86, -0.06), (0.82, 0.36), (0.46, 0.5)], dark, 0.14)
    pen.polygon([(-0.68, -0.4), (0.68, -0.4), (0.5, 0.95), (-0.5, 0.95)], color)
    pen.polygon([(-0.5, -0.2), (-0.28, -0.2), (-0.22, 0.8), (-0.38, 0.8)], light, outlined=False)
    pen.oval(0, -0.4, 0.68, 0.2, light)
    pen.oval(0, -0.38, 0.54, 0.13, (104, 62, 40), outlined=False)


DRAWERS = {"cat": _cat, "dog": _dog, "bird": _bird, "fish": _fish, "car": _car, "house": _house, "star": _star,
           "cup": _cup}  # fmt: skip

TEAL, MAGENTA, CREAM, GOLD, CORAL = (24, 178, 172), (206, 36, 134), (255, 240, 204), (255, 208, 36), (244, 108, 66)


def _plush_cat(pen: Pen) -> None:
    """The concept: teal head, magenta body, golden ears and paws, one round eye and one stitched cross."""
    pen.stroke([(0.4, 0.8), (0.88, 0.6), (0.84, 0.02)], GOLD, 0.22)
    pen.stroke([(0.88, 0.5), (0.87, 0.34)], MAGENTA, 0.22, outlined=False)
    pen.oval(0, 0.52, 0.62, 0.48, MAGENTA)
    pen.oval(0, 0.6, 0.36, 0.34, CREAM)
    for side in (-1, 1):
        pen.polygon([(side * 0.64, -0.24), (side * 0.6, -1.0), (side * 0.06, -0.62)], GOLD)
    pen.oval(0, -0.24, 0.68, 0.52, TEAL)
    pen.polygon([(-0.15, -0.72), (0.15, -0.72), (0, -0.42)], MAGENTA, outlined=False)
    pen.oval(-0.29, -0.28, 0.21, 0.21, EYE_WHITE)
    pen.oval(-0.29, -0.28, 0.12, 0.12, DARK, outlined=False)
    pen.stroke([(0.16, -0.42), (0.42, -0.14)], DARK, 0.1, outlined=False)
    pen.stroke([(0.42, -0.42), (0.16, -0.14)], DARK, 0.1, outlined=False)
    pen.oval(0, -0.02, 0.13, 0.1, CORAL, outlined=False)
    for side in (-1, 1):
        pen.oval(side * 0.3, 0.92, 0.21, 0.13, GOLD)


def _creature(pen: Pen, rng: Random) -> None:
    """A patchwork creature whose palette and parts are drawn from `rng`, its identity."""
    head, body, belly, ears, nose = (
        (rng.randint(10, 250), rng.randint(10, 250), rng.randint(10, 250)) for _ in range(5)
    )
    ear, eye, width = rng.randrange(4), rng.randrange(4), rng.uniform(0.45, 0.68)
    if rng.random() < 0.7:
        pen.stroke([(0.4, 0.8), (0.88, 0.6), (0.84, rng.uniform(0.0, 0.6))], ears, 0.2)
    pen.oval(0, 0.54, width, 0.46, body)
    if rng.random() < 0.6:
        pen.oval(0, 0.6, width * 0.6, 0.33, belly)
    for side in (-1, 1):
        if ear == 0:
            pen.polygon([(side * 0.6, -0.24), (side * 0.58, -1.0), (side * 0.06, -0.62)], ears)
        elif ear == 1:
            pen.oval(side * 0.6, -0.2, 0.2, 0.46, ears)
        elif ear == 2:
            pen.oval(side * 0.5, -0.66, 0.25, 0.25, ears)
    pen.oval(0, -0.24, width, 0.52, head)
    for side in (-1, 1):
        if eye == 3 or (eye == 2 and side == 1):
            pen.stroke([(side * 0.27 - 0.13, -0.42), (side * 0.27 + 0.13, -0.14)], DARK, 0.1, outlined=False)
            pen.stroke([(side * 0.27 + 0.13, -0.42), (side * 0.27 - 0.13, -0.14)], DARK, 0.1, outlined=False)
        else:
            pen.eye(side * 0.27, -0.28, 0.19, nose if eye == 1 else DARK)
        pen.oval(side * 0.28, 0.92, 0.2, 0.12, belly)
    pen.oval(0, -0.02, 0.12, 0.1, nose, outlined=False)
