"""The Lightning callback that takes a network through the phases of a policy.

    trainer = Trainer(callbacks=[FreezingSchedule(policy=FreezePolicy.static("head"), attribute="net")])

Phases change only at the first batch of an optimizer step. Where a run stands is in the checkpoint and is put back
before the strategy wraps the module, so that DDP reduces what trains. Validation, test and prediction touch no flag.
"""

import hashlib
import json
import logging
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from frostline.freezing.apply import apply_phase, frozen_tensors, misplaced_flags, set_modes
from frostline.freezing.audit import FrozenTensorMoved, fingerprints, moved
from frostline.freezing.gradients import check_gradients
from frostline.freezing.plain import suggest
from frostline.freezing.policy import FreezePolicy
from frostline.freezing.progress import Progress, timeline
from frostline.freezing.rates import GroupRates, RateLayer
from frostline.freezing.recalibration import calibration_batches, first_input
from frostline.freezing.reducer import accumulates, check_strategy, rebuild_reducer, skips_backward
from frostline.freezing.report import as_text, freezing_table, total
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.selectors import select
from frostline.freezing.stages import bare, stage_of
from frostline.freezing.statistics import recalibrate

log = logging.getLogger(__name__)


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
        self.policy = policy
        self.attribute = attribute
        self.must_train = tuple(must_train)
        self.allow_unused = tuple(allow_unused)
        self.on_mismatch = on_mismatch
        self.inputs = inputs
        self.recalibration_batches = recalibration_batches
        self.history: list[dict[str, Any]] = []
        self.audits: list[dict[str, Any]] = []
        self._progress = Progress()
        self._resolved: ResolvedPolicy | None = None
        self._network: nn.Module | None = None
        self._layer: RateLayer | None = None
        self._marks: dict[str, int] = {}
        self._kept: dict[str, Tensor] = {}
        self._checked = False
        self._unused: frozenset[str] = frozenset()

    # What others ask.

    @property
    def resolved(self) -> ResolvedPolicy:
        """The policy read against the network; known from `setup` on."""
        if self._resolved is None:
            raise RuntimeError("The policy is read against the network when the fit is set up.")
        return self._resolved

    @property
    def network(self) -> nn.Module:
        """The network that the policy speaks of; known from `setup` on."""
        if self._network is None:
            raise RuntimeError("The network is known when the fit is set up.")
        return self._network

    @property
    def phase(self) -> ResolvedPhase:
        """The current phase."""
        return self.resolved.phases[self._progress.index]

    def verdict(self) -> dict[str, Any]:
        """Whether everything frozen held still, in plain values, for the run's facts."""
        return {
            "held": bool(self.audits) and all(not audit["moved"] for audit in self.audits),
            "tensors_compared": sum(audit["tensors"] for audit in self.audits),
            "audits": [dict(audit) for audit in self.audits],
            "phases": [dict(entry) for entry in self.history],
        }

    # Setting up: before the strategy wraps the module.

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
            self._progress, self.history, self.audits, self._marks = Progress(), [], [], {}
        self._resolved = self._network = None
        # A network made in `configure_model` does not exist yet, or not as it will be: `on_fit_start` sees to it.
        if not is_overridden("configure_model", pl_module):
            self._settle(pl_module)

    def _settle(self, pl_module: "pl.LightningModule") -> None:
        """Find the network, read the policy against it, and apply the current phase."""
        self._network = bare(self._find(pl_module))
        try:
            self._resolved = self.policy.resolve(self._network, must_train=self.must_train)
        except ValueError as error:
            holders = [name for name, child in pl_module.named_children() if next(child.parameters(), None) is not None]
            if self.attribute is None and len(holders) == 1:
                hint = f"The network is `{holders[0]}`: give FreezingSchedule attribute={holders[0]!r}."
                raise ValueError(f"{error} {hint}") from None
            raise
        self._unused = frozenset(select(self._network, self.allow_unused, stages=self._resolved.stages))
        apply_phase(self._network, self.phase)

    def _find(self, pl_module: "pl.LightningModule") -> nn.Module:
        if self.attribute is None:
            return pl_module
        try:
            network = operator.attrgetter(self.attribute)(pl_module)
        except AttributeError:
            names = [name for name, _ in pl_module.named_modules() if name and name.count(".") < 2]
            raise ValueError(
                f"{type(pl_module).__name__} has no attribute `{self.attribute}`.{suggest(self.attribute, names)}"
            ) from None
        if not isinstance(network, nn.Module):
            raise ValueError(f"`{self.attribute}` of {type(pl_module).__name__} is no module, but {network!r}.")
        return network

    def on_load_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        # Also called by validate, test and predict, where the flags are none of our business.
        if trainer.state.fn != "fit":
            return
        state = checkpoint.get("callbacks", {}).get(self.state_key)
        if self._resolved is None:
            self._settle(pl_module)
        if (difference := self._difference(state)) is not None:
            if self.on_mismatch == "refuse":
                raise ValueError(
                    f"The checkpoint cannot be resumed under this freezing policy: {difference}. Resume under the "
                    "policy it was written with, start a new run from its weights, or say on_mismatch='restart'."
                )
            log.warning("%s. The first phase begins anew, with a fresh optimizer and scheduler.", difference)
            # Groups and moments belong to the other policy; Lightning restores as many states as there are.
            checkpoint["optimizer_states"], checkpoint["lr_schedulers"] = [], []
            return
        assert state is not None
        self._progress = Progress.from_dict(state["progress"])
        self.history, self.audits = list(state["history"]), list(state["audits"])
        self._marks = dict(state["marks"])
        apply_phase(self.network, self.phase)

    def state_dict(self) -> dict[str, Any]:
        return {
            "policy": self.policy.to_dict(),
            "selection": self._selection(),
            "progress": self._progress.to_dict(),
            "history": self.history,
            "audits": self.audits,
            "marks": self._marks,
        }

    def _selection(self) -> str:
        """A digest of what each phase selects: the same words can mean other parameters in another network."""
        chosen = [[sorted(phase.trainable), sorted(phase.held)] for phase in self.resolved.phases]
        return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()

    def _difference(self, state: Mapping[str, Any] | None) -> str | None:
        if state is None:
            return "It was written without FreezingSchedule"
        if state["policy"] != self.policy.to_dict():
            theirs = ", ".join(phase["name"] for phase in state["policy"]["phases"])
            ours = ", ".join(phase.name for phase in self.policy.phases)
            return f"It was written under another policy (its phases: {theirs}; now: {ours})"
        if state["selection"] != self._selection():
            return "The same policy selects other parameters in this network"
        return None

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._resolved is None:
            self._settle(pl_module)
            rebuild_reducer(trainer)
        optimizer = trainer.optimizers[0]
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if missing := sorted(
            name
            for name, parameter in self.network.named_parameters()
            if name in self.resolved.trainable and id(parameter) not in held
        ):
            raise ValueError(
                f"The optimizer lacks `{missing[0]}`" + (f" and {len(missing) - 1} more" if missing[1:] else "") + ", "
                "which train in some phase. Give it every parameter from the start (self.parameters(), without a "
                "filter on requires_grad), or frostline.optim.parameter_groups; what is frozen is skipped."
            )
        rates = GroupRates(network=self.network, groups=optimizer.param_groups, resolved=self.resolved)
        self._rates = rates
        self._detach()
        self._layer = RateLayer(optimizer=optimizer, factors=lambda: self._factors(trainer.global_step))
        self._foresee_eval_warning(pl_module)

    def _factors(self, step: int) -> list[float]:
        starts = self._progress.starts or [(step, 0)]
        return self._rates.factors(self._progress.index, starts, step)

    def _foresee_eval_warning(self, pl_module: "pl.LightningModule") -> None:
        """Lightning is about to warn of modules in eval mode; of ours, that is the purpose. Of others it still may."""
        count = sum(not module.training for module in pl_module.modules())
        if count == len(self.phase.held):
            warnings.filterwarnings("ignore", message=rf"Found {count} module\(s\) in eval mode")
            self._filter: Any = warnings.filters[0]

    def _forget_eval_warning(self) -> None:
        if (entry := getattr(self, "_filter", None)) is not None and entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
        self._filter = None

    # The fit.

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._forget_eval_warning()
        self._checked = False
        apply_phase(self.network, self.phase)
        for note in self.resolved.notes:
            _say(trainer, note)
        self._check_fit(trainer)
        if self._progress.starts:
            # Resumed inside a phase: what it froze must still be what it was when the phase began.
            self._audit(trainer, reason="resume")
            self._keep()
            self._announce(trainer, reason="resumed")

    def _check_fit(self, trainer: "pl.Trainer") -> None:
        if any(phase.until and phase.until.metric for phase in self.policy.phases) and not trainer.enable_validation:
            raise ValueError("A phase waits for a metric, but this run has no validation that could give one.")
        steps = trainer.estimated_stepping_batches
        epochs = trainer.max_epochs or -1
        if steps == float("inf"):
            return
        per_epoch = max(1, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches))
        if epochs < 0:
            epochs = -(-int(steps) // per_epoch)
        for span in timeline(self.policy, steps_per_epoch=per_epoch, total_steps=int(steps)):
            if span.first_step >= steps:
                when = "at the latest after" if span.latest else "after"
                warnings.warn(
                    f"The policy does not fit the run: phase `{span.name}` would begin {when} {span.first_step} steps, "
                    f"but the run has {int(steps)} ({per_epoch} per epoch), so it "
                    f"{'may never begin' if span.latest else 'never begins'}; max_epochs stays as it is.",
                    stacklevel=2,
                )

    def on_train_batch_start(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any, batch_idx: int
    ) -> None:
        if skips_backward(trainer):
            self._undo_statistics_reset(trainer)
        elif batch_idx % trainer.accumulate_grad_batches == 0:
            self._move_on(trainer, pl_module)
        set_modes(self.network, self.phase)
        if misplaced := misplaced_flags(self.network, self.phase):
            raise RuntimeError(
                f"Phase `{self.phase.name}`: somebody else set requires_grad of {', '.join(misplaced)}. What trains is "
                "for the freezing policy alone to say; under DDP the ranks would drift apart."
            )
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.loggers and (trainer.global_step + 1) % every == 0:
            pl_module.log_dict(self._scalar_rates(trainer), on_step=True, on_epoch=False)

    def _move_on(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Enter the first phase, or as many next ones as are due."""
        step, epoch, progress = trainer.global_step, trainer.current_epoch, self._progress
        reason, before = "start", self.phase
        if not progress.starts:
            progress.begin(0, step=step, epoch=epoch)
            if self.policy.batch_norm == "recalibrate":
                self._recalibrate(trainer, pl_module)
        else:
            due = self._due(trainer)
            if due is None:
                return
            self._audit(trainer, reason="phase change")
            while due is not None:
                progress.begin(progress.index + 1, step=step, epoch=epoch)
                reason, due = due, self._due(trainer)
            self._enter(trainer, before)
        self._marks = fingerprints(self.network, frozen_tensors(self.network, self.phase))
        self._keep()
        self._checked = False
        self._announce(trainer, reason=reason)

    def _due(self, trainer: "pl.Trainer") -> str | None:
        """Why the next phase should begin; rank 0's answer on every rank."""
        policy, progress = self.policy, self._progress
        until = policy.phases[progress.index].until
        total_steps = trainer.estimated_stepping_batches if until and until.fraction else float("inf")
        return progress.due(policy, step=trainer.global_step, epoch=trainer.current_epoch, total_steps=total_steps)

    def _enter(self, trainer: "pl.Trainer", before: ResolvedPhase) -> None:
        apply_phase(self.network, self.phase)
        # All of them, also those that go on: the old reducer's buckets may own their memory.
        for parameter in trainer.lightning_module.parameters():
            parameter.grad = None
        if self.phase.trainable != before.trainable:
            rebuild_reducer(trainer)
            if _is_compiled(trainer.lightning_module):
                # torch before 2.15 may reuse the graph of the frozen network: pytorch #139476.
                torch.compiler.reset()

    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        until = self.policy.phases[self._progress.index].until
        if trainer.state.fn != "fit" or trainer.sanity_checking or until is None or until.metric is None:
            return
        metrics = trainer.callback_metrics
        if until.metric not in metrics:
            hint = suggest(until.metric, metrics)
            raise ValueError(
                f"Phase `{self.phase.name}` waits for `{until.metric}`, which nobody logged; there are "
                f"{', '.join(sorted(metrics)) or 'none'}.{hint}"
            )
        # The mean over the ranks, whether or not the module synchronised it; then rank 0's number for all.
        value = metrics[until.metric].detach().to(dtype=torch.float64, device=pl_module.device)
        value = trainer.strategy.broadcast(trainer.strategy.reduce(value, reduce_op="mean"))
        self._progress.evaluate(until, float(value), step=trainer.global_step)

    def on_after_backward(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not self._checked and not accumulates(trainer):
            check_gradients(self.network, self.phase, allow_unused=self._unused)
            self._checked = True

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._progress.starts:
            self._audit(trainer, reason="end of fit")
        self._detach()

    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        self._detach()

    def teardown(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        self._forget_eval_warning()
        self._detach()

    def _detach(self) -> None:
        if self._layer is not None:
            self._layer.remove()
            self._layer = None

    # Proof.

    def _audit(self, trainer: "pl.Trainer", *, reason: str) -> None:
        """Compare what the phase froze with what it was when the phase began.

        Raises:
            FrozenTensorMoved: something differs, on this rank or another.
        """
        changed = moved(self._marks, fingerprints(self.network, list(self._marks)))
        if reason == "end of fit" and any(
            isinstance(entry, StochasticWeightAveraging | WeightAveraging)
            for entry in trainer.callbacks  # type: ignore[attr-defined]
        ):
            # Averages over the run are what was asked for; what never trained is its own average, to the bit.
            trained = frozenset().union(*(phase.trainable for phase in self.resolved.phases[: self._progress.index]))
            changed = [name for name in changed if name not in trained]
        self.audits.append(
            {
                "phase": self.phase.name,
                "reason": reason,
                "step": trainer.global_step,
                "tensors": len(self._marks),
                "moved": changed,
            }
        )
        if trainer.strategy.reduce_boolean_decision(bool(changed), all=False):
            named = ", ".join(changed) or "on another rank, which names it"
            raise FrozenTensorMoved(
                f"Phase `{self.phase.name}` froze what has moved since it began ({reason}, step {trainer.global_step}):"
                f" {named}. Somebody wrote to it, or called an optimizer or a batch norm past the policy."
            )

    def _keep(self) -> None:
        """Copies of the frozen statistics: a few thousand numbers, for whoever resets batch norms wholesale."""
        own = dict(self.network.named_buffers())
        self._kept = {name: own[name].clone() for name in self._marks if name in own}

    def _undo_statistics_reset(self, trainer: "pl.Trainer") -> None:
        """StochasticWeightAveraging zeroes all statistics and runs an epoch to collect them anew; frozen ones, in eval
        mode, would stay zero."""
        own = dict(self.network.named_buffers())
        for name, kept in self._kept.items():
            own[name].copy_(kept)

    @contextmanager
    def _untouched_rng(self, trainer: "pl.Trainer") -> Iterator[None]:
        from lightning.pytorch.utilities.seed import isolate_rng

        with isolate_rng():
            torch.manual_seed(trainer.global_rank)
            yield

    def _recalibrate(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        inputs = self.inputs or first_input
        forward = pl_module if self.inputs is None and is_overridden("forward", pl_module) else self.network
        names = self.phase.frozen_batch_norms
        with self._untouched_rng(trainer), trainer.precision_plugin.forward_context():
            count = recalibrate(
                self.network,
                names,
                forward=lambda batch: forward(inputs(batch)),
                batches=calibration_batches(trainer, limit=self.recalibration_batches),
            )
        _say(trainer, f"Statistics of {len(names)} frozen batch norms estimated anew on {count} batches.")

    # Telling.

    def _scalar_rates(self, trainer: "pl.Trainer") -> dict[str, float]:
        """`freezing/lr/<stage>`: the highest learning rate with which anything in the stage trains now; 0 if frozen."""
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        rates = dict.fromkeys(self.resolved.stages, 0.0)
        groups = trainer.optimizers[0].param_groups
        for group, factor in zip(groups, self._factors(trainer.global_step), strict=True):
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name in self.phase.trainable:
                    stage = stage_of(name, self.resolved.stages)
                    rates[stage] = max(rates[stage], float(group["lr"]) * factor)
        return {f"freezing/lr/{stage}": rate for stage, rate in rates.items()}

    def _announce(self, trainer: "pl.Trainer", *, reason: str) -> None:
        rates = self._scalar_rates(trainer)
        per_name = {name: rates[f"freezing/lr/{stage_of(name, self.resolved.stages)}"] for name in self.phase.trainable}
        rows = freezing_table(self.network, self.resolved, self.phase, learning_rates=per_name)
        whole = total(rows)
        scalars = {
            "freezing/phase": self._progress.index,
            "freezing/frost_line": self.resolved.frost_line(self.phase),
            "freezing/trainable_parameters": whole.trainable_parameters,
            "freezing/frozen_parameters": whole.parameters - whole.trainable_parameters,
        }
        for row in rows:
            scalars[f"freezing/trainable/{row.stage}"] = row.trainable_parameters
            scalars[f"freezing/frozen/{row.stage}"] = row.parameters - row.trainable_parameters
        if reason != "resumed":
            self.history.append(
                {
                    "phase": self.phase.name,
                    "step": trainer.global_step,
                    "epoch": trainer.current_epoch,
                    "reason": reason,
                    "index": self._progress.index,
                    **{
                        key.removeprefix("freezing/"): value
                        for key, value in {**scalars, **rates}.items()
                        if key != "freezing/phase"
                    },
                }
            )
        count = f"{self._progress.index + 1} of {len(self.policy.phases)}"
        _say(trainer, f"Phase {count}, `{self.phase.name}`, at step {trainer.global_step}: {reason}.\n{as_text(rows)}")
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, **rates}, step=trainer.global_step)


def _say(trainer: "pl.Trainer", message: str) -> None:
    if trainer.is_global_zero:
        log.info("%s", message)


def _is_compiled(module: nn.Module) -> bool:
    if getattr(module, "_compiler_ctx", None) is not None:
        return True
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )
