"""From a checked command line to the command: in this process, or as a sweep that Hydra runs; or its config, shown."""

import argparse
import gc
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import Container, DictConfig, OmegaConf, open_dict, read_write

from frostline.commands import config_files, job_records, openmp, sweep
from frostline.commands.command_line import command_line
from frostline.commands.failures import INTERRUPTIONS, USER_ERROR, close_stdout, fail
from frostline.commands.launcher import global_rank, launched_outside, outside_world
from frostline.commands.overrides import Checked, Invocation, check, resolved, without_hydra
from frostline.commands.quoting import override_text
from frostline.commands.stored_config import stored_config
from frostline.commands.terminal import shown
from frostline.commands.words import adapted, unswept
from frostline.config import secret_values
from frostline.config.groups import CommandConfig
from frostline.config.guesses import GUESSES
from frostline.config.paths import CHECKPOINT_KEYS, absolute
from frostline.config.validation import ConfigError, validate
from frostline.storage.atomic import output_problem

SHELLS = ("bash", "zsh", "fish")
ACTIONS = ("run", "multirun", "cfg", "info", "shell_completion")


def run_command(command: str, words: list[str]) -> None:
    """Check the command line and do what it asks for; ends by SystemExit where something is wrong."""
    # Intermixed: Hydra itself wants all flags before or after the overrides.
    parser = get_args_parser()
    parser.error = _refuse_option
    flags = parser.parse_intermixed_args(words)
    config_dir = Path(absolute(flags.config_dir)) if flags.config_dir else None
    config_files.register(config_dir)
    overrides = adapted(flags.overrides)
    secret_values.remember(dict(override.partition("=")[::2] for override in flags.overrides))
    options = [word for word in words if word not in flags.overrides]
    if config_dir is not None:
        options += ["--config-dir", str(config_dir)]  # the last one counts
    _refuse_flags(flags)
    if flags.shell_completion or flags.hydra_help or flags.info:
        _hydra_main(command, [*options, *overrides], lambda _: None)
        return
    sweeps = flags.multirun or "hydra.mode=MULTIRUN" in overrides
    config_files.ConfigFiles.stored = stored_config(command, overrides, sweeps=sweeps)
    if launched_outside() and not flags.cfg:
        # Each process would start the sweep for itself; and one process is enough for a command that does not train.
        if command != "train" and global_rank() > 0:
            return
        if outside_world() != (1, 1) and sweeps:
            if global_rank() == 0:
                fail(["-m: start a sweep without torchrun or srun; device.devices=N trains each job on N processes."])
            raise SystemExit(USER_ERROR)
    if config_dir is not None and str(config_dir) not in sys.path:
        # Classes of the user's own often lie beside their configs.
        sys.path.insert(0, str(config_dir))
    invocation = Invocation(command=command, overrides=overrides, config_dir=config_dir)
    several = [] if sweeps else unswept(overrides)
    try:
        checked = check(invocation)
        if several:
            raise ConfigError([])
    except ConfigError as error:
        swept = {problem.partition(":")[0] for problem in several}
        fail([*several, *(problem for problem in error.problems if problem.partition(":")[0] not in swept)])
    if flags.cfg:
        _show(checked.composed, flags)
        return
    key = "hydra.sweep.dir" if sweeps else "hydra.run.dir"
    try:
        named = checked.folder(key)
        folder = absolute(named)  # Hydra takes ~ for a name
    except ValueError as error:
        fail([str(error)])
    if global_rank() > 0:
        from frostline.commands.train import join

        join(Path(folder), checked.config)
        return
    if command == "train" and (problem := output_problem(folder, folder=True)):
        fail([f"The run folder {problem}"])
    if sweeps:
        _sweep_in(Path(folder), invocation, options, key=key)
    else:
        _run_here(invocation, checked, folder)


def _refuse_option(message: str) -> NoReturn:
    """In place of argparse's report, which lists Hydra's options and no key."""
    words = message.removeprefix("unrecognized arguments: ").split()
    if not words[0].startswith("-"):
        fail([f"{message}. --help lists all options and keys."])
    problems = []
    for word in words:
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        typed = GUESSES.get(name, (name,))[0]
        typed = typed if "=" in typed else f"{typed}=VALUE"
        problems.append(f"{word}: unknown option. Keys are typed without dashes: {typed}")
    fail(problems)


def _refuse_flags(flags: argparse.Namespace) -> None:
    actions = [name for name in ACTIONS if getattr(flags, name)]
    if len(actions) > 1:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in actions)
        fail([f"{words}: take one of them. A config is shown of one run, with one value for each key."])
    if flags.config_name or flags.config_path:
        fail(["--config-name, --config-path: the command says which config is read; --config-dir adds your own files."])
    if flags.shell_completion:
        action, _, shell = (flags.overrides or [""])[0].partition("=")
        if action not in ("install", "uninstall", "query") or shell not in SHELLS:
            fail([f"-sc: takes install=SHELL or uninstall=SHELL, with {', '.join(SHELLS)} for SHELL."])
        if action == "query":
            sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - an unfinished line is no mistake to report


def _hydra_main(command: str, words: Sequence[str], job: Callable[[DictConfig], None]) -> None:
    sys.argv = [sys.argv[0], *words]
    hydra.main(version_base="1.3", config_path="pkg://frostline.conf", config_name=command)(job)()


