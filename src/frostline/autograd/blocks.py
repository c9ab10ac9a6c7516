"""What each stage of an observed network costs, and whether the backward path reaches it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frostline.autograd.observe import LOSS, Observation
from frostline.freezing.selectors import in_stage, stage_of, stages_of


@dataclass(frozen=True)
class Block:
    """One stage.

    tensors, parameters: parameter tensors and the numbers in them; trainable_*: those with `requires_grad`.
    nodes: nodes of the autograd graph that its forward made; none where backward does not come.
    kept_bytes: activations its operations keep for backward.
    flops: of its forward for one image, None where not counted.
    shape: of its output, None where it is not one tensor.
    """

    stage: str
    tensors: int
    trainable_tensors: int
    parameters: int
    trainable_parameters: int
    nodes: int
    kept_bytes: int
    flops: int | None
    shape: tuple[int, ...] | None

    @property
    def state(self) -> str:
        if self.trainable_tensors == 0:
            return "frozen" if self.tensors else "no parameters"
        return "trainable" if self.trainable_tensors == self.tensors else "partly trainable"


def blocks_of(observation: Observation) -> list[Block]:
    """The network's stages in execution order.

    A node made between stages (a functional call in the network's own forward) belongs to the stage it reads from, and
    to the first one if it reads from none.
    """
    stages, flops, shapes = stages_of(observation.network), observation.flops, observation.shapes
    nodes, kept = Counter[str](), Counter[str]()
    for index, stage in _stage_of_nodes(observation, stages).items():
        nodes[stage] += 1
        kept[stage] += observation.graph.nodes[index].kept_bytes
    blocks = []
    for stage, modules in stages.items():
        own = [parameter for name, parameter in observation.network.named_parameters() if in_stage(name, modules)]
        training = [parameter for parameter in own if parameter.requires_grad]
        blocks.append(
            Block(
                stage=stage,
                tensors=len(own),
                trainable_tensors=len(training),
                parameters=sum(parameter.numel() for parameter in own),
                trainable_parameters=sum(parameter.numel() for parameter in training),
                nodes=nodes[stage],
                kept_bytes=kept[stage],
                flops=None if flops is None else sum(flops.get(module, 0) for module in modules),
                shape=next((shapes[name] for name in reversed(modules) if name in shapes), None),
            )
        )
    return blocks


def _stage_of_nodes(observation: Observation, stages: Mapping[str, Sequence[str]]) -> dict[int, str]:
    """Node index -> stage, or "loss"."""
    order = list(stages)
    reads: dict[int, list[int]] = {}
    for source, target in observation.graph.edges:
        reads.setdefault(source, []).append(target)
    found: dict[int, str] = {}
    for node in reversed(observation.graph.nodes):  # what a node reads from comes after it
        if node.parameter is None and node.module in (None, LOSS):
            found[node.index] = LOSS
            continue
        try:
            found[node.index] = stage_of(node.parameter or node.module or "", stages)
        except KeyError:
            below = [found[target] for target in reads.get(node.index, ()) if found[target] in stages]
            found[node.index] = max(below, key=order.index, default=order[0])
    return found
