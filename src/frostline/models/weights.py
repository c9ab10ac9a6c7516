"""Initial weights: where they come from, and which of them were used."""

import errno
import hashlib
import sys
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from frostline.models.download import download, fetch, hub_cache, reach
from frostline.models.saved_file import of_this_version, prefix_of, read_plain, unwrapped
from frostline.numeric_checks import check_finite
from frostline.storage.names import first_of

# How long `auto` waits for an answer before it uses random weights.
REACH_SECONDS = 3.0
COUNTER = "num_batches_tracked"
# Why `auto` found no weights, by network: a process waits for an answer once.
_unreachable: dict[str | None, str] = {}


@dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Which tensors of the network were loaded; part of the run's facts."""

    source: str
    loaded: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # in the source, not used
    initialised: tuple[str, ...] = ()  # in the network, not from the source: random
    new_head: tuple[str, ...] = ()  # globs of the classifier's tensors, where they are random
    warning: str | None = None

    def summary(self) -> str:
        """One line for the log."""
        text = f"weights: {self.source}; {len(self.loaded)} tensors loaded"
        if self.skipped:
            text += f", {len(self.skipped)} skipped ({first_of(self.skipped, most=4)})"
        if self.initialised:
            text += f", {len(self.initialised)} newly initialised ({first_of(self.initialised, most=4)})"
        return text


@dataclass(frozen=True, kw_only=True)
class InitialState:
    """A state dict, or `None` for random weights, with a warning if they were not asked for."""

    source: str
    state: Mapping[str, Tensor] | None
    warning: str | None = None
    prefix: str = ""  # what stood before its names
    outside: tuple[str, ...] = ()  # names without that prefix: another network's

    def named_as(self, network: nn.Module, *, classifier: Sequence[str] = ("fc",)) -> "InitialState":
        """The same tensors under the network's own names, where they had these after a prefix.

        Raises:
            ValueError: several networks are in it.
        """
        if self.state is None:
            return self
        try:
            prefix = prefix_of(self.state, [name for name in network.state_dict() if not _is_in(name, classifier)])
        except ValueError as error:
            raise ValueError(f"weights: `{self.source}`: {error}. {conversion(self.source)}") from error
        inside = {name.removeprefix(prefix): t for name, t in self.state.items() if name.startswith(prefix)}
        outside = tuple(name for name in self.state if not name.startswith(prefix))
        adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if adapt is not None:  # timm's: names of earlier versions, positions of another image size
            inside = dict(adapt(inside, network))
        # Classifiers that a GoogLeNet or an Inception trains besides.
        extra = {name for name in inside if name.lower().startswith("aux")}.difference(network.state_dict())
        inside = {name: t for name, t in inside.items() if name not in extra}
        return replace(self, state=inside, prefix=prefix, outside=(*outside, *sorted(extra)))


def find_weights(weights: str, *, name: str | None = None) -> InitialState:
    """What `imagenet`, `none`, `auto`, or a path or URL to a state dict or a frostline checkpoint stands for.

    `name` is the library's name of the network, needed for `imagenet` and `auto`.

    Raises:
        ValueError: the file is none of the known forms.
        FileNotFoundError: no such file; or ImageNet weights that are neither cached nor reachable.
    """
    if weights == "none":
        return InitialState(source="none (random)", state=None)
    if weights not in ("imagenet", "auto"):
        return InitialState(source=weights, state=read_state(weights))
    if weights == "imagenet" or name not in _unreachable:
        try:
            state = imagenet_state(name, timeout=REACH_SECONDS if weights == "auto" else None)
        except (FileNotFoundError, ValueError) as error:
            if weights == "imagenet":
                raise
            _unreachable[name] = str(error.strerror if isinstance(error, FileNotFoundError) else error)
        else:
            return InitialState(source="imagenet", state=state)
    warning = f"weights=auto: training starts from RANDOM weights. {_unreachable[name]}"
    return InitialState(source="none (random)", state=None, warning=warning)


def load_weights(
    network: nn.Module, initial: InitialState, *, names: Sequence[str] = ("fc",), classifier: bool = True
) -> LoadedWeights:
    """Copy a state dict into the network.

    A classifier of another size or form is skipped and reported; any other mismatch is an error.

    Args:
        names: of the modules that classify.
        classifier: whether to load them.

    Raises:
        ValueError: keys or shapes outside the classifier differ; they are listed by name.
    """
    own, everything = network.state_dict(), tuple(f"{name}.*" for name in names)
    if initial.state is None:
        return LoadedWeights(
            source=initial.source, initialised=tuple(own), new_head=everything, warning=initial.warning
        )
    state = initial.state
    usable = {k: v for k, v in state.items() if k in own and _fits(v, own[k])}
    if not classifier or any(_is_in(k, names) and k not in usable for k in (*state, *own)):
        # Half an old classifier in a new one would be neither.
        usable = {k: v for k, v in usable.items() if not _is_in(k, names)}
    skipped = tuple(k for k in state if k not in usable)
    # Files from before torch 0.4.1 lack the counters of batches, which only a batch norm without momentum reads.
    initialised = tuple(k for k in own if k not in usable and not (k not in state and k.endswith(COUNTER)))
    wrong = [k for k in dict.fromkeys((*skipped, *initialised)) if not _is_in(k, names)]
    if wrong:
        lines = [_difference(k, state, own) for k in wrong]
        # Not a tensor under a name of the network's: other names, or a prefix that is none.
        foreign = "" if set(state) & set(own) else f" It knows no name of the network's. {conversion(initial.source)}"
        more = f"\n  … and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ValueError(
            f"weights: `{initial.source}` does not fit the network ({len(lines)} tensors differ"
            f"{f' after its prefix `{initial.prefix}`' if initial.prefix else ''}). "
            f"Is it from another architecture (model=…)?{foreign}\n" + "\n".join(lines[:8]) + more
        )
    check_finite(f"weights: `{initial.source}`", usable)
    network.load_state_dict(of_this_version(usable, network), strict=False)
    skipped = (*skipped, *initial.outside)
    new_head = everything if any(_is_in(name, names) for name in initialised) else ()
    return LoadedWeights(
        source=initial.source, loaded=tuple(usable), skipped=skipped, initialised=initialised, new_head=new_head
    )


