"""Try networks of torchvision and timm with random weights, and write the table of docs/networks.md.

python scripts/networks.py                     all of them; 5 to 20 s each
python scripts/networks.py timm/mixer_s16_224  some, printed only

Each trains with its backbone frozen and from a middle stage on: with computed and with cached features (equal bits),
with the audit of frozen tensors, interrupted and resumed (equal bits). Its plan is made and its graph is drawn.
"""

import gc
import logging
import sys
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from frostline.autograd.drawing import draw_stages
from frostline.autograd.observe import observe
from frostline.classifier import ImageClassifier
from frostline.data.datamodule import ImageDataModule
from frostline.data.loading import Loading
from frostline.data.synthetic import Synthetic
from frostline.data.transforms import Augmentation
from frostline.freezing import FreezePolicy, stages_of
from frostline.models.backbones import inputs_of
from frostline.models.network import build_network
from frostline.optim import parameter_groups
from frostline.options import ComputeOptions, FeatureCache, TrainingOptions
from frostline.resume import ExactResume
from frostline.schedulers import SCHEDULERS
from frostline.tracking.plan import plan, plan_table
from frostline.tracking.planned_rates import planned_rates

PAGE = Path(__file__).resolve().parents[1] / "docs/networks.md"
# Image size where 64 px are too few or no whole number of patches and windows.
SIZES = {
    "inception_v3": 96, "maxvit_t": 224, "alexnet": 96,
    "timm/swin_tiny_patch4_window7_224": 224, "timm/maxvit_rmlp_pico_rw_256": 256, "timm/eva02_tiny_patch14_224": 56,
    "timm/vit_small_patch14_dinov2": 56, "timm/coatnet_nano_rw_224": 224, "timm/tiny_vit_5m_224": 224,
    "timm/levit_128s": 224, "timm/hiera_tiny_224": 224, "timm/gcvit_xxtiny": 224,
}  # fmt: skip
NETWORKS = (
    "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "alexnet", "vgg11_bn", "squeezenet1_1", "densenet121",
    "googlenet", "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5",
    "efficientnet_b0", "efficientnet_v2_s", "regnet_y_400mf", "convnext_tiny", "vit_b_32", "swin_t", "swin_v2_t",
    "maxvit_t", "timm/resnet10t", "timm/seresnext26t_32x4d", "timm/resnetv2_50", "timm/convnext_atto",
    "timm/convnextv2_atto", "timm/efficientnet_b0", "timm/mobilenetv3_small_050", "timm/mobilenetv4_conv_small",
    "timm/regnety_002", "timm/densenet121", "timm/ghostnet_050", "timm/vit_tiny_patch16_224",
    "timm/deit_tiny_patch16_224", "timm/deit_tiny_distilled_patch16_224", "timm/swin_tiny_patch4_window7_224",
    "timm/vit_small_patch14_dinov2", "timm/vit_small_patch16_dinov3", "timm/eva02_tiny_patch14_224",
    "timm/mixer_s16_224", "timm/resmlp_12_224", "timm/poolformer_s12", "timm/mobilevit_xxs", "timm/levit_128s",
    "timm/pit_ti_224", "timm/xcit_nano_12_p16_224", "timm/edgenext_xx_small",
)  # fmt: skip


def data_for(name: str) -> ImageDataModule:
    """Eight training images, four for validation."""
    size = SIZES.get(name, 64)
    return ImageDataModule(
        source=Synthetic(length=8, val_length=4, test_length=4, classes=3, image_size=size),
        image_size=size, batch_size=4, augment=Augmentation(name="none"), loading=Loading(workers=0),
    )  # fmt: skip


def options_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a network is built with: its name, the images' size where it needs that, and what is given."""
    return {"name": name, **inputs_of(name).options(SIZES.get(name, 64)), **given}


