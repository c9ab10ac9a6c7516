"""frostline train: from a resolved config to a run folder with a trained classifier."""

import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from frostline.commands import ranks, resuming, run_folder
from frostline.commands.allocator import keep_freed_memory
from frostline.commands.command_line import command_line, command_to_go_on
from frostline.commands.failures import USER_ERROR, USER_MISTAKES, fail, message_of
from frostline.commands.imports import quick_imports
from frostline.commands.run_log import end_loggers, explain, explained_elsewhere, log_into, quiet_libraries
from frostline.config import secret_values
from frostline.config.commands import CommandConfig, TrainConfig
from frostline.config.rules import visible_gpus
from frostline.tracking.wandb_access import wandb_problem

log = logging.getLogger("frostline")


def run(config: TrainConfig) -> None:
    """Prepare the run folder, then train in it: here, or on as many processes as the config asks for."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir).resolve()
    outside = ranks.launched_outside()
    if outside:
        config = on_outside_world(config)
    if config.resume_from is not None:
        check_resume(config, hydra.overrides.task)
    wandb = config.logger.wandb
    if wandb is not None and (problem := wandb_problem(offline=wandb.offline)):
        fail([problem])
    if not outside and config.device.num_nodes > 1:
        fail(["device.num_nodes: several nodes need a launcher: srun (scripts/slurm/train.sbatch) or torchrun."])
    try:
        with run_folder.claimed(folder):
            resumed = run_folder.continued(folder, config)
            if resumed.resume_from != config.resume_from:
                check_resume(resumed, hydra.overrides.task)
            _run_in(folder, resumed, list(hydra.overrides.task), outside=outside)
    except USER_MISTAKES as error:
        fail([message_of(error)])


def _run_in(folder: Path, config: TrainConfig, overrides: list[str], *, outside: bool) -> None:
    run_folder.prepare(folder, config, overrides)
    sys.argv = [secret_values.hide(word) for word in sys.argv]  # which W&B records
    devices = config.device.devices
    if outside:
        ranks.announce(folder)
    processes = max(1, visible_gpus()) if devices == "all" else devices
    if outside or processes == 1:
        train_in(folder, config)
    elif code := ranks.start(folder, config, processes=processes):
        raise SystemExit(code)


def check_resume(config: TrainConfig, overrides: Sequence[str]) -> None:
    """Read the checkpoint to go on from, and compare its config with this one, before there is a run folder."""
    with quick_imports():
        from frostline.checkpoint import read_checkpoint

    try:
        checkpoint = read_checkpoint(str(config.resume_from), key="resume_from", resumable=True)
    except USER_MISTAKES as error:
        fail([message_of(error)])
    typed = {override.partition("=")[0].lstrip("+~").partition("@")[0] for override in overrides}
    if found := resuming.problems(checkpoint, config, typed=typed):
        fail(found)


def take_changes_over(config: TrainConfig, trainer: Any) -> list[resuming.Change]:
    """What of the config is another than in the checkpoint and holds from now on; the optimizer gets its values."""
    from frostline.checkpoint import CHECKPOINT_KEY, read_checkpoint
    from frostline.commands.build import wants_fused
    from frostline.resume import ChangedOptimizer

    stored = read_checkpoint(str(config.resume_from), key="resume_from")[CHECKPOINT_KEY]["settings"]
    changed = resuming.applied(stored, config.as_dict())
    places = [(change.key.partition("."), change) for change in changed]
    values = {name: (change.before, change.now) for (group, _, name), change in places if group == "optimizer"}
    if changed:
        trainer.callbacks.append(ChangedOptimizer(values=values, fused=wants_fused(config)))
    return changed


def join(folder: Path, own: CommandConfig) -> None:
    """A rank other than 0 under torchrun or srun: wait for rank 0's config, then train with the others.

    Args:
        own: the config as this process composed it, for the secrets that the run folder does not hold.
    """
    folder = folder.resolve()
    ranks.await_config(folder)
    settings = run_folder.read_config(folder)
    if secret_values.marked(settings):
        settings = secret_values.with_secrets(settings, own.as_dict())
    train_in(folder, TrainConfig.model_validate(settings))


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Free what a run has made, at its end: a sweep's runs share a process.

    Trainer and network refer to each other, so that the network of each run stayed, 45 MB and more, until Python looked
    for garbage by itself. To look through all that was imported takes a quarter of a second, hence not through that.
    """
    with quick_imports():
        import frostline.commands.build  # noqa: F401 - with all that a run imports

        gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


@_nothing_left()
def train_in(folder: Path, config: TrainConfig) -> None:
    """Train in a prepared run folder; a user's mistake ends in one message, anything else also in a traceback."""
    from frostline.freezing.checks import FrozenTensorChanged, GradientCheckFailed
    from frostline.tracking.checkpoints import Interrupted

    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    if config.speed.allocator:
        keep_freed_memory()
    log_into(folder, rank)
    try:
        train(folder, config, is_first=rank == 0)
    except Interrupted as interruption:
        log.info("%s", interruption)
        if interruption.checkpoint is not None:
            log.info("To go on: %s", command_to_go_on(interruption.checkpoint, config))
        code = 128 + interruption.signum
        end_loggers(code)
        raise SystemExit(code) from None
    # The policy's own checks fail where a network of the user's writes to what is frozen, or leaves parameters unused.
    except (*USER_MISTAKES, FrozenTensorChanged, GradientCheckFailed) as error:
        explain(error, folder, rank)
        end_loggers(USER_ERROR)
        raise SystemExit(USER_ERROR) from None
    except Exception as error:
        if not folder.is_dir():
            explain(error, folder, rank)
            raise SystemExit(USER_ERROR) from None
        if explained_elsewhere(folder, rank):
            raise SystemExit(USER_ERROR) from None
        log.exception(
            "frostline stopped by an error of its own or of a library's; this log is %s", folder / "train.log"
        )
        end_loggers(1)
        raise SystemExit(1) from None
    end_loggers(0)