def _show(composed: DictConfig, flags: argparse.Namespace) -> None:
    """Print the config, as Hydra's `--cfg` does, which would compose it again."""
    HydraConfig.instance().set_config(composed)
    shown = {
        "all": composed,
        "job": without_hydra(composed),
        "hydra": OmegaConf.masked_copy(composed, ["hydra"]),
    }[flags.cfg]
    node = shown if flags.package in (None, "_global_") else OmegaConf.select(shown, flags.package)
    if node is None:
        fail([f"--package: there is no `{flags.package}` in the config."])
    if flags.resolve and isinstance(node, Container):
        OmegaConf.resolve(node)
    sys.stdout.write(OmegaConf.to_yaml(node) if isinstance(node, Container) else f"{node}\n")


def _name_checkpoints(composed: DictConfig, config: CommandConfig) -> None:
    """A line for each checkpoint that was named by its folder; not on stdout, where a table may go."""
    for key in CHECKPOINT_KEYS:
        taken, typed = getattr(config, key, None), composed.get(key)
        if taken is not None and typed is not None and taken != absolute(str(typed)) and global_rank() == 0:
            print(f"{key}: {taken}", file=sys.stderr)


def _run(invocation: Invocation, config: CommandConfig, job: sweep.Job | None) -> None:
    # Found by name, as each command pulls in torch.
    run = importlib.import_module(f"frostline.commands.{invocation.command}").run
    openmp.log_choice()
    try:
        run(sweep.with_own_checkpoint(config, job))
    except BrokenPipeError:  # here, as Hydra would print a traceback
        close_stdout()


def _run_here(invocation: Invocation, checked: Checked, folder: str) -> None:
    """Run with the config that was checked, in a run folder that Hydra makes."""
    composed = checked.composed
    _name_checkpoints(composed, checked.config)
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.run.dir = folder
    with config_files.composing(invocation.command, invocation.config_dir):
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks(composed))
        context.callbacks.on_run_start(config=composed, config_name=invocation.command)
        done = run_job(
            task_function=lambda _: _run(invocation, checked.config, None),
            config=composed,
            job_dir_key="hydra.run.dir",
            job_subdir_key=None,
            hydra_context=context,
        )
        context.callbacks.on_run_end(config=composed, config_name=invocation.command, job_return=done)
        _ = done.return_value  # raises what the command did


def _sweep_in(folder: Path, invocation: Invocation, options: Sequence[str], *, key: str) -> None:
    """Run a sweep in its folder, or go on with the one that the same command has begun; other commands have none."""
    words = [*options, *invocation.overrides]
    named = [word for word in invocation.overrides if word.partition("=")[0] != key]
    if invocation.command != "train":
        _sweep(invocation, [*options, *named, override_text(key, str(folder))], goes_on=False)
        return
    with job_records.opened(folder, words) as (found, goes_on):
        if goes_on:
            done = sum(job.message is None for job in job_records.jobs_in(found))
            begun = f"Going on with this sweep in {found}, {done} jobs are finished"
            print(shown(f"{begun}; another output_dir begins a new one."))
        interrupted = False
        try:
            _sweep(invocation, [*options, *named, override_text(key, str(found))], goes_on=goes_on)
        except (SystemExit, KeyboardInterrupt) as end:
            interrupted = isinstance(end, KeyboardInterrupt) or end.code in INTERRUPTIONS
            raise
        finally:
            from frostline.commands.sweep_table import conclude  # imports torch, as the jobs have

            if table := conclude(found):
                print(shown(table))
            if interrupted:
                print(f"The sweep was interrupted. The same command goes on with what is missing: {command_line()}")


def _sweep(invocation: Invocation, words: Sequence[str], *, goes_on: bool) -> None:
    failed: dict[sweep.Job, Any] = {}
    process, trains = os.getpid(), invocation.command == "train"

    def run_one(composed: DictConfig) -> None:
        job, folder = sweep.this_job(invocation.overrides), Path(HydraConfig.get().runtime.output_dir)
        assert job is not None
        before = job_records.job_in(folder) if goes_on else None
        if before is not None and before.message is None:
            return
        count = sweep.number_of_jobs(invocation.overrides)
        print(shown(f"job {job.number + 1}{f' of {count}' if count else ''}: {' '.join(job.swept)}"), flush=True)
        began, message = time.monotonic(), None
        try:
            try:
                config = validate(invocation.kind, resolved(composed))
            except ConfigError as error:  # of a job beyond those checked above
                fail(error.problems)
            _run(invocation, sweep.from_own_checkpoint(config, folder) if goes_on else config, job)
        except SystemExit as end:
            if end.code in INTERRUPTIONS or os.getpid() != process:  # another launcher's process
                raise
            failed[job], message = end.code, job_records.reason_of(end, folder)
        if trains:
            seconds = time.monotonic() - began
            from frostline.commands.sweep_table import result_text

            record = job_records.record(folder, swept=job.swept, message=message, seconds=seconds)
            print(f"  {result_text(record)}", flush=True)
        gc.collect()  # a run's trainer and network refer to each other, and stay, 45 MB and more of each run

    _hydra_main(invocation.command, words, run_one)
    if failed:
        print(f"frostline: {len(failed)} of the sweep's jobs failed: {'; '.join(map(str, failed))}.", file=sys.stderr)
        raise SystemExit(next(iter(failed.values())))
