"""The benchmark's JPEG folder: train/ and val/ with ten class folders, the same bytes wherever it is made.

Image i of a split is a pure function of the split and i, and its class is i mod 10: a smaller folder holds the first,
balanced, part of a larger one. Shapes come from frostline's synthetic classes; noise of several octaves gives the files
the size of photographs' (about 40 kB).
"""

from pathlib import Path

import numpy as np
from PIL import Image

from frostline.data.seeding import stable_seed
from frostline.data.synthetic import draw

CLASSES = 10
SIDES = 256, 500  # pixels, smallest and largest
QUALITY = 90
DRAWN = 192  # pixels of the drawing under the noise, which is enlarged
OCTAVES = 2, 5, 12, 31, 120  # cells of noise along a side, each octave weaker than the one before
COMPLETE = "complete.txt"


def image(split: str, index: int) -> Image.Image:
    """Image `index` of `split`: RGB, both sides within SIDES."""
    rng = np.random.default_rng(stable_seed(0, "contest", split, index))
    width, height = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    drawn = draw(index % CLASSES, rng=rng, classes=CLASSES, size=DRAWN, hard=0.5, seed=0)
    pixels = _enlarged(drawn.transpose(1, 2, 0), width, height)
    for octave, cells in enumerate(OCTAVES):
        noise = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        pixels += (_enlarged(noise, width, height) - 127.5) * 0.3 / (1 + 0.5 * octave)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_folder(folder: Path, *, train_images: int, val_images: int) -> Path:
    """Write the folder unless it is there and complete; the folder."""
    wanted = f"{train_images} + {val_images}\n"
    marker = folder / COMPLETE
    if marker.exists() and marker.read_text() == wanted:
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else, or half of the images: remove it, or name another folder.")
    for split, count in (("train", train_images), ("val", val_images)):
        for index in range(count):
            path = folder / split / f"class{index % CLASSES}" / f"{index:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image(split, index).save(path, quality=QUALITY)
    marker.write_text(wanted)
    return folder


def _enlarged(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