def train(folder: Path, config: TrainConfig, *, is_first: bool) -> None:
    """The story of a run."""
    from lightning import seed_everything

    from frostline.commands.build import build_classifier, build_data
    from frostline.commands.trainer import build_trainer
    from frostline.freezing.callback import FreezingSchedule
    from frostline.tracking.facts import environment_facts
    from frostline.tracking.report import evaluation_facts, evaluation_text, places_text, plan_text
    from frostline.tracking.throughput import Throughput, data_advice_for, speed_text

    quiet_libraries()
    seed_everything(config.seed, verbose=False)
    if is_first:
        run_folder.write_facts(folder, environment_facts(command=command_line(), seed=config.seed))
    data = build_data(config.data, config.augment, seed=config.seed)
    if is_first:
        data.check_images((("train", "val") if config.fit else ()) + (("test",) if config.test else ()))
    classifier, loaded = build_classifier(config, data)
    trainer = build_trainer(config, folder=folder, data=data)
    leave_cores_to_workers(config, data, trainer)
    if is_first:
        device = f"device: {trainer.accelerator.name()} × {trainer.world_size}, precision {trainer.precision}"
        log.info("%s", plan_text(data=data, weights=loaded.summary(), device=device))
        if loaded.warning:
            log.warning("WARNING: %s\n", loaded.warning)
        run_folder.write_facts(folder, {"data": data.facts()})
        run_folder.write_facts(folder, {"weights": {"source": loaded.source, "warning": loaded.warning}})
    if config.resume_from is not None:
        for change in take_changes_over(config, trainer):
            log.info("resume_from: from here on another value: %s", change)
    best = ""
    if config.fit:
        with _restored(trainer, config.resume_from):
            trainer.fit(classifier, datamodule=data, ckpt_path=config.resume_from, weights_only=True)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if is_first:
            [schedule] = [found for found in callbacks_of(trainer) if isinstance(found, FreezingSchedule)]
            reached = {"steps": trainer.global_step, "epochs": trainer.current_epoch, "best_checkpoint": best or None}
            run_folder.write_facts(folder, {**reached, "freezing": schedule.verdict()})
            if features := classifier.feature_facts():
                run_folder.write_facts(folder, {"features": features})
            [throughput] = [found for found in callbacks_of(trainer) if isinstance(found, Throughput)]
            if speed := throughput.facts():
                advice = data_advice_for(trainer, speed)
                run_folder.write_facts(folder, {"speed": {**speed, "advice": advice or None}})
                log.info("%s", speed_text(speed, advice=advice))
    if config.test and data.images("test") is not None:
        [tested] = trainer.test(classifier, datamodule=data, ckpt_path=best or None, verbose=False, weights_only=True)
        outcome = evaluation_facts(tested, classifier.confusion, classifier.classes)
        if is_first:
            run_folder.write_facts(folder, outcome)
            log.info("%s", evaluation_text(outcome))
    if is_first:
        log.info("%s", places_text(folder, best))


@contextmanager
def _restored(trainer: Any, checkpoint: str | None) -> Iterator[None]:
    """Name the file where its state cannot be taken up.

    Raises:
        ValueError: what Lightning or a callback made of the state, until all of it was restored.
    """
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        if checkpoint is None or not trainer._checkpoint_connector._loaded_checkpoint:
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{checkpoint}: a run cannot go on from its state, which is damaged or of another version "
            f"({type(error).__name__}: {reason}). To start a new run from its weights: init_from={checkpoint}"
        ) from error


def leave_cores_to_workers(config: TrainConfig, data: Any, trainer: Any) -> None:
    """Compute with as many threads as the loader's workers leave cores, where the config names no number."""
    import torch

    data.trainer = trainer
    if config.fit and config.device.threads is None and (threads := data.threads_beside_workers):
        torch.set_num_threads(threads)


def callbacks_of(trainer: Any) -> list[Any]:
    """All callbacks, those that the module brought among them; Lightning does not declare the attribute."""
    return list(trainer.callbacks)


def on_outside_world(config: TrainConfig) -> TrainConfig:
    """The config with the number of processes that torchrun or srun started."""
    processes, nodes = ranks.outside_world()
    asked = (config.device.devices, config.device.num_nodes)
    if asked not in ((1, 1), ("all", 1), (processes, nodes)):
        fail(
            [
                f"device.devices: {asked[0]} per node on {asked[1]} nodes are configured, but the launcher started "
                f"{processes} per node on {nodes}. Leave device.devices and device.num_nodes out, or make them agree."
            ]
        )
    batch, world = config.data.batch_size, processes * nodes
    if batch % world:
        fail([f"data.batch_size: {batch} images cannot be shared evenly by {world} processes (the size is global)."])
    device = config.device.model_copy(update={"devices": processes, "num_nodes": nodes})
    return config.model_copy(update={"device": device})
