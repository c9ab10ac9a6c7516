"""frostline lr_find: a learning rate from a range test of a run with the same overrides."""

import time
from dataclasses import replace
from pathlib import Path

from lightning import seed_everything

from frostline.classifier import ImageClassifier
from frostline.commands.build import build_classifier, build_data
from frostline.commands.defaults import without_auto
from frostline.commands.failures import explained
from frostline.commands.phases import phase_index
from frostline.commands.run_log import quiet_libraries
from frostline.commands.trainer import device_options
from frostline.config.commands import LrFindConfig
from frostline.config.model import OwnBackbone
from frostline.data.datamodule import ImageDataModule
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.lr_range_test import RangeTest, RateRange, draw_range_test, range_test, suggestion


@explained
def run(config: LrFindConfig) -> None:
    """Print the suggestion as an override, and draw the losses."""
    quiet_libraries()
    seed_everything(config.seed, verbose=False)
    chosen = without_auto(config)
    config = chosen.config
    if chosen.text:
        print(f"{chosen.text}\n")
    # The schedule of the test gives the rates.
    optimizer = config.optimizer.model_copy(update={"lr": 1.0})
    config = config.model_copy(update={"optimizer": optimizer})
    data = build_data(config.data, config.augment, seed=config.seed, model=config.model, built=chosen.source)
    data.check_images(("train",))
    classifier, weights = build_classifier(config, data)
    if weights.warning:
        print(weights.warning)
    phase = phase_to_test(classifier.resolved, config.phase)
    begun = time.monotonic()
    found = _test(config, classifier, phase, data)
    network = "own network" if isinstance(config.model, OwnBackbone) else config.model.name
    several = len(classifier.resolved.phases) > 1
    title = f"{network}, freeze={config.freeze.name}" + (f", phase {phase.name}" if several else "")
    print(
        f"{title}: {len(found.rates)} steps of {config.data.batch_size} images in {time.monotonic() - begun:.0f} s, "
        f"from lr={found.rates[0]:.2g} to {found.rates[-1]:.2g}"
    )
    rate = suggestion(found)
    if config.output is not None:
        draw_range_test(found, Path(config.output), title=title)
        print(f"drawn: {Path(config.output).resolve()}")
    if rate is None:
        raise ValueError(
            f"lr_find: no rate to suggest: the loss never fell clearly below the {found.losses[0]:.3g} at which it "
            f"began, at rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g}. Check the labels and the images; "
            "with frozen random weights (model.weights=none) little can be learned; a larger data.batch_size has less "
            "noise; or test other rates: min_lr, max_lr, steps."
        )
    if rate == found.rates[-1]:
        print("the loss still fell at the highest rate: test higher ones by max_lr")
    print(f"\noptimizer.lr={rate:.2g}")


def phase_to_test(resolved: ResolvedPolicy, name: str | None) -> ResolvedPhase:
    """The phase of a name; by default the one that trains most, as one rate has to suit all phases.

    Raises:
        ValueError: there is no such phase.
    """
    if name is None:
        return max(resolved.phases, key=lambda phase: len(phase.trainable))
    return resolved.phases[phase_index(resolved, name)]


def _test(config: LrFindConfig, classifier: ImageClassifier, phase: ResolvedPhase, data: ImageDataModule) -> RangeTest:
    """Test the classifier's network under a policy of one phase, at the phase's factors without its warm-up."""
    policy, options = classifier.policy, config.trainer
    alone = replace(policy.phases[phase.index], until=None, warmup_steps=0)
    static = FreezePolicy(phases=(alone,), batch_norm=policy.batch_norm, dropout=policy.dropout)
    rates = RateRange(lowest=config.min_lr, highest=config.max_lr, steps=config.steps)
    tested = ImageClassifier(
        network=classifier.network,
        data_spec=classifier.data_spec,
        policy=static.resolve(classifier.network, always_trainable=sorted(phase.forced)),
        training=replace(classifier.training_options, scheduler=rates.schedule),
        compute=classifier.compute_options,
    )
    return range_test(
        tested,
        data,
        rates,
        accumulate_grad_batches=options.accumulate_grad_batches,
        gradient_clip_val=options.gradient_clip_val,
        gradient_clip_algorithm=options.gradient_clip_algorithm if options.gradient_clip_val else None,
        limit_train_batches=options.overfit_batches or options.limit_train_batches,
        deterministic=options.deterministic,
        **device_options(config.device, precision=options.precision, image_size=data.image_size),
    )
