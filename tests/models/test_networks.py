"""Networks of both libraries train with their frozen layers computed once: scripts/networks.py tries all of them."""

from pathlib import Path
from typing import Any

import pytest
from scripts.networks import NETWORKS, try_network

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training.*"),
    pytest.mark.filterwarnings("ignore:The policy does not fit the run.*"),
]


@pytest.mark.parametrize(
    ("name", "split", "smaller"),
    [
        pytest.param("mobilenet_v3_small", True, {}, marks=pytest.mark.slow),
        ("shufflenet_v2_x0_5", True, {}),
        pytest.param("timm/vit_tiny_patch16_224", True, {"depth": 2}, marks=pytest.mark.slow),
        ("timm/convnext_atto", True, {"depths": [1, 1, 1, 1]}),
        ("timm/vit_small_patch16_dinov3", False, {"depth": 2, "embed_dim": 96, "num_heads": 3}),
    ],
)
def test_a_network_trains_resumes_and_caches_bit_for_bit(
    name: str, split: bool, smaller: dict[str, Any], tmp_path: Path
) -> None:
    row = try_network(name, tmp_path, **smaller)
    assert (row["backbone"], row["half"]) == (split, split)
    assert row["stages"][0] == "stem"
    assert row["picture"].is_file()
    assert name in NETWORKS


def test_forty_networks_are_tried() -> None:
    assert len(set(NETWORKS)) >= 40
