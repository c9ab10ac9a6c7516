"""Rules between keys, and between keys and this machine, that need no torch to be checked."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from frostline.config.augment import Augment, OwnAugment
from frostline.config.data import Data, Random
from frostline.config.freeze import PolicyFile
from frostline.config.model import Model
from frostline.config.optimizer import SGD, Optimizer, Rprop, Step
from frostline.config.recommended import AUTO
from frostline.config.speed import Cache, Speed
from frostline.config.training import MONITORED, Callbacks, CrossEntropy, Device, Loggers, Metrics, TrainerSection
from frostline.nearest import suggest
from frostline.prefix.engine_names import converts

# torch 2.15's oneDNN leaves bf16 gradients of a 3x3 convolution of stride 2 over a 1x1 map partly uninitialised (1e30
# in a weight, without a word). A ResNet's layer4 has such maps at 16 pixels and below.
SMALLEST_BF16_ON_CPU = 17


def broken_rules(sound: Mapping[str, Any]) -> list[str]:
    """One message for each broken rule between keys that are each well-formed.

    Args:
        sound: a command's keys and its groups' sections; malformed ones are left out.
    """
    return [*_files(sound), *_devices(sound), *_training(sound), *_speed(sound)]


def visible_gpus() -> int:
    """NVIDIA GPUs that a process started here would see, asked of the driver's files: torch takes seconds to import."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    if chosen is None:
        return present
    return min(present, len([name for name in chosen.split(",") if name.strip() not in ("", "-1")]))


def processes_of(device: Device) -> int:
    """Processes that train together, at least one."""
    per_node = visible_gpus() if device.devices == "all" else device.devices
    return max(1, per_node * device.num_nodes)


def _files(sound: Mapping[str, Any]) -> Iterator[str]:
    policy = sound.get("freeze")
    if isinstance(policy, PolicyFile) and Path(policy.path).is_file():
        try:
            policy.policy()
        except (ValueError, OSError) as error:
            yield f"freeze.path: {error}"
    picture = sound.get("output") if {"export", "max_lr"} & sound.keys() else None
    if picture is not None and Path(picture).suffix not in (".svg", ".png", ".pdf"):
        yield f"output: `{picture}` must end in .svg, .png or .pdf."
    for key in ("output", "export"):
        inputs = [sound.get("checkpoint"), *_listed(sound.get("inputs"))]
        if sound.get(key) is not None and _is_file_of(sound[key], inputs):
            yield f"{key}: `{sound[key]}` is an input of this command, which it would replace. Name another file."
    if "skip_broken" in sound and "output" in sound:
        yield from _shards_folder(Path(sound["output"]))


def _shards_folder(output: Path) -> Iterator[str]:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        yield f"output: `{output}` is there already, and not empty. Name a folder that is not."


