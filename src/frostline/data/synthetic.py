"""Procedural images that can be learned: each class is a blob of its own outline, colours and stripes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch

from frostline.data.seeding import stable_seed
from frostline.data.source import LabelledImage, LabelledImages

# Counts up when `draw` changes, so that nothing cached of the old images is used for the new.
DRAWING = 1
HARMONICS = np.arange(2, 6, dtype=np.float32)


@dataclass(frozen=True)
class Prototype:
    """What all images of a class share.

    Attributes:
        amplitudes, phases: of the outline's harmonics: radius(angle) = 1 + sum of a_k cos(k angle + p_k).
        light, dark: the two stripe colours `(3,)` in [0, 1].
        frequency, direction: of the stripes, in half waves per radius and radians.
    """

    amplitudes: np.ndarray
    phases: np.ndarray
    light: np.ndarray
    dark: np.ndarray
    frequency: float
    direction: float


class Synthetic:
    """Images made when they are asked for; item i of a split is a pure function of (seed, split, i), its label i mod
    classes, and memory does not grow with the length.

    Args:
        difficulty: 0: the prototype in the middle of a plain background; towards 1: moved, scaled, turned, recoloured,
            under noise, among small blobs of other classes.
    """

    def __init__(
        self,
        *,
        length: int = 1000,
        val_length: int = 200,
        test_length: int = 200,
        classes: int = 10,
        image_size: int = 64,
        difficulty: float = 0.3,
        seed: int = 0,
    ) -> None:
        if not 0 <= difficulty <= 1:
            raise ValueError(f"difficulty={difficulty} must lie in [0, 1].")
        self.lengths = {"train": length, "val": val_length, "test": test_length}
        self.image_size = image_size
        self.difficulty = difficulty
        self.seed = seed
        self._classes = [f"class{label:0{len(str(classes - 1))}d}" for label in range(classes)]

    @property
    def classes(self) -> Sequence[str]:
        return self._classes

    def dataset(self, split: str) -> LabelledImages | None:
        if not self.lengths[split]:
            return None
        return SyntheticImages(
            length=self.lengths[split],
            classes=len(self._classes),
            image_size=self.image_size,
            difficulty=self.difficulty,
            seed=self.seed,
            split=split,
        )


class SyntheticImages(LabelledImages):
    """One split of `Synthetic`."""

    def __init__(self, *, length: int, classes: int, image_size: int, difficulty: float, seed: int, split: str) -> None:
        self._labels = Cycle(length=length, period=classes)
        self.classes = classes
        self.image_size = image_size
        self.difficulty = difficulty
        self.seed = seed
        self.split = split

    @property
    def labels(self) -> Sequence[int]:
        return self._labels

    @property
    def identity(self) -> str:
        drawn = (len(self), self.classes, self.image_size, self.difficulty, self.seed, self.split, np.__version__)
        return f"synthetic {DRAWING} {drawn}"

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> LabelledImage:
        label = self._labels[index]
        rng = np.random.default_rng(stable_seed(self.seed, self.split, index))
        image = draw(label, rng=rng, classes=self.classes, size=self.image_size, hard=self.difficulty, seed=self.seed)
        return torch.from_numpy(image), label


class Cycle(Sequence[int]):
    """The labels 0, 1, … period - 1, 0, 1, …, without holding them."""

    def __init__(self, *, length: int, period: int) -> None:
        self.length = length
        self.period = period

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        places = range(self.length)[index]
        return places % self.period if isinstance(places, int) else [place % self.period for place in places]


def prototype(label: int, *, seed: int) -> Prototype:
    """The look of a class, the same in every split."""
    rng = np.random.default_rng(stable_seed(seed, "prototype", label))
    return Prototype(
        amplitudes=rng.uniform(0.0, 0.25, len(HARMONICS)).astype(np.float32),
        phases=rng.uniform(-np.pi, np.pi, len(HARMONICS)).astype(np.float32),
        light=rng.uniform(0.4, 1.0, 3).astype(np.float32),
        dark=rng.uniform(0.0, 0.6, 3).astype(np.float32),
        frequency=rng.uniform(1.0, 6.0),
        direction=rng.uniform(0.0, np.pi),
    )


def draw(label: int, *, rng: np.random.Generator, classes: int, size: int, hard: float, seed: int) -> np.ndarray:
    """One image of a class, uint8 `(3, size, size)`."""
    # float32 throughout: twice as fast as float64, and eight bits are left in the end.
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    shade, slope = (rng.uniform(-limit, limit, (3, 1, 1)).astype(np.float32) for limit in (0.4, 0.2))
    ground = 0.5 + hard * (shade + slope * x)
    for _ in range(round(4 * hard)):
        other = int(rng.integers(classes))
        angle = rng.uniform(-np.pi, np.pi)
        place = 0.85 * math.cos(angle), 0.85 * math.sin(angle)
        ground = _paint(ground, x, y, prototype(other, seed=seed), place=place, scale=0.12, turn=angle)
    image = _paint(
        ground,
        x,
        y,
        prototype(label, seed=seed),
        place=tuple((hard * rng.uniform(-0.3, 0.3, 2)).tolist()),
        scale=0.55 * (1 + hard * rng.uniform(-0.4, 0.4)),
        turn=hard * rng.uniform(-np.pi / 3, np.pi / 3),
    )
    tint = 1 + hard * rng.uniform(-0.3, 0.3, (3, 1, 1)).astype(np.float32)
    image = image * tint + 0.2 * hard * rng.standard_normal(image.shape, dtype=np.float32)
    pixels: np.ndarray = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels


def _paint(
    image: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    look: Prototype,
    *,
    place: tuple[float, ...],
    scale: float,
    turn: float,
) -> np.ndarray:
    dx, dy = (x - place[0]) / scale, (y - place[1]) / scale
    cosine, sine = math.cos(turn), math.sin(turn)
    u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
    angle = np.arctan2(v, u)[..., None]
    outline = 1 + (look.amplitudes * np.cos(HARMONICS * angle + look.phases)).sum(-1)
    # A soft edge about one pixel wide.
    cover = ((outline - np.hypot(u, v)) * scale * len(x) / 2 + 0.5).clip(0, 1)
    wave = 0.5 + 0.5 * np.sin(np.pi * look.frequency * (u * math.cos(look.direction) + v * math.sin(look.direction)))
    colour = look.dark[:, None, None] + (look.light - look.dark)[:, None, None] * wave
    painted: np.ndarray = image * (1 - cover) + colour * cover
    return painted
