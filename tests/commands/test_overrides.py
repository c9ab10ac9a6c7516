"""Every mistake on a command line gets one message that says what was meant."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.configs import config, settings

from frostline.commands import run_folder
from frostline.commands.config_files import group_options
from frostline.commands.overrides import Invocation, check, problems_of
from frostline.commands.words import adapted, unswept
from frostline.config.commands import CHECKPOINT


@pytest.fixture(autouse=True)
def _run_key() -> None:
    run_folder.register_resolvers()


def problems(*overrides: str, command: str = "train", config_dir: Path | None = None) -> list[str]:
    invocation = Invocation(command=command, overrides=overrides, config_dir=config_dir)
    return problems_of(invocation)


def written(folder: Path, **files: str) -> Path:
    """A folder of configs; `optimizer__mine` is `optimizer/mine.yaml`."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def test_a_sound_command_line_has_no_problems() -> None:
    assert problems() == []
    assert problems("freeze=backbone", "optimizer=adamw", "optimizer.lr=0.001", "trainer.max_epochs=3") == []
    assert problems("hydra.run.dir=/tmp/somewhere", "experiment=frozen_head") == []


MOMENTUM = "unknown key. Did you mean optimizer.momentum (float ≥ 0, default 0.9)?"
LOGGERS = "The choices are: csv, none, tensorboard, wandb."
MISSING = f"checkpoint: missing; type checkpoint=VALUE ({CHECKPOINT})."


@pytest.mark.parametrize(
    ("words", "found"),
    [
        # keys
        ("optimizer.momentm=0.95", [f"optimizer.momentm: {MOMENTUM}"]),
        (
            "+optimizer.momentum2=1 +something=1",
            ["something: unknown key. See --help for all keys.", f"optimizer.momentum2: {MOMENTUM}"],
        ),
        ("Optimizer.LR=1", ["Optimizer.LR: unknown key. Did you mean optimizer.lr?"]),
        (
            "optimizer=adamw optimizer.momentum=0.9",
            ["optimizer.momentum: unknown key here; it belongs to optimizer=sgd, optimizer=rmsprop."],
        ),
        (
            "logger=wandb logger.wandb.projct=x",
            ["logger.wandb.projct: unknown key. Did you mean logger.wandb.project?"],
        ),
        (
            "logger.wandb.project=x",
            ["logger.wandb.project: logger=wandb is not chosen. Several at once: logger=[csv,wandb]."],
        ),
        ("hydra.rn.dir=x", ["Could not override 'hydra.rn.dir'."]),
        # options
        (
            "scheduler=cosin",
            [
                "scheduler=cosin: unknown option. Did you mean scheduler=cosine? "
                "The choices are: constant, cosine, onecycle, step."
            ],
        ),
        (
            "logger=[csv,wnadb]",
            [f"logger=wnadb: unknown option. Did you mean logger=wandb? {LOGGERS}"],
        ),
        ("~scheduler", ["~scheduler: cannot be left out; choose one of constant, cosine, onecycle, step."]),
        ("~experiment", []),
        (
            "+experiment=frozen_head",
            ["+experiment: this group has an option already; write experiment=… without +."],
        ),
        # rules between keys
        (
            "device=cpu_ddp data.batch_size=33 optimizer.nesterov=true optimizer.momentum=0",
            [
                "data.batch_size: 33 images cannot be shared evenly by 2 processes (the size is global). Use 32 or 34.",
                "optimizer.nesterov: needs optimizer.momentum > 0.",
            ],
        ),
        # missing values
        ("data=image_folder", ["data.path: is required: type data.path=FOLDER"]),
        ("data=csv", ["data.path: is required: type data.path=FILE"]),
        # words that are no overrides
        ("freeze", ["freeze: cannot be read. Write KEY=VALUE, with quotes around special characters."]),
        ("optimizer.lr 0.1", ["optimizer.lr: a key and its value are one word. Type optimizer.lr=0.1"]),
        ("seed = 3", ["seed: a key and its value are one word. Type seed=3"]),
        ("freeze=none ++freeze.train={head:1}", ["freeze.train: takes no `{head:1}`; --help has its type."]),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(words: str, found: list[str]) -> None:
    assert problems(*words.split()) == found


def test_every_missing_key_of_a_command_is_named() -> None:
    assert problems(command="evaluate") == [MISSING]
    assert [problem.partition(":")[0] for problem in problems(command="predict")] == ["checkpoint", "inputs"]
    assert [problem.partition(":")[0] for problem in problems("data=digits", command="pack")] == ["output"]


@pytest.mark.parametrize("override", ["optimzer.lr=1", "optimzer=adam", "sed=1"])
def test_a_mistyped_group_or_top_key_is_suggested(override: str) -> None:
    meant = {"optimzer.lr": "optimizer.lr", "optimzer": "optimizer", "sed": "seed"}[override.partition("=")[0]]
    [problem] = problems(override)
    assert f"unknown key. Did you mean {meant}" in problem


def test_all_problems_come_in_one_report() -> None:
    found = problems("foo", "optimizer=sgdd", "sed=1", "trainer.max_epochs=0", "optimizer.lr=fast", "data=image_folder")
    assert [problem.partition(":")[0] for problem in found] == [
        "foo",
        "optimizer=sgdd",
        "sed",
        "data.path",
        "optimizer.lr",
        "trainer.max_epochs",
    ]


def test_an_interpolation_of_nothing_is_named() -> None:
    [problem] = problems("optimizer.lr=${sed}")
    assert "'sed' not found" in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("seed=" + "[" * 400, "seed: the value is not in Hydra's grammar."),
        ("seed=" + "9" * 5000, f"seed={35 * '9'}…: 5,005 characters that cannot be read."),
        ("seed=1e400", "seed: must be integer ≥ 0 and < 4294967296, not `inf`"),
        ("seed=", "seed: must be integer ≥ 0 and < 4294967296, not ``"),
        ("=1", "=1: cannot be read. Write KEY=VALUE"),
        ("seed==1", "seed: the value is not in Hydra's grammar."),
        ("+a.b=1", "a: unknown key."),
        ("~key", "Could not delete from config. 'key' does not exist."),
        (
            "output_dir=${oc.env:NOT_THERE}",
            'output_dir: KeyError raised while resolving interpolation: "Environment variable',
        ),
        ("output_dir=${nope:1}", "output_dir: Unsupported interpolation type nope"),
        ("seed=${seed}", "seed: Recursive interpolation detected"),
        (
            "optimizer=[sgd,adam]",
            "optimizer: takes one option. To try several one after the other: -m optimizer=sgd,adam",
        ),
        ("hydra/launcher=nope", "In 'hydra/config': Could not find 'hydra/launcher/nope'"),
        ("output_dir=[a,b]", "output_dir: must be path, not `[a, b]`"),
    ],
)
def test_odd_words_get_one_message(word: str, message: str) -> None:
    [problem] = problems(*adapted([word]))
    assert problem.startswith(message), problem
    assert "Config search path" not in problem
    if word == "output_dir=[a,b]":
        assert problem.endswith(" To have it as a text, type 'output_dir=\"[a,b]\"'")


def test_several_values_without_a_sweep_say_what_to_type() -> None:
    assert unswept(["seed=1,2", "data.path=a,b.png", "freeze.train=[a,b]"]) == [
        "seed: several values are for a sweep, with -m. To have them as a list 'seed=[1,2]', as a text type "
        "'seed=\"1,2\"'",
        "data.path: several values are for a sweep, with -m. To have them as a list 'data.path=[a,b.png]', as a text "
        "type 'data.path=\"a,b.png\"'",
    ]


@pytest.mark.parametrize("group", ["optimizer", "experiment", "logger"])
def test_a_group_set_to_null_lists_its_options(group: str) -> None:
    [problem] = problems(f"{group}=null")
    assert problem.startswith(f"{group}=null: takes the name of an option, or is left out. The choices are: ")


def test_a_removed_key_has_its_default() -> None:
    assert problems("~seed") == []
    assert "seed" not in settings("~seed")
    assert config("~seed").seed == 0


def test_a_group_of_another_command_is_a_mistake() -> None:
    """With `+`, Hydra would accept it unread."""
    for override in ("freeze=backbone", "+freeze=backbone"):
        assert problems(override, command="evaluate") == [
            "freeze: evaluate has no such group. Its groups are: device, data.",
            MISSING,
        ]


def test_hydras_own_options_are_left_to_hydra() -> None:
    assert problems("hydra/job_logging=none") == []
    [problem] = problems("hydra/job_logging=nne")
    assert "Could not find 'hydra/job_logging/nne'" in problem


# Nested keys


def test_mistakes_inside_phases_name_the_phase() -> None:
    found = problems(
        "freeze=gradual_unfreezing",
        "freeze.phases=[{name: a, train: [head], until: {epoch: 3}}, {name: b, trian: [all]}]",
    )
    assert [problem.partition(": ")[0] for problem in found] == [
        "freeze.phases[0].until.epoch",
        "freeze.phases[1].train",
        "freeze.phases[1].trian",
    ]
    assert "Did you mean freeze.phases[0].until.epochs (integer ≥ 1 or null)?" in found[0]
    assert found[2] == "freeze.phases[1].trian: unknown key. Did you mean freeze.phases[1].train (list of text)?"


# Sweeps