def fit(
    name: str,
    *train: str,
    given: Mapping[str, Any],
    cache: Path | None = None,
    epochs: int = 2,
    resume_from: Path | None = None,
    save: Path | None = None,
) -> tuple[ImageClassifier, dict[str, Tensor]]:
    """A classifier after some epochs, and its weights; every run starts from the same ones."""
    data = data_for(name)
    lightning.seed_everything(0, verbose=False)
    network, _ = build_network(model=options_of(name, given), head={"name": "linear"}, classes=3)
    classifier = ImageClassifier(
        network=network,
        data_spec=data.spec,
        policy=FreezePolicy.static(*train),
        training=TrainingOptions(optimizer=partial(torch.optim.AdamW, lr=1e-3)),
        compute=ComputeOptions(channels_last=True, feature_cache=FeatureCache(folder=cache) if cache else None),
    )
    trainer = lightning.Trainer(
        accelerator="cpu", precision="32-true", max_epochs=epochs, callbacks=[ExactResume()], logger=False,
        num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, devices=1,
    )  # fmt: skip
    lightning.seed_everything(1, verbose=False)
    trainer.fit(classifier, datamodule=data, ckpt_path=resume_from, weights_only=True if resume_from else None)
    if save is not None:
        trainer.save_checkpoint(save)
    assert classifier._schedule.verdict()["held"], f"{name}: a frozen tensor has changed"
    weights = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    gc.collect()  # trainer and classifier refer to each other: without it, 22 GB after five networks
    return classifier, weights


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that differ in at least one bit."""
    return [key for key in one if not torch.equal(one[key], other[key])]


def try_network(name: str, folder: Path, **given: Any) -> dict[str, Any]:
    """What the table says of a network.

    Args:
        given: arguments of its builder, as `depth=2`.

    Raises:
        AssertionError: a promise does not hold.
    """
    lightning.seed_everything(0, verbose=False)
    built, _ = build_network(model=options_of(name, given), head={"name": "linear"}, classes=3)
    stages = list(stages_of(built))
    middle = f"from:{stages[len(stages) // 2]}"
    row: dict[str, Any] = {"name": name, "stages": stages, "middle": middle}
    for place, train in (("backbone", "head"), ("half", middle)):
        computed, weights = fit(name, train, given=given)
        cache = folder / place
        for _ in ("written", "read"):
            classifier, cached = fit(name, train, given=given, cache=cache)
            assert not (found := differing(weights, cached)), f"{name}, {train}: cached features change {found[:3]}"
        facts = classifier.feature_facts().get("train")
        assert facts is None or facts["computed"] == 0, f"{name}, {train}: {facts} computed again"
        row[place] = facts is not None
    fit(name, middle, given=given, epochs=1, save=folder / "half.ckpt")
    _, resumed = fit(name, middle, given=given, resume_from=folder / "half.ckpt")
    assert not (found := differing(weights, resumed)), f"{name}: resuming changes {found[:3]}"
    images = torch.rand(2, 3, SIZES.get(name, 64), SIZES.get(name, 64))
    optimizer = torch.optim.SGD(parameter_groups(computed.network, resolved=computed.resolved, lr=0.1))
    rates = partial(
        planned_rates, optimizer=optimizer, scheduler=SCHEDULERS["constant"]()(optimizer, 4, 2),
        network=computed.network, resolved=computed.resolved, total_steps=4,
    )  # fmt: skip
    planned = plan(computed.network, computed.resolved, images=images, rates=rates, steps_per_epoch=2, total_steps=4)
    row["plan"] = plan_table(planned)
    observation = observe(computed.network, images, lambda logits: logits.sum())
    row["picture"] = draw_stages(observation, title=name).save(folder / "stages.svg")
    row["parameters"] = sum(parameter.numel() for parameter in computed.network.parameters())
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| network | parameters | stages | features cached | with the first half frozen |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        words = ["yes" if row[key] else "no, computed with the rest" for key in ("backbone", "half")]
        names = ", ".join(f"`{stage}`" for stage in row["stages"][:3]) + ", …, `head`"
        size = f"{row['parameters'] / 1e6:.1f} M"
        lines.append(f"| `{row['name']}` | {size} | {len(row['stages'])}: {names} | {' | '.join(words)} |")
    return "\n".join(lines)


def main() -> None:
    """Try the networks that are named, or all of them and write their table."""
    warnings.simplefilter("ignore")
    for library in ("lightning.pytorch", "lightning.fabric", "frostline"):
        logging.getLogger(library).setLevel(logging.ERROR)
    names, rows, failed = sys.argv[1:] or NETWORKS, [], []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append(try_network(name, Path(folder)))
                print(name, {key: rows[-1][key] for key in ("backbone", "half", "middle")}, flush=True)
            except Exception as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
                print("FAILED", failed[-1], flush=True)
    if not sys.argv[1:]:
        start, end = "<!-- networks -->", "<!-- end -->"
        before, _, rest = PAGE.read_text().partition(start)
        PAGE.write_text(f"{before}{start}\n{table(rows)}\n{end}{rest.partition(end)[2]}")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
