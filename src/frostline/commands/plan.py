"""frostline plan: what a run with the same overrides would train when, without training."""

from pathlib import Path

import torch
from lightning import seed_everything

from frostline.commands.build import build_classifier, build_data
from frostline.commands.failures import explained
from frostline.commands.quoting import override_text, shell_text
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import PlanConfig
from frostline.config.model import OwnBackbone
from frostline.data.datamodule import limited
from frostline.freezing.phase_clock import warmup_warnings
from frostline.freezing.policy import write_policy
from frostline.storage.atomic import atomically
from frostline.tracking.plan import draw_plan, plan, plan_table


@explained
def run(config: PlanConfig) -> None:
    """Print the phases as a table; draw them and export the policy where that is asked for."""
    quiet_libraries()
    seed_everything(config.seed, verbose=False)
    data = build_data(config.data, config.augment, seed=config.seed, model=config.model)
    # Which weights a policy freezes does not change what it costs.
    random = config.model_copy(update={"model": config.model.model_copy(update={"weights": "none"})})
    classifier, _ = build_classifier(random, data)
    trainer = config.trainer
    limit = int(trainer.fast_dev_run) or trainer.overfit_batches or trainer.limit_train_batches
    steps_per_epoch = -(-limited(data.batches_per_epoch, limit) // trainer.accumulate_grad_batches)
    epochs = 1 if trainer.fast_dev_run else trainer.max_epochs
    total_steps = min(steps_per_epoch * epochs, trainer.max_steps or 2**62)
    planned = plan(
        classifier.network,
        classifier.resolved,
        images=torch.rand(2, 3, data.image_size, data.image_size),
        lr=float(classifier.build_optimizer().param_groups[0]["lr"]),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    long = warmup_warnings(classifier.policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    for warning in (*classifier.resolved.warnings, *long):
        print(warning)
    print(plan_table(planned))
    print(f"\n{total_steps} optimizer steps, {steps_per_epoch} an epoch; learning rates before the scheduler's factor")
    if config.output is not None:
        network = "own network" if isinstance(config.model, OwnBackbone) else config.model.name
        draw_plan(planned, Path(config.output), title=f"{network}, freeze={config.freeze.name}")
        print(f"drawn: {Path(config.output).resolve()}")
    if config.export is not None:
        path = Path(config.export)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomically(path) as part:
            write_policy(classifier.policy, part)
        again = shell_text(override_text("freeze.path", str(path)))
        print(f"exported: {path.resolve()}; edit it and give it back: freeze=file {again}")
