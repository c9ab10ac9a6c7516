"""Checkpoints are read whole or refused with a way on, and name nothing that is obeyed."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from frostline.checkpoint import PARTS, PARTS_OF_A_RUN, read_checkpoint
from frostline.classifier import ImageClassifier
from frostline.resume.callback import KEY
from frostline.trust import check_trust, reading_only


def whole() -> dict[str, Any]:
    """What a checkpoint holds at least."""
    fit_loop = {part.removeprefix("loops.fit_loop."): {} for part in PARTS_OF_A_RUN if part.startswith("loops.fit_")}
    return {
        "state_dict": {"conv1.weight": torch.zeros(3)},
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "2.6.1",
        "callbacks": {},
        "loops": {"fit_loop": fit_loop},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "lr_schedulers": [],
        "frostline": {
            "format": 1,
            "recipe": {"model": {"name": "resnet18"}, "head": {"name": "linear"}},
            "images": {"classes": ["a"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 32, "resize": 1.0},
            "policy": {},
            "settings": {},
        },
    }


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_a_whole_checkpoint_is_read(tmp_path: Path) -> None:
    assert read_checkpoint(saved(tmp_path / "a.ckpt", whole()), resumable=True)["global_step"] == 2


@pytest.mark.parametrize("part", [*PARTS, *PARTS_OF_A_RUN])
def test_a_checkpoint_that_lacks_a_part_is_refused_by_its_name(tmp_path: Path, part: str) -> None:
    content: Any = whole()
    parent: Any = content
    keys = part.split(".") if not part.startswith("loops.fit_loop.") else ["loops", "fit_loop", part[15:]]
    for key in keys[:-1]:
        parent = parent[key]
    del parent[keys[-1]]
    with pytest.raises(ValueError, match=rf"a\.ckpt: lacks parts for a run to go on from.*{part}"):
        read_checkpoint(saved(tmp_path / "a.ckpt", content), resumable=True)
    parent[keys[-1]] = None
    with pytest.raises(ValueError, match=f"others in their place: .*{part}"):
        read_checkpoint(saved(tmp_path / "a.ckpt", content), resumable=True)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "text": lambda content: b"hello",
    "flipped": lambda content: content.replace(torch.ones(9).numpy().tobytes(), torch.zeros(9).numpy().tobytes()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_newest_good_checkpoint_beside_a_damaged_one_is_named(tmp_path: Path, damage: str) -> None:
    content = {**whole(), "state_dict": {"conv1.weight": torch.ones(9)}}
    for age, name in enumerate(("old", "good", "last", "foreign")):
        saved(tmp_path / f"{name}.ckpt", {"a": torch.zeros(1)} if name == "foreign" else content)
        os.utime(tmp_path / f"{name}.ckpt", (age, age))
    bad = tmp_path / "last.ckpt"
    bad.write_bytes(DAMAGE[damage](bad.read_bytes()))
    with pytest.raises(ValueError, match=rf"^{bad}: cannot be read") as caught:
        read_checkpoint(bad, key="resume_from", resumable=True)
    assert str(caught.value).endswith(f"The newest good checkpoint beside it is resume_from={tmp_path}/good.ckpt")
    for other in ("old", "good"):
        (tmp_path / f"{other}.ckpt").unlink()
    with pytest.raises(ValueError, match=rf"^{bad}: cannot be read") as caught:
        read_checkpoint(bad)
    assert "newest good" not in str(caught.value)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a file, and a checkpoint is one"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "head", [{"name": "other"}, {"name": "mlp", "hidden": "abc"}, {}, {"name": "mlp", "hidden": [4]}]
)
def test_a_recipe_that_does_not_fit_ends_in_one_message(tmp_path: Path, head: dict[str, Any]) -> None:
    content = whole()
    content["frostline"]["recipe"]["head"] = head
    with pytest.raises(ValueError, match=r"head|cannot be built from what it says of it"):
        ImageClassifier.load_from_checkpoint(saved(tmp_path / "a.ckpt", content))


# Nothing that a checkpoint names is obeyed.


@pytest.mark.parametrize("target", ["beside.Thing", "this.Zen", "os.path.Thing", "torch.hub.Thing", "torchvisionx.A"])
def test_a_class_that_a_checkpoint_names_is_not_imported(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    for part in ("head", "model"):
        content = whole()
        content["frostline"]["recipe"][part] = {"_target_": target}
        with pytest.raises(ValueError, match=rf"import {target} \({part}\._target_\).*trust_checkpoint=True"):
            ImageClassifier.load_from_checkpoint(saved(tmp_path / "a.ckpt", content))
    with pytest.raises((SystemExit, ValueError), match=r"ran|cannot import|no class|not a subclass|named by"):
        ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", trust_checkpoint=True)


@pytest.mark.parametrize("place", ["head", "model", "data", "optimizer"])
def test_classes_are_found_wherever_a_config_names_them(place: str) -> None:
    sections = {place: {"inner": [{"_target_": "my.Own"}]}, "other": {"_target_": "torch.optim.SGD"}}
    with pytest.raises(ValueError, match=rf"would have frostline import my\.Own \({place}\.inner\._target_\)\."):
        check_trust("a.ckpt", sections)


@pytest.mark.parametrize(
    "data",
    [
        {"name": "streaming", "path": "s3://bucket/x"},
        {"name": "streaming", "path": "/here", "endpoint_url": "http://127.0.0.1:9"},
        {"name": "torchvision", "options": {"url": "https://example.org"}},
    ],
)
def test_an_address_that_a_checkpoint_names_is_not_contacted(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"contact .*://.* \(data\..*trust_checkpoint=True; or name the data yourself"):
        check_trust("a.ckpt", {"data": data})


def test_data_of_a_checkpoint_only_reads() -> None:
    data = {"path": "/a", "decoded_cache": "/b", "cache_dir": "/c", "download": True, "batch_size": 3}
    assert reading_only(data) == {"decoded_cache": None, "cache_dir": None, "download": False}
    assert reading_only({"path": "/a", "decoded_cache": None, "download": False}) == {}


def test_a_checkpoints_network_is_not_downloaded(tmp_path: Path) -> None:
    content = whole()
    content["frostline"]["recipe"]["model"]["weights"] = "DEFAULT"
    with pytest.raises(ValueError, match=r"weights: goes to"):
        ImageClassifier.load_from_checkpoint(saved(tmp_path / "a.ckpt", content))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", [], r"classes must be names"),
        ("classes", [1], r"classes must be names"),
        ("classes", [None], r"classes must be names"),
        ("mean", [0.5, 0.5], r"mean must be 3 finite numbers, not \[0\.5, 0\.5\]"),
        ("mean", ["a"] * 3, r"mean must be 3 finite numbers"),
        ("std", [float("nan")] * 3, r"std must be 3 finite numbers"),
        ("std", [0.5, 0.0, 0.5], r"std must be greater than 0"),
        ("image_size", 0, r"image_size 0 and resize 1\.0 must be greater than 0"),
        ("image_size", True, r"image_size True and resize 1\.0"),
        ("image_size", 10**9, r"image_size 1000000000 and resize 1\.0 .* at most 16384"),
        ("resize", -1.0, r"image_size 32 and resize -1\.0"),
        ("resize", 1e9, r"image_size 32 and resize 1000000000\.0"),
        ("interpolation", "nearest", r"interpolation must be bilinear or bicubic, not 'nearest'"),
        ("scaled_decoding", "x", r"scaled_decoding must be true or false"),
    ],
)
def test_values_of_images_that_no_checkpoint_has_are_refused(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    content = whole()
    content["frostline"]["images"][key] = value
    with pytest.raises(ValueError, match=rf"^{tmp_path}/a\.ckpt: corrupt or .*frostline\.images\.{message}"):
        read_checkpoint(saved(tmp_path / "a.ckpt", content))


def test_class_weights_of_other_classes_are_refused(tmp_path: Path) -> None:
    content = whole()
    content["frostline"]["loss"] = {"name": "cross_entropy", "class_weights": [1.0, 2.0]}
    with pytest.raises(ValueError, match=r"a\.ckpt: corrupt.*class_weights has 2 values for 1 classes"):
        read_checkpoint(saved(tmp_path / "a.ckpt", content))


@pytest.mark.parametrize("weight", [torch.zeros(3).to_sparse(), torch.zeros(3, device="meta")], ids=["sparse", "meta"])
def test_weights_without_dense_values_are_refused(tmp_path: Path, weight: torch.Tensor) -> None:
    content = {**whole(), "state_dict": {"conv1.weight": weight}}
    with pytest.raises(ValueError, match=r"a\.ckpt: lacks parts .* tensors in state_dict"):
        read_checkpoint(saved(tmp_path / "a.ckpt", content))


def test_a_policy_that_is_none_is_refused_with_the_file(tmp_path: Path) -> None:
    content = whole()
    content["frostline"]["policy"] = {"phases": []}
    with pytest.raises(ValueError, match=r"^.*a\.ckpt: its classifier cannot be built"):
        ImageClassifier.load_from_checkpoint(saved(tmp_path / "a.ckpt", content))


KEPT = {
    "random_states": [{"torch": torch.zeros(3, dtype=torch.uint8)}], "world_size": 1, "validated": True,
    "plateau_due": False, "metrics": {}, "order": {}, "accumulate_grad_batches": 1, "batches_per_epoch": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"optimizer_states": []}, "optimizer_states"),
        ({"optimizer_states": [3]}, "optimizer_states"),
        ({"frostline_resume": 3}, "frostline_resume.random_states"),
        ({"frostline_resume": {}}, "frostline_resume.random_states"),
        ({"frostline_resume": {**KEPT, "random_states": []}}, "frostline_resume.random_states"),
        ({"frostline_resume": {**KEPT, "random_states": [3]}}, "frostline_resume.random_states"),
        ({"frostline_resume": {**KEPT, "order": 3}}, "frostline_resume.order"),
        ({"frostline_resume": {**KEPT, "batches_per_epoch": 0}}, "frostline_resume.batches_per_epoch"),
        ({"frostline_resume": {**KEPT, "batches_per_epoch": "x"}}, "frostline_resume.batches_per_epoch"),
    ],
)
def test_a_run_does_not_go_on_without_its_state(tmp_path: Path, change: dict[str, Any], message: str | None) -> None:
    path = saved(tmp_path / "a.ckpt", {**whole(), "frostline_resume": KEPT, **change})
    read_checkpoint(path)
    if message is None:
        assert read_checkpoint(path, resumable=True)[KEY] is not None
        return
    with pytest.raises(ValueError, match=rf"a\.ckpt: lacks parts for a run to go on from.*: {message}"):
        read_checkpoint(path, resumable=True)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02]q\x00."], ids=["empty", "text", "list"])
def test_why_a_file_cannot_be_read_is_a_sentence_without_torchs_advice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.ckpt") as caught:
        read_checkpoint(tmp_path / "a.ckpt")
    assert "weights_only" not in str(caught.value)
    assert "torch.save did not write it" in str(caught.value) or " " in str(caught.value).partition("(")[2]
