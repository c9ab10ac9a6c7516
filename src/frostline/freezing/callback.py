"""The Lightning callback that takes a network through the phases of a policy.

    trainer = Trainer(callbacks=[FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")])

Phases change only at the first batch of an optimizer step. The progress is in the checkpoint and is restored before
the strategy wraps the module, so that DDP reduces all trainable gradients. Validation, test and prediction set no flag.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from frostline.freezing import checks
from frostline.freezing import lightning_internals as internals
from frostline.freezing.apply import apply_phase, check_flags, set_modes
from frostline.freezing.batch_norm import recalibrate_in_fit
from frostline.freezing.learning_rates import PhaseLRMultiplier
from frostline.freezing.phase_clock import PhaseClock
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.report import log, log_once, log_phase, lr_scalars
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy, find_network, resolve_in_module
from frostline.freezing.selectors import select

END = "end of fit"


class FreezingSchedule(pl.Callback):
    """Applies a policy to a LightningModule's network throughout a fit, and checks that frozen tensors stay unchanged.

    Args:
        policy: what trains when; a policy that is already resolved for the network is used as it is.
        attribute: attribute of the LightningModule that holds the network (`net`, `model.backbone`); None: the policy
            is about the whole module, and parameter names begin with the attribute (`net.layer4.*`).
        always_trainable: selectors of parameters that train in every phase, whatever the policy says, such as a new
            head. Not for a resolved policy, which has them already.
        allow_unused: selectors of parameters that may train and yet get no gradient.
        on_mismatch: what to do when a checkpoint to resume from was written under another policy. `restart` keeps its
            weights, step and epoch, and begins the first phase there, with a fresh optimizer and scheduler.
        inputs: a batch of the train loader -> the network's input, for `batch_norm: recalibrate`; None: the batch
            itself or its first entry goes through the module's own `forward`, if it has one.
        recalibration_batches: number of batches for `batch_norm: recalibrate`, at most.
    """

    def __init__(
        self,
        *,
        policy: FreezePolicy | ResolvedPolicy,
        attribute: str | None = None,
        always_trainable: Sequence[str] = (),
        allow_unused: Sequence[str] = (),
        on_mismatch: Literal["refuse", "restart"] = "refuse",
        inputs: Callable[[Any], Any] | None = None,
        recalibration_batches: int = 50,
    ) -> None:
        if on_mismatch not in ("refuse", "restart"):
            raise ValueError(f"`on_mismatch` must be refuse or restart; got {on_mismatch!r}.")
        if recalibration_batches < 1:
            raise ValueError(f"`recalibration_batches` must be at least 1; got {recalibration_batches}.")
        self._given = policy if isinstance(policy, ResolvedPolicy) else None
        self.policy = policy.policy if isinstance(policy, ResolvedPolicy) else policy
        if self._given is not None and always_trainable:
            raise ValueError("`always_trainable` needs a policy that is not resolved yet: give it to policy.resolve.")
        self.attribute = attribute
        self.always_trainable = tuple(always_trainable)
        self.allow_unused = tuple(allow_unused)
        self.on_mismatch = on_mismatch
        self.inputs = inputs
        self.recalibration_batches = recalibration_batches
        self.history: list[dict[str, Any]] = []
        self._clock, self._audit = PhaseClock(self.policy), checks.Audit()
        self._outermost = internals.OutermostHooks(begin=self._begin_audit, end=self._end_audit)
        self._silenced: Any = None  # filter of a warning of Lightning's
        self._network: nn.Module | None = None
        self._resolved: ResolvedPolicy | None = None
        self._multiplier: PhaseLRMultiplier | None = None
        self._loaded: list[Any] = []  # the optimizer states of a checkpoint, until they are checked
        self._gradients_checked = False

    @property
    def resolved(self) -> ResolvedPolicy:
        """The policy read against the network; known from `setup` on."""
        if self._resolved is None:  # FastPath asks, and catches this
            raise RuntimeError("The policy is resolved when a fit is set up.")
        return self._resolved

    @property
    def network(self) -> nn.Module:
        """The network that the policy is about; known from `setup` on."""
        assert self._network is not None, "the network is known when a fit is set up"
        return self._network

    @property
    def phase(self) -> ResolvedPhase:
        """The current phase."""
        return self.resolved.phases[self._clock.state.index]

    def verdict(self) -> dict[str, Any]:
        """Whether every frozen tensor stayed unchanged, and which phase began when and why, in plain values."""
        return {**self._audit.verdict(), "phases": [dict(entry) for entry in self.history]}

    def goes_on(self, trainer: "pl.Trainer") -> bool:
        """Whether the next training batch belongs to the current phase, with the weights and statistics of now."""
        if not self._clock.has_begun:
            return self.policy.batch_norm != "recalibrate"
        return self._clock.due(trainer) is None

    def latest_end(self, trainer: "pl.Trainer") -> int:
        """The optimizer step at which the current phase ends, at the latest; `sys.maxsize` where the run has no end."""
        return self._clock.latest_end(trainer)

    def applied_rates(self) -> list[float]:
        """The learning rate at which each parameter group trains in this step; 0 for a frozen one."""
        assert self._multiplier is not None, "known from on_fit_start on"
        return self._multiplier.group_rates()

    # Before the strategy wraps the module.

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if stage != "fit":
            return
        internals.check_strategy(trainer, phases=len(self.policy.phases))
        if not pl_module.automatic_optimization:
            raise ValueError(
                "FreezingSchedule needs automatic optimization: with manual optimization only the module knows where "
                "an optimizer step begins, and only there a phase may change."
            )
        if trainer.global_step == 0 and trainer.current_epoch == 0:
            self._clock, self._audit, self.history = PhaseClock(self.policy), checks.Audit(), []
        self._network = self._resolved = None
        self._outermost.install(trainer, first=True)
        # A network made in `configure_model` does not exist yet, or not in its final form: it is bound in a later hook.
        if not is_overridden("configure_model", pl_module):
            self._bind(pl_module)

    def _bind(self, pl_module: "pl.LightningModule") -> None:
        self._network = find_network(pl_module, self.attribute)
        self._resolved = self._given or resolve_in_module(
            self.policy, self._network, attribute=self.attribute, always_trainable=self.always_trainable
        )
        apply_phase(self._network, self.phase)

    def on_load_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        # Also called by validate, test and predict, which set no flags.
        if trainer.state.fn != "fit":
            return
        if self._resolved is None:
            self._bind(pl_module)
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if (reason := checks.policy_difference(state, self.resolved)) is not None:
            checks.prepare_restart(trainer, checkpoint, reason, allowed=self.on_mismatch == "restart")
            self._audit.begin(self.network, self.phase)
            return
        assert state is not None
        self._clock.load(trainer, state["progress"], checkpoint["loops"]["fit_loop"])
        self._loaded = checkpoint.get("optimizer_states", [])  # a sharded checkpoint has none
        self._audit.load_state_dict(state["audit"])
        self.history = list(state["history"])
        apply_phase(self.network, self.phase)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.to_dict(),
            "selection": checks.selection_digest(self.resolved),
            "progress": self._clock.state_dict(),
            "audit": self._audit.state_dict(),
            "history": self.history,
        }

    # The fit.

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        optimizer = trainer.optimizers[0]
        checks.check_optimizer(self.network, self.resolved, optimizer)
        if self._loaded and not checks.is_sharded(self.network):
            checks.check_moments(optimizer, self._loaded[0])
        self._loaded = []
        self._release_optimizer()
        self._multiplier = PhaseLRMultiplier(
            optimizer=optimizer,
            network=self.network,
            resolved=self.resolved,
            position=lambda: (self._clock.state.index, self._clock.starts(trainer), trainer.global_step),
            warmup_steps=lambda index: self._clock.warmup_steps(trainer, index),
        )
        self._silenced = internals.silence_eval_warning(pl_module, frozen=len(self.phase.eval_modules))
        internals.average_exactly(trainer)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        internals.restore_eval_warning(self._silenced)
        self._gradients_checked = False
        # Another callback or a sanity check may have set flags and modes since.
        apply_phase(self.network, self.phase)
        for warning in self.resolved.warnings:
            log_once(trainer, warning)
        self._clock.begin_fit(trainer)
        if self._clock.has_begun:
            # Resumed inside a phase: its frozen tensors must be what they were when it began.
            if checks.is_sharded(self.network) or not self._audit.has_begun:
                # The checkpoint has the fingerprints of rank 0's shards only, or of an older frostline.
                self._audit.begin(self.network, self.phase)
            else:
                self._compare(trainer, reason="resume")
                self._audit.copy_buffers(self.network)
            self._log_phase(trainer, reason="resumed")

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if internals.skips_backward(trainer):
            # StochasticWeightAveraging has set all statistics to zero, to collect them again in an epoch without
            # steps; frozen ones, in eval mode, would stay zero.
            self._audit.restore_buffers(self.network)
        elif batch_idx % trainer.accumulate_grad_batches == 0:
            self._enter_due_phase(trainer, pl_module)
        set_modes(self.network, self.phase)
        check_flags(self.network, self.phase)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.loggers and every and (trainer.global_step + 1) % every == 0:
            pl_module.log_dict(lr_scalars(self.resolved, self._learning_rates()), on_step=True, on_epoch=False)

    def _enter_due_phase(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        before = self.phase
        if not self._clock.has_begun:
            reason = self._clock.advance(trainer)
            self._compare(trainer, reason=reason, record=False)
            if self.policy.batch_norm == "recalibrate":
                recalibrate_in_fit(trainer, self.network, before, inputs=self.inputs, limit=self.recalibration_batches)
        elif self._clock.due(trainer) is not None:
            self._compare(trainer, reason="phase change")
            reason = self._clock.advance(trainer)
            internals.restart_patience(trainer)
            apply_phase(self.network, self.phase)
            # All of them, also of parameters that keep training: the old reducer's buckets may own their memory.
            for parameter in pl_module.parameters():
                parameter.grad = None
            if self.phase.trainable != before.trainable:
                internals.rebuild_reducer(trainer)
                internals.reset_compiled_graphs(pl_module)
        else:
            return
        self._audit.begin(self.network, self.phase)
        self._gradients_checked = False
        self.history.append(self._log_phase(trainer, reason=reason))

    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._clock.after_validation(trainer)

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._clock.after_epoch(trainer)

    def on_after_backward(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not self._gradients_checked and not internals.accumulates(trainer):
            unused = select(self.network, self.allow_unused, stages=self.resolved.stages)
            checks.check_gradients(self.network, self.phase, allow_unused=unused)
            self._gradients_checked = True

    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        self._release_optimizer()
        if not self._clock.has_begun or self._resolved is None or isinstance(exception, checks.FrozenTensorChanged):
            return
        with suppress(RuntimeError):  # a device that has failed
            if changed := self._changed(trainer, "exception", False):
                log.error("Frozen tensors changed since phase `%s` began: %s.", self.phase.name, ", ".join(changed))

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        internals.restore_eval_warning(self._silenced)
        self._release_optimizer()

    def _release_optimizer(self) -> None:
        if self._multiplier is not None:
            self._multiplier.remove()
            self._multiplier = None

    def _learning_rates(self) -> dict[str, float]:
        assert self._multiplier is not None, "known from on_fit_start on"
        return self._multiplier.rates()

    def _log_phase(self, trainer: "pl.Trainer", *, reason: str) -> dict[str, Any]:
        return log_phase(
            trainer, self.network, self.resolved, self.phase, reason=reason, learning_rates=self._learning_rates()
        )

    def _begin_audit(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Before any callback's `on_fit_start`: weights that are to be frozen are loaded by now."""
        if self._resolved is None:
            self._bind(pl_module)
            internals.rebuild_reducer(trainer)
        if not self._clock.has_begun:
            self._audit.begin(self.network, self.phase)

    def _end_audit(self, trainer: "pl.Trainer", *, again: bool = False) -> None:
        """After every callback's `on_train_end`, in which averages replace weights; `again` at a later hook."""
        if self._clock.has_begun:
            self._compare(trainer, reason=END, record=not again)
        if not again:
            self._clock.end_fit(trainer)

    def _compare(self, trainer: "pl.Trainer", *, reason: str, record: bool = True) -> None:
        checks.check_unchanged(trainer, self.phase, self._changed(trainer, reason, record), reason=reason)

    def _changed(self, trainer: "pl.Trainer", reason: str, record: bool) -> list[str]:
        averaged = reason in (END, "exception") and internals.averages_weights(trainer)
        settings: dict[str, Any] = {"step": trainer.global_step, "averaged": averaged, "record": record}
        return self._audit.compare(self.network, self.resolved, self.phase, reason=reason, **settings)
