"""`frostline graph`, `gradients` and `tour`, as typed; in this process, since each start of torch takes seconds."""

import csv
import os

import pytest
import torch
from tests.configs import config
from torch import nn

from frostline.classifier import ImageClassifier
from frostline.commands.main import main
from frostline.data.spec import DataSpec

SMALL = (
    "data=random", "data.length=4", "data.image_size=32", "data.classes=10", "data.batch_size=2", "model.weights=none",
    "trainer.precision=32-true",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def typed(command, *words, capsys):
    main(command, list(words))
    return capsys.readouterr().out


def refused(command, *words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command, list(words))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_graph_draws_both_views_of_a_run(tmp_path, capsys):
    out = typed("graph", *SMALL, "freeze=backbone", "loss=sum_of_differences", "formats=[svg,dot,png]", capsys=capsys)
    assert "6 nodes; 2 of 62 parameter tensors get a gradient" in out
    lines = out.splitlines()
    [frost] = [index for index, line in enumerate(lines) if "frost line" in line]
    assert lines[frost - 1].startswith("head")
    assert lines[frost + 1].startswith("layer4")
    files = sorted(path.name for path in (tmp_path / "graph").iterdir())
    assert files == [f"{view}.{ending}" for view in ("operations", "stages") for ending in ("dot", "png", "svg")]
    assert "frost line: the gradient stops here" in (tmp_path / "graph" / "stages.svg").read_text()
    assert "NOTE" not in out


def test_graph_draws_the_phase_that_is_asked_for(capsys):
    options = (*SMALL, "freeze=gradual_unfreezing", "loss=sum_of_differences", "views=[stages]", "formats=[dot]")
    assert "2 of 62 parameter tensors" in typed("graph", *options, capsys=capsys)
    out = typed("graph", *options, "phase=layer4", capsys=capsys)
    assert "39 nodes; 17 of 62 parameter tensors" in out
    assert "freeze=gradual_unfreezing, phase layer4, 32-true" in out


def test_gradients_prints_a_sentence_for_each_stage_and_writes_table_and_plots(tmp_path, capsys):
    out = typed("gradients", *SMALL, "freeze=to_layer3", "batches=2", "output=out", capsys=capsys)
    assert "layer1 receives no gradient: it is frozen." in out
    assert "0 findings" in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"gradients.{e}" for e in ("csv", "png", "svg")
    ]
    with (tmp_path / "out" / "gradients.csv").open() as file:
        rows = {row["parameter"]: row for row in csv.DictReader(file)}
    assert len(rows) == 62
    assert (rows["conv1.weight"]["trains"], rows["conv1.weight"]["norm"]) == ("False", "")
    assert float(rows["fc.weight"]["norm"]) > 0
    assert float(rows["fc.weight"]["noise"]) > 0


def test_the_step_is_taken_at_the_phases_learning_rates(tmp_path, capsys):
    """SGD's first step is lr · g: the ratio of ‖Δw‖ to ‖g‖ is the rate, stage by stage."""
    typed(
        "gradients", *SMALL, "freeze=discriminative", "optimizer=sgd", "optimizer.lr=0.1", "optimizer.weight_decay=0",
        "batches=1", "output=out", capsys=capsys,
    )  # fmt: skip
    with (tmp_path / "out" / "gradients.csv").open() as file:
        rows = {row["parameter"]: row for row in csv.DictReader(file)}
    network = _network_of_seed_0()
    rates = {}
    for name in ("conv1.weight", "layer4.0.conv1.weight", "fc.weight"):
        weight = float(dict(network.named_parameters())[name].detach().norm())
        rates[name] = float(rows[name]["update_ratio"]) * weight / float(rows[name]["norm"])
    assert rates["fc.weight"] == pytest.approx(0.1, rel=1e-3)
    assert rates["conv1.weight"] < rates["layer4.0.conv1.weight"] < 0.1


def _network_of_seed_0():
    from frostline.commands.phases import build_at_phase

    chosen = config(*SMALL, "freeze=discriminative", command="gradients")
    return build_at_phase(chosen, []).classifier.network


@pytest.fixture
def checkpoint(tmp_path, capsys):
    main("train", [*SMALL, "freeze=to_layer3", "trainer.max_epochs=1", "test=false",
                   "callbacks.progress_bar=false", "output_dir=runs"])  # fmt: skip
    capsys.readouterr()
    [path] = (tmp_path / "runs").glob("*/checkpoints/last.ckpt")
    return path


def test_a_checkpoint_brings_its_own_config_which_overrides_may_change(checkpoint, capsys):
    options = (f"checkpoint={checkpoint}", "views=[stages]", "formats=[dot]")
    out = typed("graph", *options, capsys=capsys)
    assert "resnet18, freeze=to_layer3, 32-true" in out
    assert "17 of 62 parameter tensors" in out
    out = typed("graph", *options, "freeze=backbone", "trainer.precision=bf16-mixed", capsys=capsys)
    assert "resnet18, freeze=backbone, bf16-mixed" in out
    error = refused("graph", *options, "model=resnet34", capsys=capsys)
    assert "model=resnet34: the checkpoint says what the model is; leave one of the two out." in error
    error = refused("graph", *options, "freeze=custom", "freeze.train=[bogus]", capsys=capsys)
    assert "`bogus` matches no parameter" in error


def test_a_checkpoints_weights_are_the_ones_measured(checkpoint, tmp_path, capsys):
    out = typed("gradients", f"checkpoint={checkpoint}", "batches=1", capsys=capsys)
    assert "layer3 receives no gradient: it is frozen." in out
    from frostline.commands.phases import build_at_phase

    chosen = config(f"checkpoint={checkpoint}", command="gradients")
    network = build_at_phase(chosen, [f"checkpoint={checkpoint}"]).classifier.network
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.state_dict().items())


def test_the_phase_of_a_checkpoint_is_the_one_it_was_written_in():
    from frostline.commands.phases import _phase_of

    assert _phase_of({}) == 0
    spec = DataSpec(classes=["a", "b"], mean=[0.0] * 3, std=[1.0] * 3, image_size=8)
    schedule, _ = ImageClassifier(network=nn.Linear(2, 2), data_spec=spec).configure_callbacks()
    key = schedule.state_key
    assert _phase_of({"callbacks": {key: {"progress": {"index": 2}}}}) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("graph", "freeze=gradual_unfreezing", "phase=layr"),
            "phase=layr: the policy has no such phase. It has: head, layer4,",
        ),
        (("graph", "freeze=custom", "freeze.train=[bogus]"), "`bogus` matches no parameter"),
        (("graph", "views=[stage]"), "views"),
        (("graph", "formats=[html]"), "formats"),
        (("graph", "vews=[stages]"), "vews: unknown key. Did you mean views?"),
        (("gradients", "batches=0"), "batches"),
        (("gradients", "checkpoint=nowhere.ckpt"), "checkpoint: there is no file `{here}/nowhere.ckpt`"),
        (("tour", "weights=nowhere.pth"), "weights: there is no file `{here}/nowhere.pth`"),
        (("tour", "width=10"), "width: must be"),
    ],
)
def test_mistakes_end_in_one_message(words, message, capsys):
    command, *overrides = words
    message = message.format(here=os.getcwd())
    assert message in refused(command, *overrides, *(() if command == "tour" else SMALL), capsys=capsys)


def test_the_tour_is_reported(capsys):
    out = typed("tour", "width=80", capsys=capsys)
    assert "Q = tensor([ 56., 143.], grad_fn=<SubBackward0>)" in out
    assert "✓ the graph has 6 nodes, and 2 of 62 parameters are its leaves" in out
