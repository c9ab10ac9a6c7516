"""Kept and computed features give equal weights, bit for bit: every preset in every batch-norm mode.

Uncached, with an empty cache and with a full one, in the memory format of a run at the command line.
"""

from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from torchvision.models.resnet import BasicBlock, ResNet

from frostline.classifier import ImageClassifier
from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.freezing.policy import BatchNormMode, FreezePolicy
from frostline.options import ComputeOptions, FeatureCache, TrainingOptions
from tests.quiet import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:The policy does not fit the run.*"),
]
FOLDER = Path(__file__).parents[1] / "conf" / "freeze"
PRESETS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
del PRESETS["file"], PRESETS["auto"]  # the user's own, and one of the others
MODES = get_args(BatchNormMode)
PRECISIONS = ("32-true", "bf16-mixed")
# Loader workers hand on features as they do images, whatever is frozen: one run of each preset has them.
MATRIX = [
    (preset, mode, PRECISIONS[(row + column) % 2], 2 if mode == MODES[row % len(MODES)] else 0)
    for row, preset in enumerate(PRESETS)
    for column, mode in enumerate(MODES)
]
# Where a batch norm is the first to train behind the frost line, and where the features are an image of one pixel.
DEFAULT = [("backbone", mode, "32-true", 0) for mode in MODES] + [
    ("backbone", "drift", "bf16-mixed", 2),
    ("to_layer3", "drift", "32-true", 0),
    ("to_layer3", "train", "bf16-mixed", 0),
    ("all_but_bias", "affine", "32-true", 0),
    ("all_but_batch_norm", "train", "32-true", 0),
    ("gradual_unfreezing", "drift", "32-true", 0),
]


def trained(
    policy: FreezePolicy, *, precision: Any, workers: int, cache: FeatureCache | None
) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    data = ImageDataModule(
        source=Synthetic(length=14, val_length=4, test_length=4, classes=3, image_size=32),
        image_size=32, batch_size=4, augment=Augmentation(name="none"), loading=Loading(workers=workers),
    )  # fmt: skip
    compute = ComputeOptions(channels_last=True, feature_cache=cache)
    training = TrainingOptions(optimizer=partial(torch.optim.SGD, lr=0.01, momentum=0.9))
    classifier = ImageClassifier(
        network=network, data_spec=data.spec, policy=policy, training=training, compute=compute
    )
    trainer = quiet_trainer(
        max_epochs=2, devices=1, precision=precision, use_distributed_sampler=False, num_sanity_val_steps=0
    )
    torch.manual_seed(11)
    trainer.fit(classifier, datamodule=data)
    return network.state_dict()


@pytest.mark.parametrize(
    ("preset", "mode", "precision", "workers"),
    [*DEFAULT, *(pytest.param(*case, marks=pytest.mark.slow) for case in MATRIX if case not in DEFAULT)],
)
def test_weights_are_equal_to_the_bit(tmp_path: Path, preset: str, mode: Any, precision: str, workers: int) -> None:
    values = {key: value for key, value in PRESETS[preset].items() if key != "name"}
    policy = FreezePolicy.from_dict({**values, "batch_norm": mode})
    options = {"precision": precision, "workers": workers}
    cache = FeatureCache(folder=tmp_path)
    computed = trained(policy, cache=None, **options)
    for kept in (trained(policy, cache=cache, **options), trained(policy, cache=cache, **options)):
        assert [name for name in computed if not torch.equal(computed[name], kept[name])] == []
