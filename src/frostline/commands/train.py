"""frostline train: from a resolved config to a run folder with a trained classifier."""

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.commands import ranks, resuming, run_folder
from frostline.commands.allocator import keep_freed_memory
from frostline.commands.command_line import command_line, command_to_go_on
from frostline.commands.failures import USER_ERROR, USER_MISTAKES, fail, message_of
from frostline.commands.launcher import launched_outside, outside_world
from frostline.commands.run_log import end_loggers, explain, explained_elsewhere, log_into, quiet_libraries
from frostline.commands.words import typed_keys
from frostline.config import secret_values
from frostline.config.commands import TrainConfig
from frostline.config.groups import CommandConfig
from frostline.config.recommended import AUTO, keys_left
from frostline.config.rules import processes_of
from frostline.config.validation import ConfigError
from frostline.storage.run_files import LOG
from frostline.tracking.wandb_access import wandb_problem

if TYPE_CHECKING:
    from frostline.data.source import ImageSource

log = logging.getLogger("frostline")


def run(config: TrainConfig) -> None:
    """Prepare the run folder, then train in it: here, or on as many processes as the config asks for."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    folder, outside = Path(hydra.runtime.output_dir).resolve(), launched_outside()
    with ranks.refusal_announced(folder) if outside else nullcontext():
        _run(folder, config, list(hydra.overrides.task), outside=outside)


def _run(folder: Path, config: TrainConfig, overrides: list[str], *, outside: bool) -> None:
    if outside:
        config = on_outside_world(config)
    if config.resume_from is not None:
        config = checked_resume(config, overrides)
    wandb = config.logger.wandb
    if wandb is not None and (problem := wandb_problem(offline=wandb.offline)):
        fail([problem])
    if not outside and config.device.num_nodes > 1:
        fail(["device.num_nodes: several nodes need a launcher: srun (scripts/slurm/train.sbatch) or torchrun."])
    try:
        with run_folder.claimed(folder), run_folder.removed_where_refused(folder):
            resumed = run_folder.continued(folder, config)
            if resumed.resume_from != config.resume_from:
                resumed = checked_resume(resumed, overrides)
            _run_in(folder, _chosen(resumed), overrides, outside=outside)
    except ConfigError as error:
        fail(error.problems)
    except USER_MISTAKES as error:
        fail([message_of(error)])


def _chosen(config: TrainConfig) -> "tuple[TrainConfig, str, ImageSource | None]":
    """The config without `auto`, what was chosen, and the source of images that was read for it."""
    if not keys_left(config):  # without torch, which the parent of several processes needs for nothing else
        return config, "", None
    from frostline.commands.defaults import without_auto

    chosen = without_auto(config)
    return chosen.config, chosen.text, chosen.source


def _run_in(
    folder: Path, chosen: "tuple[TrainConfig, str, ImageSource | None]", overrides: list[str], *, outside: bool
) -> None:
    config, text, source = chosen
    run_folder.prepare(folder, config, overrides)
    sys.argv = [secret_values.hide(word) for word in sys.argv]  # which W&B records
    if outside:
        ranks.announce(folder)
    processes = processes_of(config.device)  # of this node: several nodes come from outside
    if text:
        log.info("%s\n", text)
    if outside or processes == 1:
        train_in(folder, config, source=source)
    elif code := ranks.start(folder, config, processes=processes):
        raise SystemExit(code)


def checked_resume(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """Compare the config with that of the checkpoint to go on from, whose values it takes for `auto`."""
    from frostline.checkpoint import read_description
    from frostline.commands.defaults import with_stored

    try:
        checkpoint = read_description(str(config.resume_from), key="resume_from")
    except USER_MISTAKES as error:
        fail([message_of(error)])
    config = with_stored(config, checkpoint)
    if found := resuming.problems(checkpoint, config, typed=typed_keys(overrides)):
        fail(found)
    return config


def join(folder: Path, own: CommandConfig) -> None:
    """A rank other than 0 under torchrun or srun: wait for rank 0's config, then train with the others.

    Args:
        own: the config as this process composed it, for the secrets that the run folder does not hold.
    """
    folder = folder.resolve()
    if not ranks.await_config(folder):
        raise SystemExit(USER_ERROR)  # rank 0 says why
    settings = run_folder.read_config(folder)
    if secret_values.marked(settings):
        settings = secret_values.with_secrets(settings, own.as_dict())
    train_in(folder, TrainConfig.model_validate(settings))


def train_in(folder: Path, config: TrainConfig, *, source: "ImageSource | None" = None) -> None:
    """Train in a prepared run folder; a user's mistake ends in one message, anything else also in a traceback.

    Args:
        source: the source of images, where it has been built already.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from frostline.freezing.checks import FrozenTensorChanged, GradientCheckFailed
    from frostline.tracking.checkpoints import Interrupted
    from frostline.tracking.facts import environment_facts

    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    if config.speed.allocator:
        keep_freed_memory()
    log_into(folder, rank)
    try:
        if rank == 0:
            run_folder.write_facts(folder, environment_facts(command=command_line(), seed=config.seed))
        train(folder, config, source=source)
    except Interrupted as interruption:
        log.info("%s", interruption)
        if interruption.checkpoint is not None:
            log.info("To go on: %s", command_to_go_on(interruption.checkpoint, config))
        code = 128 + interruption.signum
        end_loggers(code)
        raise SystemExit(code) from None
    # The policy's own checks fail where a network of the user's writes to what is frozen, or leaves parameters unused;
    # Lightning's Trainer where a number of batches does not fit the data.
    except (*USER_MISTAKES, FrozenTensorChanged, GradientCheckFailed, MisconfigurationException) as error:
        explain(error, folder, rank)
        end_loggers(USER_ERROR)
        raise SystemExit(USER_ERROR) from None
    except Exception as error:
        if not folder.is_dir():
            explain(error, folder, rank)
            raise SystemExit(USER_ERROR) from None
        if explained_elsewhere(folder, rank):
            raise SystemExit(USER_ERROR) from None
        log.exception("frostline stopped by an error of its own or of a library's; this log is %s", folder / LOG)
        end_loggers(1)
        raise SystemExit(1) from None
    end_loggers(0)