def _listed(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def _is_file_of(path: str, named: Iterable[str | None]) -> bool:
    return Path(path).is_file() and any(file and Path(file).is_file() and Path(path).samefile(file) for file in named)


def _devices(sound: Mapping[str, Any]) -> Iterator[str]:
    device: Device | None = sound.get("device")
    if device is None:
        return
    gpus, devices = visible_gpus(), device.devices
    alone = {"checkpoint", "max_lr"} & sound.keys()  # frostline lr_find, and the commands that read a checkpoint
    if alone and (devices != 1 or device.num_nodes != 1):
        yield "device.devices: this command runs on one device. Use device=auto, device=cpu or device=gpu."
    if alone and device.strategy != "auto":
        yield "device.strategy: this command runs on one device. Leave it out."
    if device.accelerator == "cpu" and devices == "all":
        yield "device.devices: `all` is for GPUs; give a number of CPU processes."
    if device.accelerator == "gpu" and gpus == 0:
        yield "device.accelerator: there is no GPU here. Use device=cpu, or device=cpu_ddp for several processes."
    elif device.accelerator != "cpu" and gpus and devices != "all" and devices > gpus:
        yield f"device.devices: {devices} GPUs wanted, but {gpus} {'is' if gpus == 1 else 'are'} visible."
    ranks = processes_of(device)
    data: Data | None = sound.get("data")
    batch = AUTO if data is None else data.batch_size
    if batch != AUTO and ranks > 1 and batch % ranks:
        near = sorted({max(ranks, batch // ranks * ranks), (batch // ranks + 1) * ranks})
        yield (
            f"data.batch_size: {batch} images cannot be shared evenly by {ranks} processes (the size is global). "
            f"Use {' or '.join(map(str, near))}."
        )
    trainer: TrainerSection | None = sound.get("trainer")
    if trainer is None or not (device.accelerator == "cpu" or (device.accelerator == "auto" and not gpus)):
        return
    if trainer.precision == "16-mixed":
        yield "trainer.precision: 16-mixed needs a GPU. On a CPU use bf16-mixed, 32-true or auto."
    size = data.image_size if data is not None else None
    if trainer.precision == "bf16-mixed" and size is not None and size < SMALLEST_BF16_ON_CPU:
        yield (
            f"trainer.precision: bf16-mixed on a CPU needs a data.image_size of {SMALLEST_BF16_ON_CPU} or more, not "
            f"{size}: torch leaves gradients of smaller feature maps uninitialised. Use 32-true or auto."
        )
    if trainer.sync_batchnorm:
        yield "trainer.sync_batchnorm: needs GPUs; torch has it for no CPU. Set it to false."


def _training(sound: Mapping[str, Any]) -> Iterator[str]:
    resume_from, init_from, fit = sound.get("resume_from"), sound.get("init_from"), sound.get("fit")
    if fit is False and sound.get("test") is False:
        yield "fit, test: both are false, so there is nothing to do."
    if resume_from is not None and fit is False:
        yield "resume_from: goes with fit=true. To test a checkpoint, use `frostline evaluate checkpoint=PATH`."
    model: Model | None = sound.get("model")
    if init_from is not None:
        if resume_from is not None and not Path(resume_from).is_dir():  # a sweep's
            yield "init_from, resume_from: one starts a new run, the other goes on with an old one. Leave one out."
        if model is not None and model.weights not in ("auto", "none"):
            yield "init_from, model.weights: both say where the weights come from. Leave one out."
    if sound.get("on_policy_change") == "restart" and resume_from is None:
        yield "on_policy_change: restart is about the checkpoint in resume_from; name one."
    if sound.get("on_policy_change") == "restart" and sound.get("averaging") == "ema":
        yield "on_policy_change, averaging: restart goes on without the average. Use init_from in place of resume_from."
    if "resume_from" in sound and sound.get("trust_checkpoint") and resume_from is None:
        yield "trust_checkpoint: is about the checkpoint in resume_from; name one."
    optimizer: Optimizer | None = sound.get("optimizer")
    if isinstance(optimizer, SGD) and optimizer.nesterov and not optimizer.momentum:
        yield "optimizer.nesterov: needs optimizer.momentum > 0."
    if isinstance(optimizer, SGD) and optimizer.nesterov and optimizer.dampening:
        yield "optimizer.nesterov: needs optimizer.dampening=0."
    if optimizer is not None and optimizer.exclude_from_decay:
        decay = 0.0 if isinstance(optimizer, Rprop) else optimizer.weight_decay  # None: a class's own default
        if decay == 0:
            yield "optimizer.exclude_from_decay: optimizer.weight_decay is 0, so there is nothing to leave out."
    if isinstance(optimizer, Rprop) and optimizer.step_sizes[0] >= optimizer.step_sizes[1]:
        yield "optimizer.step_sizes: the smallest step must lie below the largest."
    yield from _falls(sound)
    lowest, highest = sound.get("min_lr"), sound.get("max_lr")
    if lowest is not None and highest is not None and lowest >= highest:
        yield f"min_lr, max_lr: the rates rise from the first to the second, but {lowest:g} is not below {highest:g}."
    trainer: TrainerSection | None = sound.get("trainer")
    if trainer is not None:
        yield from _trainer(trainer)
        if trainer.fast_dev_run and resume_from is not None:
            yield "trainer.fast_dev_run: tries a run from its start. Leave it or resume_from out."
    callbacks: Callbacks | None = sound.get("callbacks")
    if callbacks is not None and callbacks.gradient_flow_every_n_steps and sound.get("logger") == Loggers():
        yield "callbacks.gradient_flow_every_n_steps: there is no logger to write to. Choose one, as logger=csv."
    metrics: Metrics | None = sound.get("metrics")
    choices = ["auto", *MONITORED, *(f"val/{name}" for name in (metrics.model_extra if metrics else None) or ())]
    if callbacks is not None and callbacks.monitor not in choices:
        yield (
            f"callbacks.monitor: there is no value `{callbacks.monitor}`.{suggest(callbacks.monitor, choices)} The "
            f"choices are: {', '.join(choices)}."
        )
    loss = sound.get("loss")
    if isinstance(sound.get("data"), Random) and isinstance(loss, CrossEntropy) and loss.class_weights == "balanced":
        yield "loss.class_weights: the random source has soft labels, so there are no classes to count. Use none."


def _trainer(trainer: TrainerSection) -> Iterator[str]:
    every = trainer.check_val_every_n_epoch
    if every is not None and trainer.max_epochs != AUTO and every > trainer.max_epochs:
        yield (
            f"trainer.check_val_every_n_epoch: {every} is more than trainer.max_epochs={trainer.max_epochs}, so that "
            "nothing would be validated."
        )
    if every is None and not isinstance(trainer.val_check_interval, int):
        yield "trainer.check_val_every_n_epoch: null needs a number of batches: trainer.val_check_interval=100."
    if trainer.gradient_clip_algorithm == "value" and trainer.gradient_clip_val is None:
        yield "trainer.gradient_clip_algorithm: nothing is clipped without trainer.gradient_clip_val."
    limits = (trainer.limit_train_batches, trainer.limit_val_batches)
    if trainer.overfit_batches is not None and limits != (None, None):
        yield "trainer.overfit_batches: sets limit_train_batches and limit_val_batches. Leave it or those out."


def _falls(sound: Mapping[str, Any]) -> Iterator[str]:
    scheduler, trainer = sound.get("scheduler"), sound.get("trainer")
    if not isinstance(scheduler, Step) or trainer is None or sound.get("resume_from") is not None:
        return
    size, epochs = scheduler.step_size, trainer.max_epochs
    if size is not None and isinstance(epochs, int) and size >= epochs and scheduler.gamma < 1:
        yield (
            f"scheduler.step_size: {size} epochs, but the run has {epochs} (trainer.max_epochs), so the learning rate "
            "would never fall. Use fewer, or leave it out: then it falls after each third of the run."
        )


def _speed(sound: Mapping[str, Any]) -> Iterator[str]:
    speed: Speed | None = sound.get("speed")
    cache: Cache | None = sound.get("cache")
    if speed is None or cache is None:
        return
    if speed.feature_cache and not speed.frozen_prefix:
        yield "speed.feature_cache: needs speed.frozen_prefix=true; to keep nothing, set speed.feature_cache=false too."
    if converts(speed.engine) and not speed.frozen_prefix:
        yield f"speed.engine: {speed.engine} needs speed.frozen_prefix=true. Or choose speed.engine=torch."
    if converts(speed.engine) and sound.get("averaging") == "ema":
        yield (
            f"speed.engine, averaging: {speed.engine} converts frozen layers once, but those that trained before are "
            "validated as their average. Use speed.engine=torch."
        )
    if cache.views and not speed.feature_cache:
        yield "cache.views: nothing is kept with speed.feature_cache=false. Leave one out."
    augment: Augment | None = sound.get("augment")
    if cache.views and augment is not None:
        if isinstance(augment, OwnAugment):
            yield "cache.views: views of a transform of your own are not kept. Leave cache.views out."
        elif augment.name == "none":
            yield "cache.views: augment=none makes one view of each image. Leave cache.views out, or choose an augment."
        elif augment.mixup or augment.cutmix:
            yield "cache.views: mixup and cutmix make new images in each batch, which cannot be kept. Leave one out."
