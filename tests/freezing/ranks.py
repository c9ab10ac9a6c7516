"""The cases of `test_ranks.py`, as run by each of two gloo processes, and by one process on the joined batches.

torchrun --nproc-per-node 2 -m freezing.ranks OUT [NETWORK …]
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
import torchvision
from freezing.tiny import TinyModule, images, seeded_net, trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.utils.data import DataLoader, Subset

from frostline.freezing import FreezePolicy, FreezingSchedule, lightning_internals
from frostline.freezing.checks import GradientCheckFailed
from frostline.models.backbones import inputs_of
from frostline.models.network import build_network

WORLD, LOCAL, BATCHES = 2, 4, 4

HEAD = {"name": "head", "train": ["head"]}
MIDDLE = {"name": "middle", "train": ["conv2", "head"]}
WEIGHTS = {"name": "weights", "train": ["all", "!@BatchNorm2d"]}
EVERYTHING = {"name": "everything", "train": ["all"]}


def phased(*phases: dict[str, Any], every: dict[str, Any], **region: str) -> dict[str, Any]:
    """Phases that last equally long, but for the last."""
    timed = [{**phase, "until": every} for phase in phases[:-1]]
    return {"phases": [*timed, phases[-1]], **region}


@dataclass
class Case:
    policy: dict[str, Any]
    # Batch norm in training mode normalises each rank's own batch, unlike one process on the joined one.
    joined: bool = True
    epochs: int = 3
    network: Callable[[], nn.Module] = seeded_net
    side: int = 8
    optimizer: Callable[[Any], Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    strategy: Callable[[], Any] = lambda: "ddp"
    validate: bool = False


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3)


class SynchronisedNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks. torch's SyncBatchNorm does it on GPUs only, and DDP refuses it on CPU.

    Each rank has equally many images, so that the mean over ranks of a mean is the mean of all.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(images)
        mean = across(images.mean((0, 2, 3)))
        variance = across((images - mean.view(1, -1, 1, 1)).square().mean((0, 2, 3)))
        count = images.numel() // images.shape[1] * world()
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        return images * scale.view(1, -1, 1, 1) + (self.bias - mean * scale).view(1, -1, 1, 1)


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def across(value: torch.Tensor) -> torch.Tensor:
    """The mean over all ranks, through which gradients flow."""
    return all_reduce(value) / world() if world() > 1 else value


def synchronised_net() -> nn.Module:
    net = seeded_net()
    for name in ("bn1", "bn2"):
        norm = SynchronisedNorm(getattr(net, name).num_features)
        norm.load_state_dict(getattr(net, name).state_dict())
        setattr(net, name, norm)
    return net


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)


STEPS = {"steps": 3}  # mid-epoch: an epoch has four
METRIC = {"metric": "val/loss", "mode": "min", "patience": 1, "min_delta": 0.02, "max_epochs": 4}

CASES = {
    "steps": Case(phased(HEAD, MIDDLE, WEIGHTS, every=STEPS)),
    "epochs": Case(phased(HEAD, MIDDLE, WEIGHTS, every={"epochs": 1}), optimizer=adamw),
    "fraction": Case(phased(HEAD, WEIGHTS, every={"fraction": 0.4})),
    "again_frozen": Case(phased(HEAD, WEIGHTS, HEAD | {"name": "head again"}, every=STEPS)),
    "accumulation": Case(phased(HEAD, WEIGHTS, every={"steps": 2}), settings={"accumulate_grad_batches": 2}),
    "clipping": Case(phased(HEAD, WEIGHTS, every=STEPS), settings={"gradient_clip_val": 0.1}),
    "bucket_view": Case(
        phased(HEAD, MIDDLE, WEIGHTS, every=STEPS), strategy=lambda: DDPStrategy(gradient_as_bucket_view=True)
    ),
    "bf16": Case(phased(HEAD, WEIGHTS, every=STEPS), settings={"precision": "bf16-mixed"}, joined=False),
    "batch_norm_trains": Case(phased(HEAD, MIDDLE, EVERYTHING, every=STEPS), joined=False),
    "drift": Case(phased(HEAD, WEIGHTS, every=STEPS, batch_norm="drift"), joined=False),
    "affine": Case(phased(HEAD, WEIGHTS, every=STEPS, batch_norm="affine")),
    "recalibrate": Case(phased(HEAD, WEIGHTS, every=STEPS, batch_norm="recalibrate"), joined=False),
    "synchronised_norms": Case(phased(HEAD, MIDDLE, EVERYTHING, every=STEPS), network=synchronised_net),
    "synchronised_drift": Case(
        phased(HEAD, MIDDLE, EVERYTHING, every=STEPS, batch_norm="drift"), network=synchronised_net
    ),
    "metric": Case(phased(HEAD, MIDDLE, WEIGHTS, every=METRIC), validate=True, epochs=10),
    "resnet18": Case(
        phased(HEAD, {"name": "top", "train": ["layer4", "head", "!@BatchNorm2d"]}, WEIGHTS, every={"steps": 2}),
        network=resnet18,
        side=32,
        epochs=2,
    ),
    "fsdp2": Case(
        phased(HEAD, MIDDLE, WEIGHTS, every=STEPS),
        strategy=lambda: ModelParallelStrategy(data_parallel_size=WORLD, tensor_parallel_size=1),
    ),
}


LIBRARY = {
    "mobilenet_v3_small": "features.11", "shufflenet_v2_x0_5": "stage4", "timm/vit_tiny_patch16_224": "blocks.10",
    "timm/convnext_atto": "stages.3", "timm/vit_small_patch16_dinov3": "blocks.11",
}  # fmt: skip


def library_network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = {"name": name, **inputs_of(name).options(64)}
    return build_network(model=model, head={"name": "linear"}, classes=3)[0]


def library_case(name: str) -> Case:
    """Two unfreezings of a network of torchvision's or timm's, from its last but one stage and its stem on."""
    middle = {"name": "middle", "train": [f"from:{LIBRARY[name]}"]}
    return Case(
        phased(HEAD, middle, EVERYTHING, every={"steps": 2}),
        network=partial(library_network, name),
        side=64,
        epochs=2,
        joined=False,
    )


class Module(TinyModule):
    """Shards itself under ModelParallelStrategy, which asks modules to."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss


class ShardedModule(Module):
    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        mesh = self.device_mesh["data_parallel"]
        for part in (self.net.conv1, self.net.conv2, self.net.bn2, self.net.head, self.net):
            fully_shard(part, mesh=mesh)


class Recorder(pl.Callback):
    """What the network holds when each phase begins, on this rank, before its first step."""

    def __init__(self, schedule: FreezingSchedule) -> None:
        self.schedule = schedule
        self.phases: list[tuple[str, int, dict[str, torch.Tensor]]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        name = self.schedule.phase.name
        if [entry[0] for entry in self.phases[-1:]] != [name]:
            self.phases.append((name, trainer.global_step, state(pl_module.net)))


def state(network: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in network.state_dict().items()
    }


def data(rank: int | None, *, side: int, seed: int = 1, same: bool = False) -> DataLoader:
    """A rank's part of each joined batch; None: the joined batches. `same`: one batch again and again."""
    whole = images(WORLD * LOCAL * (1 if same else BATCHES), seed, side)
    rows = list(range(len(whole)))
    batches = [rows[start : start + WORLD * LOCAL] for start in range(0, len(rows), WORLD * LOCAL)]
    if rank is not None:
        batches = [batch[rank * LOCAL : (rank + 1) * LOCAL] for batch in batches]
    chosen = [row for batch in batches for row in batch] * (BATCHES if same else 1)
    return DataLoader(Subset(whole, chosen), batch_size=len(batches[0]))


def run(
    case: Case, rank: int | None, *, same: bool = False, callbacks: list[Any] | None = None, **fit: Any
) -> dict[str, Any]:
    schedule = FreezingSchedule(policy=FreezePolicy.from_dict(case.policy), attribute="net")
    recorder = Recorder(schedule)
    ours = trainer(
        [schedule, recorder, *(callbacks or [])],
        max_epochs=case.epochs,
        use_distributed_sampler=False,
        num_sanity_val_steps=2,
        enable_checkpointing=bool(callbacks),
        **({} if rank is None else {"strategy": case.strategy(), "devices": WORLD}),
        **case.settings,
    )
    sharded = rank is not None and isinstance(ours.strategy, ModelParallelStrategy)
    module = (ShardedModule if sharded else Module)(case.network(), case.optimizer)
    validation = data(rank, side=case.side, seed=2) if case.validate else None
    ours.fit(module, data(rank, side=case.side, same=same), validation, weights_only=True, **fit)
    return {
        "phases": recorder.phases,
        "history": schedule.history,
        "final": state(module.net),
        "losses": getattr(module, "losses", []),
        "verdict": schedule.verdict(),
        "optimizer": {} if sharded else ours.optimizers[0].state_dict(),
    }


def unreduced(rank: int) -> dict[str, Any]:
    """The same without wrapping the module again when parameters are unfrozen, as in Lightning's own callback."""
    rebuild = lightning_internals.rebuild_reducer
    lightning_internals.rebuild_reducer = lambda trainer: None
    try:
        run(CASES["steps"], rank)
    except GradientCheckFailed as error:
        return {"error": str(error)}
    finally:
        lightning_internals.rebuild_reducer = rebuild
    return {"error": None}


RESUMED = {
    "steps": CASES["steps"],
    "accumulation": CASES["accumulation"],
    "epochs": CASES["epochs"],
    "fsdp2": CASES["fsdp2"],
}


def resumed(case: Case, rank: int, folder: Path) -> dict[str, Any]:
    """The uninterrupted run, and runs resumed from each of its steps; the same batch each time on each rank."""
    saver = ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(case, rank, same=True, callbacks=[saver])
    again = {}
    # Every other one: before, at and after each phase change all the same.
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))[::2]:
        try:
            again[path.stem] = run(case, rank, same=True, ckpt_path=path)
        except ValueError as error:
            again[path.stem] = {"refused": str(error)}
    return {"whole": whole, "again": again}


def main(out: Path, *names: str) -> None:
    """All cases; with the names of library networks, theirs only."""
    rank = int(os.environ["RANK"])
    for name in names:
        torch.save(run(library_case(name), rank), out / f"{name.replace('/', '-')}-{rank}.pt")
    if names:
        return
    for name, case in CASES.items():
        torch.save(run(case, rank), out / f"{name}-{rank}.pt")
    torch.save(unreduced(rank), out / f"unreduced-{rank}.pt")
    for name, case in RESUMED.items():
        torch.save(resumed(case, rank, out / f"checkpoints-{name}"), out / f"resumed_{name}-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