def train(folder: Path, config: TrainConfig, *, source: "ImageSource | None" = None) -> None:
    """The story of a run: build, fit, test. Callbacks record and print, most of it `RunRecord`."""
    from lightning import seed_everything
    from lightning.pytorch.utilities import rank_zero_only

    from frostline.commands.build import build_classifier, build_data
    from frostline.commands.expectations import expectations, refuse_frozen_random_weights
    from frostline.commands.run_length import refuse_unreached_phases
    from frostline.commands.trainer import build_trainer

    quiet_libraries()
    seed_everything(config.seed, verbose=False)
    data = build_data(
        resuming.with_interpolation(config.data, config.resume_from),
        config.augment,
        seed=config.seed,
        model=config.model,
        same_batches=config.trainer.overfit_batches is not None,
        built=source,
    )
    splits = (("train", "val") if config.fit else ()) + (("test",) if config.test else ())
    rank_zero_only(data.check_images)(splits)  # before the work
    classifier, weights = build_classifier(config, data)
    if config.fit:
        refuse_unreached_phases(classifier, config.trainer, data)
        refuse_frozen_random_weights(config, classifier, weights)
        for sentence in expectations(config, data, weights):
            rank_zero_only(log.info)("%s", sentence)
    trainer = build_trainer(config, folder=folder, data=data, weights=weights)
    if config.fit:
        with resuming.restored(trainer, config.resume_from):
            trainer.fit(classifier, datamodule=data, ckpt_path=config.resume_from, weights_only=True)
    if config.test and data.images("test") is not None:
        best = getattr(trainer.checkpoint_callback, "best_model_path", None) or None
        trainer.test(classifier, datamodule=data, ckpt_path=best, verbose=False, weights_only=True)


def on_outside_world(config: TrainConfig) -> TrainConfig:
    """The config with the number of processes that torchrun or srun started."""
    processes, nodes = outside_world()
    asked = (config.device.devices, config.device.num_nodes)
    if asked not in ((1, 1), ("all", 1), (processes, nodes)):
        fail(
            [
                f"device.devices: {asked[0]} per node on {asked[1]} nodes are configured, but the launcher started "
                f"{processes} per node on {nodes}. Leave device.devices and device.num_nodes out, or make them agree."
            ]
        )
    batch, world = config.data.batch_size, processes * nodes
    if batch != AUTO and batch % world:
        fail([f"data.batch_size: {batch} images cannot be shared evenly by {world} processes (the size is global)."])
    device = config.device.model_copy(update={"devices": processes, "num_nodes": nodes})
    return config.model_copy(update={"device": device})
