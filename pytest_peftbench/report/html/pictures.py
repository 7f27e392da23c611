"""Pictures as a page holds them: the two halves of a strip apart, each content once, large ones made smaller."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

# Pixels of a picture's longer side, and bytes from which one is kept as WebP of that size.
SIDE = 256
LARGE = 16_000
REFERENCE = "reference"


class Album:
    """Gathers pictures of all cases; `sources` are data URIs, each once."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self._places: dict[bytes, int] = {}

    def add(self, picture: Mapping[str, Any]) -> dict[str, Any]:
        """A picture's group, prompt and places among `sources`: of the base model's half and the adapted one's.

        A reference is one picture and no strip. Raises ValueError for what is no picture.
        """
        group = str(picture["name"]).rpartition("/")[2].partition("-")[0]
        halves = _halves(b64decode(picture["png"]), whole=group == REFERENCE)
        places = [self._place(half) for half in halves]
        return {"group": group, "prompt": picture["prompt"], "seed": picture["seed"], "images": places}

    def _place(self, image: Any) -> int:
        pixels = f"{image.size} {image.mode} ".encode() + image.tobytes()
        if pixels not in self._places:
            self._places[pixels] = len(self.sources)
            self.sources.append(_source(image))
        return self._places[pixels]


def _halves(png: bytes, whole: bool) -> list[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(png)) as opened:
            strip = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"no picture: {error}") from error
    if whole:
        return [strip]
    width, height = strip.size
    return [strip.crop((0, 0, width // 2, height)), strip.crop((width // 2, 0, width, height))]


def _source(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    kind = "png"
    if file.tell() > LARGE:
        image = image.copy()
        image.thumbnail((SIDE, SIDE))
        file, kind = io.BytesIO(), "webp"
        image.save(file, "WEBP", quality=80)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