def test_every_value_of_a_sweep_is_checked() -> None:
    [problem] = problems("freeze=backbone,nune")
    assert problem.startswith("freeze=nune: unknown option. Did you mean freeze=none?")
    assert problems("freeze=backbone,none", "trainer.max_epochs=1,0,2") == [
        "trainer.max_epochs: must be integer ≥ 1 or auto, not `0` (passes over the training images; auto: enough for "
        "the number of images)."
    ]
    assert problems("freeze=backbone,none", "seed=0,1,2", "optimizer.lr=interval(0.01,0.1)") == []


# The user's own files


def test_an_own_experiment_is_accepted(tmp_path: Path) -> None:
    experiment = """
        # @package _global_
        defaults:
          - override /optimizer: adamw
        trainer: {max_epochs: 2}
        optimizer: {lr: 0.002}
    """
    assert problems("experiment=mine", config_dir=written(tmp_path, experiment__mine=experiment)) == []


def test_a_mistake_inside_an_own_file_is_found(tmp_path: Path) -> None:
    experiment = """
        # @package _global_
        trainer: {max_epoch: 2}
        optimzer: {lr: 0.1}
    """
    found = problems("experiment=mine", config_dir=written(tmp_path, experiment__mine=experiment))
    assert found == [
        "optimzer: unknown key. Did you mean optimizer?",
        "trainer.max_epoch: unknown key. Did you mean trainer.max_epochs (integer ≥ 1 or auto, default auto)?",
    ]


PARTS = """
import torch

class Optimizer(torch.optim.SGD):
    def __init__(self, params, *, lr, beta): super().__init__(params, lr=lr)

class Head(torch.nn.Linear):
    def __init__(self, features, classes, *, width): super().__init__(features, classes)

class Network(torch.nn.Module):
    def __init__(self, *, depth): super().__init__()

class Source:
    def __init__(self, *, length): self.classes = ["a"]
    def dataset(self, split): return None
"""


def test_own_classes_named_in_yaml_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    folder = written(
        tmp_path,
        optimizer__mine="_target_: my_parts.Optimizer\nlr: 0.1\nbeta: 3\n",
        head__mine="_target_: my_parts.Head\nwidth: 3\n",
        model__mine="_target_: my_parts.Network\ndepth: 2\n",
        data__mine="_target_: my_parts.Source\nlength: 5\nimage_size: 32\n",
    )
    chosen = ["optimizer=mine", "head=mine", "model=mine", "data=mine"]
    assert problems(*chosen, "optimizer.beta=4", "data.batch_size=4", config_dir=folder) == []
    assert problems(*chosen, "optimizer.lr=0", "optimizer.bta=4", config_dir=folder) == [
        "optimizer.bta: unknown key. Did you mean optimizer.beta?",
        "optimizer.lr: must be float > 0, not `0` (learning rate; the freezing policy and the scheduler multiply it).",
    ]


def test_an_own_file_has_the_defaults_of_what_it_leaves_out(tmp_path: Path) -> None:
    folder = written(
        tmp_path,
        optimizer__mine="name: sgd\nlr: 0.3\n",
        data__smaller="defaults: [digits, _self_]\nbatch_size: 8\n",
        trainer__long="max_epochs: 90\n",
    )
    words = ["optimizer=mine", "data=smaller", "trainer=long", "optimizer.nesterov=true", "optimizer.momentum=0.5"]
    assert problems(*words, "trainer.log_every_n_steps=3", config_dir=folder) == []
    composed = check(Invocation(command="train", overrides=words, config_dir=folder)).config.as_dict()
    assert (
        composed["optimizer"] == config("optimizer.lr=0.3", *words[3:], "optimizer.weight_decay=0").optimizer.as_dict()
    )
    assert composed["data"] == config("data.batch_size=8").data.as_dict()
    assert composed["trainer"] == config("trainer.max_epochs=90").trainer.as_dict()


def test_an_own_optimizer_needs_a_learning_rate(tmp_path: Path) -> None:
    folder = written(tmp_path, optimizer__mine="_target_: my_parts.Optimizer\n")
    assert problems("optimizer=mine", config_dir=folder) == [
        "optimizer.lr: missing; type optimizer.lr=VALUE (learning rate; the freezing policy and the scheduler multiply "
        "it)."
    ]


