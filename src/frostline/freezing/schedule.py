"""The Lightning callback that takes a network through the phases of a policy.

    trainer = Trainer(callbacks=[FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")])

Phases change only at the first batch of an optimizer step. Where a run stands is in the checkpoint and is put back
before the strategy wraps the module, so that DDP reduces what trains. Validation, test and prediction touch no flag.
"""

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from frostline.freezing.announce import announce, log, rate_scalars, rates, say
from frostline.freezing.apply import apply_phase, frozen_tensors, hold_modes, misplaced_flags, release_modes, set_modes
from frostline.freezing.audit import Audit, FrozenTensorMoved, is_sharded
from frostline.freezing.averaging import average_exactly, averages_weights
from frostline.freezing.binding import check_optimizer, difference, find_network, read_against, selection
from frostline.freezing.eval_warning import EvalWarning
from frostline.freezing.gradients import check_gradients
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.progress import Progress, long_warmups, misfits
from frostline.freezing.rates import GroupRates, RateLayer
from frostline.freezing.recalibration import recalibrate_frozen
from frostline.freezing.reducer import (
    accumulates,
    check_resume,
    check_strategy,
    count_patience_again,
    end_restart,
    finish_batch,
    forget_compiled_graphs,
    rebuild_reducer,
    reduced_metric,
    skips_backward,
    steps_per_epoch,
    take_up_validation,
)
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.selectors import select

END = "end of fit"


