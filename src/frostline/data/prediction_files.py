"""Unlabelled image files for prediction: found by the user's inputs, and decoded."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from frostline.data.decoding import MAX_PIXELS, decode_image
from frostline.data.folders import AGAIN, Identity, LeftOut, Walk, identity
from frostline.data.image_file import EXTENSIONS, UnreadableImage
from frostline.data.spec import DataSpec
from frostline.data.transforms import evaluation_transform, shorter_side


class ImageFiles(Dataset[tuple[torch.Tensor | None, str, str]]):
    """Unlabelled files for prediction: `(image, path, reason)`; a broken one has None for image, and a reason.

    Args:
        spec: of the data that the classifier was trained on: an image is decoded and resized as in its evaluation.
    """

    def __init__(self, paths: Sequence[Path], *, spec: DataSpec, max_pixels: int = MAX_PIXELS) -> None:
        self.paths = [str(path) for path in paths]
        size, resize = spec.image_size, spec.resize
        self.transform = evaluation_transform(image_size=size, resize=resize, interpolation=spec.interpolation)
        self.max_pixels = max_pixels
        self.shorter_side = shorter_side(image_size=size, resize=resize) if spec.scaled_decoding else None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor | None, str, str]:
        path = self.paths[index]
        try:
            image = decode_image(path, max_pixels=self.max_pixels, shorter_side=self.shorter_side)
            return self.transform(image), path, ""
        except UnreadableImage as error:
            return None, path, error.reason
        except (MemoryError, RuntimeError) as error:  # torch's word for memory that it did not get
            return None, path, f"cannot be resized ({str(error).splitlines()[0] if str(error) else 'no memory'})"


def find_images(inputs: Iterable[str | os.PathLike[str]], *, left_out: LeftOut | None = None) -> list[Path]:
    """The files that the inputs name, each once: files as they are, folders with all images in them, glob patterns.

    Args:
        left_out: gets what is in the folders and is no image, and further names of a file.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: an input names no image, or there are no inputs.
    """
    left_out = LeftOut() if left_out is None else left_out
    walk = Walk(left_out, tolerant=True)
    found: dict[Identity | Path, Path] = {}
    for item in inputs:
        path = Path(item).expanduser()
        if path.is_dir():
            matches = list(walk.images(path))
        elif path.exists():
            # A file that is named itself is taken whatever its ending: prediction reports what is wrong with it.
            matches = [(path, identity(path))]
        elif glob.has_magic(str(item)):
            root = Path(path.anchor)  # glob.glob would follow links under `**`, and never end where two lead upwards
            named = sorted(root.glob(str(path.relative_to(root))), key=str)
            named = [name for name in named if not any(part[0] == "." for part in {*name.parts} - {*path.parts})]
            matches = [image for name in named if name.is_file() and (image := walk.image(str(name))) is not None]
        else:
            raise FileNotFoundError(f"{item}: no such file or folder.")
        if not matches:
            seen = f" {'; '.join(lines)}." if (lines := left_out.lines()) else ""
            raise ValueError(f"{item}: no images there (looked for {', '.join(sorted(EXTENSIONS))}).{seen}")
        for match, own in matches:
            first = found.setdefault(own or match, match)
            if first != match:
                left_out.add(AGAIN, match)
    if not found:
        raise ValueError("No inputs were given: name files, folders or glob patterns.")
    return list(found.values())