def test_own_options_are_listed_with_ours(tmp_path: Path) -> None:
    folder = written(tmp_path, scheduler__mine="name: constant\nwarmup: 0.1\n")
    assert group_options(folder)["scheduler"] == ["constant", "cosine", "onecycle", "step", "mine"]
    [problem] = problems("scheduler=min", config_dir=folder)
    assert "Did you mean scheduler=mine?" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: [0.1\n", "{file}, line 2: cannot be read: "),
        ("lr: !!python/object/apply:os.getcwd []\n", "{file}, line 1: cannot be read: "),
        ("lr: 1\nlr: 2\n", "{file}, line 2: cannot be read: the key `lr` is there twice."),
        ("# @package a b\nlr: 1\n", "--config-dir: the files in `{folder}` make no config: Too many components in"),
        ("defaults: 3\n", "--config-dir: the files in `{folder}` make no config: Invalid defaults list in"),
        ("defaults: [mine]\n", "--config-dir: the files in `{folder}` make no config: a defaults list that names"),
        ("defaults: [nope]\n", "In '{group}/mine': Could not load '{group}/nope'."),
        ("name: sgd\nlr: ${nope\n", "lr: no viable alternative at input '${{nope'"),
    ],
)
@pytest.mark.parametrize("group", ["optimizer", "experiment"])
def test_a_file_that_cannot_be_read_is_named(group: str, text: str, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path, **{f"{group}__mine": text})
    [problem] = problems(f"{group}=mine", config_dir=folder)
    assert problem.startswith(message.format(file=folder / group / "mine.yaml", folder=folder, group=group)), problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defaults:\n  - override /freeze: head\n", "freeze=head: is now called freeze=backbone. The choices are: "),
        ("freeze: {name: head}\n", "freeze.name=head: is now called freeze.name=backbone. "),
        ("trainer: {gradient_clip_norm: 1}\n", "trainer.gradient_clip_norm: is now called trainer.gradient_clip_val."),
        ("defaults:\n  - override /freeze: nun\n", "freeze=nun: unknown option. Did you mean freeze=none? "),
        ("defaults:\n  - override /freez: none\n", "In 'experiment/mine': Could not override 'freez'."),
        ("trainer: [1, 2]\n", "{file}: trainer takes keys with values (KEY: VALUE), not a list."),
        ("- a\n- b\n", "{file}: holds no keys with values (KEY: VALUE), but one list."),
        ("data: digits\n", "data: takes the name of an option, or keys as data.KEY=VALUE, not `digits`."),
    ],
)
def test_a_mistake_in_an_own_experiment_is_answered(text: str, message: str, tmp_path: Path) -> None:
    folder = written(tmp_path, experiment__mine=f"# @package _global_\n{text}", experiment__other="- another\n")
    [problem] = problems("experiment=mine", config_dir=folder)
    assert problem.startswith(message.format(file=folder / "experiment/mine.yaml")), problem


def test_an_experiment_without_its_first_line_would_be_read_by_nothing(tmp_path: Path) -> None:
    [problem] = problems("experiment=mine", config_dir=written(tmp_path, experiment__mine="seed: 1\n"))
    assert problem.startswith("experiment: keys under `experiment` are read by nothing. The first line of an own ")


def test_a_config_dir_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert problems(config_dir=tmp_path / "gone") == [f"--config-dir: there is no folder `{tmp_path / 'gone'}`."]


# Speed


def test_help_mistakes_and_the_config_itself_answer_without_torch(tmp_path: Path) -> None:
    script = """
        import sys
        from frostline.commands.help import command_help, overview
        from frostline.commands.main import main
        from frostline.config.commands import COMMANDS

        overview()
        for name in COMMANDS:
            command_help(name)
        for given in (["optimizer.momentm=1", "freeze=nune"], ["--cfg", "job"]):
            try:
                main("train", given)
            except SystemExit as end:
                assert end.code == 2, end.code
        heavy = {"torch", "lightning", "torchvision", "numpy", "wandb"} & sys.modules.keys()
        assert not heavy, heavy
        print("light")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["light"]), done.stderr
    assert "max_epochs: auto" in done.stdout
    assert "2 problems:" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_tab_completion_answers_without_torch(tmp_path: Path) -> None:
    script = """
        import sys
        from frostline.commands.main import main
        main("train", ["-sc", "query=bash"])
        assert "torch" not in sys.modules
    """
    line = "train.py optimizer=ada"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env={"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {"optimizer=adam", "optimizer=adamw", "optimizer=adagrad"} <= set(done.stdout.split())


def test_a_mapping_that_is_empty_by_default_takes_keys() -> None:
    texts = adapted(["freeze=none", "freeze.lr={stem: 0.01}", "seed=1", "+a={b: 1}", "seed=[1"])
    assert texts == ["freeze=none", "++freeze.lr={stem: 0.01}", "seed=1", "+a={b: 1}", "seed=[1"]
    assert problems_of(Invocation(command="train", overrides=texts[:3])) == []
    [unknown] = problems_of(Invocation(command="train", overrides=adapted(["freeze=none", "freeze.lrr={stem: 0.01}"])))
    assert "freeze.lrr" in unknown
    assert "freeze.lr" in unknown.partition("Did you mean")[2]