class FreezingSchedule(pl.Callback):
    """Makes a LightningModule's network obey a policy throughout a fit, and proves that it did.

    Args:
        policy: what trains when.
        attribute: attribute of the LightningModule that holds the network (`net`, `model.backbone`); None: the policy
            speaks of the whole module, and parameter names begin with the attribute (`net.layer4.*`).
        must_train: selectors of what trains in every phase whatever the policy says, such as a new head.
        allow_unused: selectors of parameters that may train and yet get no gradient.
        on_mismatch: what to do when a checkpoint to resume from was written under another policy. `restart` keeps its
            weights, step and epoch, and begins the first phase there, with a fresh optimizer and scheduler.
        inputs: a batch of the train loader -> what the network takes, for `batch_norm: recalibrate`; None: the batch
            itself or its first entry goes through the module's own `forward`, if it has one.
        recalibration_batches: how many batches `batch_norm: recalibrate` looks at.
    """

    def __init__(
        self,
        *,
        policy: FreezePolicy,
        attribute: str | None = None,
        must_train: Sequence[str] = (),
        allow_unused: Sequence[str] = (),
        on_mismatch: Literal["refuse", "restart"] = "refuse",
        inputs: Callable[[Any], Any] | None = None,
        recalibration_batches: int = 50,
    ) -> None:
        if on_mismatch not in ("refuse", "restart"):
            raise ValueError(f"`on_mismatch` must be refuse or restart; got {on_mismatch!r}.")
        if recalibration_batches < 1:
            raise ValueError(f"`recalibration_batches` must be at least 1; got {recalibration_batches}.")
        self.policy = policy
        self.attribute = attribute
        self.must_train = tuple(must_train)
        self.allow_unused = tuple(allow_unused)
        self.on_mismatch = on_mismatch
        self.inputs = inputs
        self.recalibration_batches = recalibration_batches
        self.history: list[dict[str, Any]] = []
        self._progress, self._audit, self._outermost = Progress(), Audit(), _Outermost(self)
        self._network: nn.Module | None = None
        self._resolved: ResolvedPolicy | None = None
        self._rates: GroupRates | None = None
        self._layer: RateLayer | None = None
        self._eval_warning = EvalWarning()
        self._gradients_checked = False
        self._validation_left = False

    # What others ask.

    @property
    def resolved(self) -> ResolvedPolicy:
        """The policy read against the network; known from `setup` on."""
        if self._resolved is None:
            raise RuntimeError("The policy is read against the network when a fit is set up.")
        return self._resolved

    @property
    def network(self) -> nn.Module:
        """The network that the policy speaks of; known from `setup` on."""
        if self._network is None:
            raise RuntimeError("The network is known when a fit is set up.")
        return self._network

    @property
    def phase(self) -> ResolvedPhase:
        """The current phase."""
        return self.resolved.phases[self._progress.index]

    def verdict(self) -> dict[str, Any]:
        """Whether everything frozen held still, and which phase began when and why: plain values for a run's facts."""
        return {**self._audit.verdict(), "phases": [dict(entry) for entry in self.history]}

    def applied_rates(self, trainer: "pl.Trainer") -> list[float]:
        """The learning rate at which each parameter group trains in this step; 0 where it is frozen."""
        assert self._layer is not None
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        groups = trainer.optimizers[0].param_groups
        trains = [any(names.get(id(entry)) in self.phase.trainable for entry in group["params"]) for group in groups]
        rates = zip(self._layer.scheduled, self._factors(trainer), trains, strict=True)
        return [float(rate) * factor if trained else 0.0 for rate, factor, trained in rates]

    # Setting up, before the strategy wraps the module.

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage != "fit":
            return
        check_strategy(trainer, phases=len(self.policy.phases))
        if not pl_module.automatic_optimization:
            raise ValueError(
                "FreezingSchedule needs automatic optimization: with manual optimization nobody but the module knows "
                "where an optimizer step begins, and only there a phase may change."
            )
        if trainer.global_step == 0 and trainer.current_epoch == 0:
            self._progress, self._audit, self.history = Progress(), Audit(), []
        self._network = self._resolved = None
        self._outermost.stand(trainer, first=True)
        # A network made in `configure_model` does not exist yet, or not as it will be: `on_fit_start` sees to it.
        if not is_overridden("configure_model", pl_module):
            self._bind(pl_module)

    def _bind(self, pl_module: "pl.LightningModule") -> None:
        self._network = find_network(pl_module, self.attribute)
        self._resolved = read_against(self.policy, self._network, attribute=self.attribute, must_train=self.must_train)
        apply_phase(self._network, self.phase)

    def on_load_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        # Also called by validate, test and predict, where the flags are none of our business.
        if trainer.state.fn != "fit":
            return
        if self._resolved is None:
            self._bind(pl_module)
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if (reason := difference(state, self.resolved)) is not None:
            if self.on_mismatch == "refuse":
                raise ValueError(
                    f"The checkpoint cannot be resumed under this freezing policy: {reason}. Resume under the policy "
                    "it was written with, start a new run from its weights, or say on_mismatch='restart'."
                )
            step, total_steps = checkpoint["global_step"], trainer.estimated_stepping_batches
            if step >= total_steps:
                raise ValueError(
                    f"Nothing is left to train under the other policy: the checkpoint is of step {step}, and the run "
                    f"has {total_steps}. Train more epochs (max_epochs), or start a new run from its weights."
                )
            log.warning("The first phase begins anew, with a fresh optimizer and scheduler: %s.", reason)
            # Groups and moments belong to the other policy; Lightning restores as many states as there are.
            checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []
            self._audit.begin(self.network, frozen_tensors(self.network, self.phase))
            return
        assert state is not None
        self._progress = Progress.from_dict(state["progress"])
        check_resume(trainer, entered=len(self._progress.starts))
        self._audit.load_state_dict(state["audit"])
        self.history = list(state["history"])
        until = self.phase.phase.until
        if until is not None and until.metric is not None:
            self._validation_left = finish_batch(checkpoint["loops"]["fit_loop"])
        apply_phase(self.network, self.phase)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.to_dict(),
            "selection": selection(self.resolved),
            "progress": self._progress.to_dict(),
            "audit": self._audit.state_dict(),
            "history": self.history,
        }

    def begin_audit(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Take the fingerprints of what the first phase freezes: weights that are to be frozen are loaded by now."""
        if self._resolved is None:
            self._bind(pl_module)
            rebuild_reducer(trainer)
        if not self._progress.starts:
            self._audit.begin(self.network, frozen_tensors(self.network, self.phase))

    def end_audit(self, trainer: "pl.Trainer", *, again: bool = False) -> None:
        """Compare at the end of the fit, after every callback's `on_train_end`, in which averages replace weights.

        Args:
            again: it was compared before, at an earlier hook of the end.

        Raises:
            FrozenTensorMoved: something frozen differs.
        """
        if self._progress.starts:
            self._compare(trainer, reason=END, enter=not again)

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        optimizer = trainer.optimizers[0]
        check_optimizer(self.network, self.resolved, optimizer)
        self._rates = GroupRates(network=self.network, groups=optimizer.param_groups, resolved=self.resolved)
        self._let_optimizer_go()
        self._layer = RateLayer(optimizer=optimizer, factors=lambda: self._factors(trainer))
        self._eval_warning.expect(pl_module, held=len(self.phase.held))
        average_exactly(trainer)

    # The fit.

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._eval_warning.forget()
        self._gradients_checked = False
        apply_phase(self.network, self.phase)
        for note in self.resolved.notes:
            say(trainer, note)
        if any(phase.until and phase.until.metric for phase in self.policy.phases) and not trainer.enable_validation:
            raise ValueError("A phase waits for a metric, but this run has no validation that could give one.")
        total_steps = trainer.estimated_stepping_batches
        if total_steps != float("inf"):
            start = self._progress.starts[0][0] if self._progress.starts else trainer.global_step
            run = {"steps_per_epoch": steps_per_epoch(trainer), "total_steps": int(total_steps), "start": start}
            for message in misfits(self.policy, **run):
                warnings.warn(message, stacklevel=2)
            for message in long_warmups(self.policy, **run):
                if trainer.is_global_zero:
                    log.warning("%s", message)
        if self._validation_left:
            take_up_validation(trainer)
        if self._progress.starts:
            # Resumed inside a phase: what it froze must still be what it was when the phase began.
            if is_sharded(self.network) or not self._audit.has_begun:
                # The checkpoint has the fingerprints of rank 0's shards only, or an older frostline's.
                self._audit.begin(self.network, frozen_tensors(self.network, self.phase))
            else:
                self._compare(trainer, reason="resume")
                self._audit.copy_buffers(self.network)
            self._announce(trainer, reason="resumed")

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if skips_backward(trainer):
            # StochasticWeightAveraging has zeroed all statistics, to collect them anew in an epoch without steps;
            # frozen ones, in eval mode, would stay zero.
            self._audit.put_buffers_back(self.network)
        elif batch_idx % trainer.accumulate_grad_batches == 0:
            self._move_on(trainer, pl_module)
        set_modes(self.network, self.phase)
        if misplaced := misplaced_flags(self.network, self.phase):
            raise RuntimeError(
                f"Phase `{self.phase.name}`: somebody else set requires_grad of {', '.join(misplaced)}. What trains is "
                "for the freezing policy alone to say; under DDP the ranks would drift apart."
            )
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.loggers and every and (trainer.global_step + 1) % every == 0:
            pl_module.log_dict(rate_scalars(self.resolved, self._learning_rates(trainer)), on_step=True, on_epoch=False)

    def _move_on(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Enter the first phase, or as many next ones as are due."""
        step, epoch, before = trainer.global_step, trainer.current_epoch, self.phase
        if not self._progress.starts:
            reason = "start"
            self._progress.begin(0, step=step, epoch=epoch)
            self._compare(trainer, reason=reason, enter=False)
            if self.policy.batch_norm == "recalibrate":
                names = self.phase.frozen_batch_norms
                release_modes(self.network)
                count = recalibrate_frozen(
                    trainer, self.network, names, inputs=self.inputs, limit=self.recalibration_batches
                )
                hold_modes(self.network, self.phase)
                say(trainer, f"Statistics of {len(names)} frozen batch norms estimated anew on {count} batches.")
        else:
            due = self._due(trainer)
            if due is None:
                return
            self._compare(trainer, reason="phase change")
            while due is not None:
                self._progress.begin(self._progress.index + 1, step=step, epoch=epoch)
                reason, due = due, self._due(trainer)
            count_patience_again(trainer)
            apply_phase(self.network, self.phase)
            # All of them, also those that go on: the old reducer's buckets may own their memory.
            for parameter in pl_module.parameters():
                parameter.grad = None
            if self.phase.trainable != before.trainable:
                rebuild_reducer(trainer)
                forget_compiled_graphs(pl_module)
        self._audit.begin(self.network, frozen_tensors(self.network, self.phase))
        self._gradients_checked = False
        self.history.append(self._announce(trainer, reason=reason))

    def _due(self, trainer: "pl.Trainer", *, epochs_ahead: int = 0) -> str | None:
        until = self.phase.phase.until
        total_steps = trainer.estimated_stepping_batches if until and until.fraction else float("inf")
        epoch = trainer.current_epoch + epochs_ahead
        return self._progress.due(self.policy, step=trainer.global_step, epoch=epoch, total_steps=total_steps)

    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        until = self.phase.phase.until
        if until is not None and until.metric is not None:
            value = reduced_metric(trainer, until.metric, asked_by=f"Phase `{self.phase.name}`")
            self._progress.evaluate(until, value, step=trainer.global_step)
        # A phase change that is due comes before an early stop at the same evaluation.
        if self._progress.starts and self._due(trainer) is not None:
            count_patience_again(trainer)

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._validation_left:
            self._validation_left = False
            end_restart(trainer)
        if self._progress.starts and self._due(trainer, epochs_ahead=1) is not None:
            count_patience_again(trainer)

    def on_after_backward(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not self._gradients_checked and not accumulates(trainer):
            unused = select(self.network, self.allow_unused, stages=self.resolved.stages)
            check_gradients(self.network, self.phase, allow_unused=unused)
            self._gradients_checked = True

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._let_optimizer_go()

    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        self._let_optimizer_go()
        if not self._progress.starts or self._resolved is None or isinstance(exception, FrozenTensorMoved):
            return
        with suppress(RuntimeError):  # a device that has failed
            changed = self._changed(trainer, reason="exception", enter=False)
            if changed:
                log.error("Phase `%s` froze what has moved since it began: %s.", self.phase.name, ", ".join(changed))

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        self._eval_warning.forget()
        self._let_optimizer_go()

    # Below the hooks.

    def _let_optimizer_go(self) -> None:
        if self._layer is not None:
            self._layer.remove()
            self._layer = None

    def _factors(self, trainer: "pl.Trainer") -> list[float]:
        assert self._rates is not None
        starts = self._progress.starts or [(trainer.global_step, trainer.current_epoch)]
        return self._rates.factors(self._progress.index, starts, trainer.global_step)

    def _learning_rates(self, trainer: "pl.Trainer") -> dict[str, float]:
        return rates(self.network, self.phase, trainer.optimizers[0].param_groups, self._factors(trainer))

    def _announce(self, trainer: "pl.Trainer", *, reason: str) -> dict[str, Any]:
        learning_rates = self._learning_rates(trainer)
        return announce(trainer, self.network, self.resolved, self.phase, reason=reason, learning_rates=learning_rates)

    def _compare(self, trainer: "pl.Trainer", *, reason: str, enter: bool = True) -> None:
        """Compare what the phase froze with what it was when the phase began.

        Raises:
            FrozenTensorMoved: something differs, on this rank or another.
        """
        changed = self._changed(trainer, reason=reason, enter=enter)
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
            named = ", ".join(changed) or "on another rank, which names it"
            raise FrozenTensorMoved(
                f"Phase `{self.phase.name}` froze what has moved since it began ({reason}, step "
                f"{trainer.global_step}): {named}. Somebody wrote to it, or called an optimizer or a batch norm past "
                "the policy. Weights are loaded before the fit, or in `setup`."
            )

    def _changed(self, trainer: "pl.Trainer", *, reason: str, enter: bool) -> list[str]:
        averaged: set[str] = set()
        if reason in (END, "exception") and averages_weights(trainer):
            # What moved in an earlier phase may now be the average over the run that was asked for; what never moved
            # is its own average, to the bit.
            now = set(frozen_tensors(self.network, self.phase))
            for phase in self.resolved.phases[: self._progress.index]:
                averaged |= now - set(frozen_tensors(self.network, phase))
        step = trainer.global_step
        return self._audit.compare(
            self.network, phase=self.phase.name, reason=reason, step=step, except_for=averaged, enter=enter
        )


class _Outermost(pl.Callback):
    """Runs the audit of a schedule's fit before every other callback's first hook and after their last.

    It stands first in the trainer's list until the fit starts and last from then on; writes in a module's own
    `teardown`, the last thing that Lightning calls, are all that it does not see.
    """

    def __init__(self, schedule: FreezingSchedule) -> None:
        self.schedule = schedule

    def stand(self, trainer: "pl.Trainer", *, first: bool) -> None:
        """A new list each time: Lightning may be going through the old one."""
        others = [entry for entry in trainer.callbacks if entry is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others] if first else [*others, self]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self.schedule.begin_audit(trainer, pl_module)
        self.stand(trainer, first=False)

    def on_fit_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self.schedule.end_audit(trainer)

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage == "fit":
            self.schedule.end_audit(trainer, again=True)
