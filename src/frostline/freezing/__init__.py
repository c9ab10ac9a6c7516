"""What trains in which phase of a run: a policy, its application to a network, and the proof that it held.

from frostline.freezing import FreezePolicy, FreezingSchedule

policy = FreezePolicy.static("head")
trainer = Trainer(callbacks=[FreezingSchedule(policy=policy, attribute="net")])
"""

from typing import TYPE_CHECKING, Any

from frostline.freezing.apply import apply_phase, hold_modes, release_modes, set_modes
from frostline.freezing.policy import FreezePolicy, Phase, Until, read_policy, write_policy
from frostline.freezing.report import as_text, freezing_table
from frostline.freezing.resolved import ResolvedPhase, ResolvedPolicy
from frostline.freezing.selectors import stages_of

if TYPE_CHECKING:
    from frostline.freezing.callback import FreezingSchedule

__all__ = [
    "FreezePolicy",
    "FreezingSchedule",
    "Phase",
    "ResolvedPhase",
    "ResolvedPolicy",
    "Until",
    "apply_phase",
    "as_text",
    "freezing_table",
    "hold_modes",
    "read_policy",
    "release_modes",
    "set_modes",
    "stages_of",
    "write_policy",
]


def __getattr__(name: str) -> Any:
    # The callback needs Lightning, a slow import; a policy does not.
    if name == "FreezingSchedule":
        from frostline.freezing.callback import FreezingSchedule

        return FreezingSchedule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
