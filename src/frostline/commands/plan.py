"""frostline plan: what a run with the same overrides would train when, without training."""

from functools import partial
from pathlib import Path

import torch
from lightning import seed_everything

from frostline.commands.build import build_classifier, build_data
from frostline.commands.defaults import without_auto
from frostline.commands.failures import explained
from frostline.commands.quoting import override_text, shell_text
from frostline.commands.run_length import refuse_unreached_phases, run_length
from frostline.commands.run_log import quiet_libraries
from frostline.config.commands import PlanConfig
from frostline.config.model import OwnBackbone
from frostline.freezing.phase_clock import schedule_warnings, timeline, warmup_warnings
from frostline.freezing.policy import write_policy
from frostline.storage.atomic import atomically
from frostline.tracking.plan import draw_plan, plan, plan_table, rates_table
from frostline.tracking.planned_rates import planned_rates


@explained
def run(config: PlanConfig) -> None:
    """Print the phases as a table; draw them and export the policy where that is asked for."""
    quiet_libraries()
    seed_everything(config.seed, verbose=False)
    chosen = without_auto(config)
    config = chosen.config
    data = build_data(config.data, config.augment, seed=config.seed, model=config.model, built=chosen.source)
    # Which weights a policy freezes does not change what it costs.
    random = config.model_copy(update={"model": config.model.model_copy(update={"weights": "none"})})
    classifier, _ = build_classifier(random, data)
    refuse_unreached_phases(classifier, config.trainer, data)
    total_steps, steps_per_epoch = run_length(config.trainer, data)
    optimizer = classifier.build_optimizer()
    scheduler = classifier.training_options.scheduler(optimizer, total_steps, steps_per_epoch)
    resolved = classifier.resolved
    planned = plan(
        classifier.network,
        resolved,
        images=torch.rand(2, 3, data.image_size, data.image_size),
        rates=partial(
            planned_rates,
            optimizer=optimizer,
            scheduler=scheduler,
            network=classifier.network,
            resolved=resolved,
            total_steps=total_steps,
        ),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )
    spans = timeline(resolved.policy, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
    if chosen.text:
        print(f"{chosen.text}\n")
    for warning in (*resolved.warnings, *schedule_warnings(spans, total_steps=total_steps), *warmup_warnings(spans)):
        print(warning)
    print(f"{plan_table(planned)}\n\nlearning rates, warm-up and schedule included:\n{rates_table(planned)}\n")
    print(f"{total_steps} optimizer steps, {steps_per_epoch} an epoch")
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
