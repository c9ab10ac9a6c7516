"""The callback that draws the pictures of a run's results, or of one evaluation."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from frostline.data.datamodule import ImageDataModule
from frostline.figures import png_of, save_figure
from frostline.metrics import at_temperature, hard_labels
from frostline.results.curves import draw_curves, phase_begins, read_curves
from frostline.results.diagrams import draw_calibration, draw_confusion
from frostline.results.image_grids import SEEN, Mistake, draw_mistakes, draw_seen
from frostline.tracking.checkpoints import Interrupted

log = logging.getLogger("frostline")

MISTAKES = 12  # images in the grid


class Evaluated(NamedTuple):
    """What an evaluation found of each image: its index in the split, its true and its predicted class, all int64
    (images,), and the probability of the predicted class, float32 (images,)."""

    image: Tensor
    true: Tensor
    predicted: Tensor
    confidence: Tensor


class ResultPictures(Callback):
    """Draws curves.svg after a fit or its interruption, seen.png after a fit, and confusion.svg, mistakes.png and
    calibration.svg of an evaluation.

    It only looks at the logits that were computed anyway, keeps four numbers for each image, and draws on rank 0 after
    the work. TensorBoard and W&B get the same pictures.

    Args:
        folder: where the pictures go.
        data: the images are from.
        split: of the evaluation that is drawn. `val` in a fit: the last validation.
        metrics: metrics.csv of the run, where there is one: its curves are drawn once.
    """

    def __init__(self, folder: Path, *, data: ImageDataModule, split: str, metrics: Path | None = None) -> None:
        self.folder = folder
        self.data = data
        self.split = split
        self.metrics = metrics
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._batches = []

    on_test_start = on_validation_start

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        sure, predicted = at_temperature(outputs, getattr(pl_module, "temperature", 1.0)).max(dim=1)
        self._batches.append((hard_labels(batch[-1]), predicted, sure))

    on_test_batch_end = on_validation_batch_end

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        figures: dict[str, Figure] = {}
        if trainer.is_global_zero:
            images, targets = self.data.first_batch(at_most=SEEN)
            figures = {**self._curves(pl_module), "seen.png": draw_seen(images, targets, self.data.classes)}
        if self.split == "val" and self._batches:
            figures |= self._of_evaluation(trainer, trainer.val_dataloaders)
        self._write(trainer, figures)

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        figures = self._of_evaluation(trainer, trainer.test_dataloaders)
        self._write(trainer, {**(self._curves(pl_module) if figures else {}), **figures})

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """The curves up to here of a run that was interrupted, after its checkpoint was saved."""
        if isinstance(exception, Interrupted) and trainer.is_global_zero:
            self._write(trainer, self._curves(pl_module))

    def _curves(self, classifier: Any) -> dict[str, Figure]:
        """Of the whole run, also where it was interrupted: a resumed run goes on in the same file."""
        metrics, self.metrics = self.metrics, None
        if metrics is None or not metrics.is_file():
            return {}
        curves = read_curves(metrics)
        phases = phase_begins(curves, [phase.name for phase in classifier.policy.phases])
        return {"curves.svg": draw_curves(curves, phases, title="Training curves")}

    def _of_evaluation(self, trainer: lightning.Trainer, loader: Any) -> dict[str, Figure]:
        """Empty on ranks other than 0; all of them have to call it."""
        found = self._gathered(trainer, loader)
        if not trainer.is_global_zero or not len(found.image):
            return {}
        right = found.true == found.predicted
        images = f"{len(right):,} {self.split} images"
        matrix = f"Confusion matrix, {images}, {100 * right.double().mean():.2f} % right"
        return {
            "confusion.svg": draw_confusion(found.true, found.predicted, self.data.classes, title=matrix),
            "mistakes.png": draw_mistakes(self._mistakes(found), title=f"The most confident mistakes, {images}"),
            "calibration.svg": draw_calibration(found.confidence, right, title=f"Calibration, {images}"),
        }

    def _gathered(self, trainer: lightning.Trainer, loader: Any) -> Evaluated:
        true, predicted, confidence = (torch.cat(parts).cpu() for parts in zip(*self._batches, strict=True))
        own = Evaluated(torch.tensor(list(loader.sampler))[: len(true)], true, predicted, confidence)
        self._batches = []
        if trainer.world_size == 1:
            return own
        ranks: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, own)
        return Evaluated(*(torch.cat(parts) for parts in zip(*ranks, strict=True)))

    def _mistakes(self, found: Evaluated) -> list[Mistake]:
        """The most confident ones first; in the order of the images where they are equally confident."""
        wrong = (found.true != found.predicted).nonzero().flatten().tolist()
        wrong.sort(key=lambda place: (-float(found.confidence[place]), int(found.image[place])))
        decoded, transform = self.data.images_and_transform(self.split)
        paths: Sequence[str] | None = getattr(self.data.images(self.split), "paths", None)
        classes, mistakes = self.data.classes, []
        for place in wrong[:MISTAKES]:
            index = int(found.image[place])
            mistakes.append(
                Mistake(
                    image=transform(decoded[index][0]),
                    name=Path(paths[index]).name if paths is not None else f"{self.split} image {index}",
                    true=classes[int(found.true[place])],
                    predicted=classes[int(found.predicted[place])],
                    probability=float(found.confidence[place]),
                )
            )
        return mistakes

    def _write(self, trainer: lightning.Trainer, figures: dict[str, Figure]) -> None:
        for name, figure in figures.items():
            path = save_figure(figure, self.folder / name)
            to_dashboards(trainer, path.stem, figure)
        if figures:
            log.info("pictures: %s in %s", ", ".join(figures), self.folder)


def to_dashboards(trainer: lightning.Trainer, name: str, figure: Figure) -> None:
    """Log the figure as the image `pictures/NAME` with each logger that takes images: TensorBoard's and W&B's."""
    takers = [found for found in trainer.loggers if isinstance(found, TensorBoardLogger) or hasattr(found, "log_image")]
    if not takers:
        return
    image = Image.open(io.BytesIO(png_of(figure))).convert("RGB")
    for logger in takers:
        if isinstance(logger, TensorBoardLogger):
            pixels = numpy.asarray(image)
            logger.experiment.add_image(f"pictures/{name}", pixels, trainer.global_step, dataformats="HWC")
        else:
            logger.log_image(f"pictures/{name}", [image])