def imagenet_state(name: str | None, *, timeout: float | None = None) -> dict[str, Tensor]:
    """The weights that a network's library publishes under its name: torchvision's DEFAULT, from torch hub's cache or
    downloaded into it (hash checked); timm's, from the Hugging Face hub's.

    Raises:
        ValueError: there are none for this network, or the cached file is corrupt.
        FileNotFoundError: not cached, and their server does not answer (within `timeout` seconds where given).
    """
    from torchvision import models

    if name is None:
        raise ValueError("There are no ImageNet weights for a network of your own: give a path, or weights=none")
    if name.startswith("timm/"):
        return _timm_state(name.removeprefix("timm/"), timeout=timeout)
    enum = models.get_model_weights(name).DEFAULT
    cached = hub_cache() / Path(urllib.parse.urlparse(enum.url).path).name
    if not cached.exists():
        try:
            reach(enum.url, timeout=timeout)
            fetch(enum.url, cached)
        except OSError as error:  # URLError and time-outs are OSErrors
            raise FileNotFoundError(
                errno.ENOENT,
                f"The ImageNet weights of {name} are not in torch hub's cache ({cached}) and cannot be downloaded "
                f"({getattr(error, 'reason', error)}). Three ways out: copy {cached.name} there from a machine that "
                "has it; give the path of a state dict (weights=PATH); or start from random weights "
                "(weights=none)",
            ) from error
    # torch.hub checks what it downloads, not what it finds. The file's name ends in the first digits of its hash.
    wanted = cached.stem.rpartition("-")[2]
    with cached.open("rb") as file:
        found = hashlib.sha256()
        while piece := file.read(2**20):
            found.update(piece)
    if not found.hexdigest().startswith(wanted):
        raise ValueError(
            f"The ImageNet weights in {cached} are corrupt or another file: their SHA-256 begins with "
            f"{found.hexdigest()[:8]}, not with {wanted}. Delete the file to have it downloaded again"
        )
    return dict(read_plain(cached))


def _timm_state(name: str, *, timeout: float | None) -> dict[str, Tensor]:
    import timm
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if not config.hf_hub_id:
        raise ValueError(f"timm has no weights for {name}: give a path, or weights=none")
    repository, file = config.hf_hub_id, "model.safetensors"
    cached = try_to_load_from_cache(repository, file)
    if not isinstance(cached, str):
        try:
            reach(hf_hub_url(repository, file), timeout=timeout)
            cached = hf_hub_download(repository, file)
        except OSError as error:
            raise FileNotFoundError(
                errno.ENOENT,
                f"The weights of {name} are not in the Hugging Face cache ({repository}) and cannot be downloaded "
                f"({getattr(error, 'reason', error)}). Three ways out: copy the cache's folder of {repository} from a "
                f"machine that has it; give the path of its {file} (weights=PATH); or start from random weights "
                "(weights=none)",
            ) from error
    return read_state(cached)


def read_state(source: str) -> dict[str, Tensor]:
    """The state dict in a `.pth`/`.pt`/`.ckpt`/`.safetensors` file, or at an http(s) URL (kept in torch hub's cache).

    Raises:
        FileNotFoundError: no such file, or the URL does not answer.
        ValueError: the file holds something else.
    """
    path = download(source) if urllib.parse.urlparse(source).scheme in ("http", "https") else Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            errno.ENOENT,
            f"weights: there is no file `{source}`. The choices are: auto, imagenet, none, or the path or URL of "
            "a torchvision state dict, a safetensors file or a frostline checkpoint",
        )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"weights: `{source}` is not a safetensors file ({error})") from error
    try:
        content = read_plain(path)
    except ValueError as error:
        raise ValueError(f"weights: `{source}` cannot be read as a state dict: {error}") from error
    found = unwrapped(content)
    if found is None:
        keys = f"; its keys are: {first_of(tuple(map(str, content)), most=4)}" if isinstance(content, Mapping) else ""
        raise ValueError(f"weights: `{source}` holds no state dict (names of tensors){keys}")
    return found[0]


def conversion(source: str) -> str:
    """The command that renames a file's tensors."""
    return (
        "To rename them: python -c \"import torch; state = torch.load('"
        f"{source}', weights_only=True); torch.save({{k.removeprefix('PREFIX'): v for k, v in state.items() "
        "if k.startswith('PREFIX')}, 'renamed.pth')\", and weights=renamed.pth."
    )


def _is_in(name: str, modules: Sequence[str]) -> bool:
    return name.startswith(tuple(f"{module}." for module in modules))


def _fits(tensor: Tensor, own: Tensor) -> bool:
    """Whether one can be copied into the other; half precision can be copied into weights, integers cannot."""
    kinds = (tensor.is_floating_point(), tensor.layout) == (own.is_floating_point(), own.layout)
    return kinds and tensor.shape == own.shape


def _difference(key: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if key not in own:
        return f"  {key}: not in the network"
    if key not in state:
        return f"  {key}: not in the file"
    if state[key].shape == own[key].shape:
        return f"  {key}: {state[key].dtype} in the file, {own[key].dtype} in the network"
    return f"  {key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
