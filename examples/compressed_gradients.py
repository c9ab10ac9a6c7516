"""A strategy: DDP whose processes exchange gradients as bfloat16, half of what float32 takes."""

import logging
from datetime import timedelta
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

log = logging.getLogger("frostline")


class CompressedGradients(DDPStrategy):
    """DDP with compressed gradients; each process adds up what has been rounded to 8 bits of precision.

    Args:
        process_group_backend: given by frostline: nccl on GPUs, gloo on CPUs.
        timeout: given by frostline: device.timeout.
        ddp: arguments of torch's DistributedDataParallel.
    """

    def __init__(
        self, *, process_group_backend: str | None = None, timeout: timedelta | None = None, **ddp: Any
    ) -> None:
        given = {"process_group_backend": process_group_backend} | ({} if timeout is None else {"timeout": timeout})
        super().__init__(**given, **ddp)

    def configure_ddp(self) -> None:
        # Also called where a phase unfreezes layers, as torch's DDP reduces what required a gradient when it was made.
        super().configure_ddp()
        self.model.register_comm_hook(state=None, hook=bf16_compress_hook)
        if self.global_rank == 0:
            log.info("gradients are exchanged as bfloat16")
