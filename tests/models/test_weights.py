"""Initial weights: from where, checked how, and what of them is used."""

import argparse
import hashlib
import pickle
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models._api import Weights

from frostline.models import weights as weights_module
from frostline.models.weights import InitialState, find_weights, imagenet_state, load_weights, read_state


class Tiny(nn.Module):
    """The smallest network with a body and an `fc`."""

    def __init__(self, *, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 1, bias=False)
        self.fc = nn.Linear(width, classes)


@pytest.fixture(autouse=True)
def nothing_known_to_be_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "_unreachable", {})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch hub's folder of checkpoints, this test's own; still empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    return tmp_path / "torch_home/hub/checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and the folder that it shows."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", folder
        httpd.shutdown()
        thread.join()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# Sources


def test_none_is_random() -> None:
    assert find_weights("none", name="resnet18") == InitialState(source="none (random)", state=None)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_path_is_read(tmp_path: Path, suffix: str) -> None:
    file, state = tmp_path / f"tiny.{suffix}", Tiny().state_dict()
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(state, file)
    initial = find_weights(str(file))
    assert initial.source == str(file)
    assert initial.state is not None
    assert {name: tensor.tolist() for name, tensor in initial.state.items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }


def test_a_frostline_checkpoint_is_read(tmp_path: Path) -> None:
    file, state = tmp_path / "last.ckpt", Tiny().state_dict()
    torch.save({"state_dict": state, "global_step": 3, "frostline": {"format": 1}}, file)
    assert list(read_state(str(file))) == list(state)


def test_a_url_is_downloaded_once_into_torch_hubs_cache(server: tuple[str, Path], hub: Path) -> None:
    address, folder = server
    torch.save(Tiny().state_dict(), folder / "tiny.pth")
    first = read_state(f"{address}/tiny.pth")
    (folder / "tiny.pth").unlink()
    assert read_state(f"{address}/tiny.pth")["fc.weight"].equal(first["fc.weight"])
    assert [path.name.partition("-")[2] for path in hub.iterdir()] == ["tiny.pth"]


def test_two_urls_with_one_file_name_are_two_files(server: tuple[str, Path], hub: Path) -> None:
    address, folder = server
    for name, classes in (("a", 3), ("b", 5)):
        (folder / name).mkdir()
        torch.save(Tiny(classes=classes).state_dict(), folder / name / "model.pth")
    assert [len(read_state(f"{address}/{name}/model.pth")["fc.bias"]) for name in "ab"] == [3, 5]


def test_a_url_that_does_not_answer_is_named(server: tuple[str, Path], hub: Path) -> None:
    address, _ = server
    with pytest.raises(FileNotFoundError, match=f"cannot download {address}/nothing.pth"):
        read_state(f"{address}/nothing.pth")


def test_a_download_that_is_cut_off_is_not_kept(hub: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        port = listening.getsockname()[1]
        with pytest.raises(FileNotFoundError, match="the connection ended after 4 of 1,000 bytes"):
            read_state(f"http://127.0.0.1:{port}/cut.pth")
        thread.join()
    assert list(hub.iterdir()) == []


# Files that are refused


def test_a_missing_file_lists_what_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"there is no file `.*gone\.pth`\. The choices are: auto, imagenet, none"
    ):
        read_state(str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str) -> None:
    file, state = tmp_path / f"damaged.{suffix}", Tiny().state_dict()
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(state, file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"^weights: `{file}`"):
        read_state(str(file))


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\xff\xd8\xff\xe0 a photo", bytes(range(256))])
def test_a_file_of_other_bytes_is_named(tmp_path: Path, content: bytes) -> None:
    """torch.load ends in IndexError, KeyError, struct.error and others there."""
    file = tmp_path / "other.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        read_state(str(file))


@pytest.mark.parametrize("content", [{}, [1, 2], {"conv1.weight": "text"}, torch.zeros(3)], ids=str)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"holds no state dict \(names of tensors\)"):
        read_state(str(file))


class Payload:
    """Its unpickling would write a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, by: str) -> None:
    marker, file = tmp_path / "was_here", tmp_path / "payload.pth"
    if by == "torch":
        torch.save({"conv1.weight": Payload(marker)}, file)
    else:
        file.write_bytes(pickle.dumps({"conv1.weight": Payload(marker)}, protocol=2))
    with pytest.raises(
        ValueError,
        match="an object of getattr, to read which would run code",
    ):
        read_state(str(file))
    assert not marker.exists()
    torch.load(file, weights_only=False) if by == "torch" else pickle.loads(file.read_bytes())
    assert marker.exists(), "the payload would have run if it had been let"


# Into the network


def test_loading_copies_every_tensor() -> None:
    source, network = Tiny(), Tiny()
    loaded = load_weights(network, InitialState(source="x", state=source.state_dict()))
    assert all(tensor.equal(source.state_dict()[name]) for name, tensor in network.state_dict().items())
    assert (loaded.loaded, loaded.skipped, loaded.initialised) == (("conv1.weight", "fc.weight", "fc.bias"), (), ())


def test_a_classifier_of_another_size_is_left_new_and_reported() -> None:
    network = Tiny(classes=3)
    before = network.fc.weight.detach().clone()
    loaded = load_weights(network, InitialState(source="x.pth", state=Tiny(classes=5).state_dict()))
    assert network.fc.weight.equal(before)
    assert loaded.loaded == ("conv1.weight",)
    assert loaded.summary() == (
        "weights: x.pth; 1 tensors loaded, 2 skipped (fc.weight, fc.bias), 2 newly initialised (fc.weight, fc.bias)"
    )


def test_half_a_classifier_is_not_loaded() -> None:
    """`fc.bias` alone would fit a classifier over another number of features."""
    state = Tiny().state_dict()
    state["fc.weight"] = torch.zeros(3, 9)
    loaded = load_weights(Tiny(), InitialState(source="x", state=state))
    assert loaded.initialised == loaded.skipped == ("fc.weight", "fc.bias")


def test_shape_and_key_mismatches_are_listed_by_name() -> None:
    state = {**Tiny(width=6).state_dict(), "conv2.weight": torch.zeros(1)}
    network = Tiny(width=4)
    network.bn1 = nn.BatchNorm2d(4, track_running_stats=False)
    before = network.conv1.weight.detach().clone()
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_weights(network, InitialState(source="x.pth", state=state))
    assert str(caught.value).splitlines() == [
        "weights: `x.pth` does not fit the network (4 tensors differ). Is it from another architecture (model=…)?",
        "  conv1.weight: (6, 3, 1, 1) in the file, (4, 3, 1, 1) in the network",
        "  conv2.weight: not in the network",
        "  bn1.weight: not in the file",
        "  bn1.bias: not in the file",
    ]
    assert network.conv1.weight.equal(before)


def test_a_long_list_of_mismatches_is_cut() -> None:
    with torch.device("meta"):
        small, large = torchvision.models.resnet18(), torchvision.models.resnet34()
    with pytest.raises(ValueError, match="96 tensors differ") as caught:
        load_weights(small, InitialState(source="x", state=large.state_dict()))
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (10, "  … and 88 more")


# In the wrappings of training scripts


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "backbone.", "net.", "encoder.", "student.", "module.backbone.", "a.b."],
)
@pytest.mark.parametrize("place", [None, "state_dict", "model", "model_state_dict", "state_dict_ema", "teacher"])
def test_a_state_dict_is_found_under_a_prefix_and_in_a_dictionary(
    tmp_path: Path, prefix: str, place: str | None
) -> None:
    source, network = Tiny(), Tiny()
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save(state if place is None else {"epoch": 3, place: state, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    initial = find_weights(str(tmp_path / "w.pth")).named_as(network)
    loaded = load_weights(network, initial)
    assert (initial.prefix, loaded.loaded) == (prefix, ("conv1.weight", "fc.weight", "fc.bias"))
    assert all(tensor.equal(source.state_dict()[name]) for name, tensor in network.state_dict().items())


def test_what_lies_outside_the_prefix_is_skipped_and_reported() -> None:
    state = {**{f"backbone.{k}": v for k, v in Tiny().state_dict().items()}, "projector.weight": torch.zeros(2)}
    network = Tiny()
    loaded = load_weights(network, InitialState(source="x", state=state).named_as(network))
    assert (loaded.skipped, loaded.initialised) == (("projector.weight",), ())


def test_two_networks_in_a_file_are_refused_by_their_prefixes() -> None:
    state = {f"{who}.{k}": v for who in ("student", "teacher") for k, v in Tiny().state_dict().items()}
    with pytest.raises(ValueError, match=r"more than one network, under the prefixes `student.` and `teacher.`"):
        InitialState(source="x", state=state).named_as(Tiny())


def test_arguments_of_a_training_script_do_not_stand_in_the_way(tmp_path: Path) -> None:
    torch.save({"model": Tiny().state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth")
    assert list(read_state(str(tmp_path / "w.pth"))) == ["conv1.weight", "fc.weight", "fc.bias"]


def test_another_object_in_a_file_is_named_in_a_sentence_of_our_own(tmp_path: Path) -> None:
    torch.save({"model": Tiny().state_dict(), "where": tmp_path}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"an object of pathlib\.PosixPath, to read which would run code") as caught:
        read_state(str(tmp_path / "w.pth"))
    assert "\x1b" not in str(caught.value)


def test_files_without_counters_of_batches_load_as_torch_loads_them() -> None:
    network = torchvision.models.resnet18()
    state = {k: v for k, v in torchvision.models.resnet18().state_dict().items() if "num_batches" not in k}
    loaded = load_weights(network, InitialState(source="x", state=state))
    assert (len(loaded.loaded), loaded.skipped, loaded.initialised) == (102, (), ())
    assert network.bn1.running_mean is not None
    assert network.bn1.running_mean.equal(state["bn1.running_mean"])


def test_half_precision_loads_and_whole_numbers_do_not() -> None:
    state, network = Tiny().state_dict(), Tiny()
    load_weights(network, InitialState(source="x", state={k: v.half() for k, v in state.items()}))
    assert network.conv1.weight.equal(state["conv1.weight"].half().float())
    with pytest.raises(ValueError, match=r"conv1.weight: torch.int64 in the file, torch.float32 in the network"):
        load_weights(network, InitialState(source="x", state={k: v.long() for k, v in state.items()}))


def test_names_of_another_library_are_reported_with_the_way_to_rename_them() -> None:
    state = {f"features.0.{k}": v for k, v in nn.Conv2d(3, 4, 1).state_dict().items()}
    with pytest.raises(ValueError, match=r"knows no name of the network's. To rename them: python -c") as caught:
        load_weights(Tiny(), InitialState(source="x", state=state).named_as(Tiny()))
    assert "  features.0.weight: not in the network" in str(caught.value)


# ImageNet


def test_imagenet_offline_and_not_cached_names_the_three_ways_out(offline: None, hub: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        find_weights("imagenet", name="resnet18")
    message = caught.value.strerror
    assert "resnet18 are not in torch hub's cache" in message
    assert "Name or service not known" in message
    for way in ("copy resnet18-f37072fd.pth there", "(weights=PATH)", "(weights=none)"):
        assert way in message


def test_auto_offline_starts_from_random_weights_with_a_warning(offline: None, hub: Path) -> None:
    initial = find_weights("auto", name="resnet18")
    assert (initial.source, initial.state) == ("none (random)", None)
    assert initial.warning is not None
    assert initial.warning.startswith("weights=auto: training starts from RANDOM weights. The ImageNet weights")
    loaded = load_weights(Tiny(), initial)
    assert loaded.warning == initial.warning  # from where it goes into the run's facts
    assert loaded.initialised == ("conv1.weight", "fc.weight", "fc.bias")


def test_auto_waits_only_for_its_seconds(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        _offer(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/tiny-00000000.pth")
        monkeypatch.setattr(weights_module, "REACH_SECONDS", 0.2)
        initial = find_weights("auto", name="resnet18")
    assert initial.state is None
    assert "timed out" in (initial.warning or "")


def test_imagenet_is_downloaded_checked_and_cached(
    server: tuple[str, Path], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    name, state = _published(folder)
    _offer(monkeypatch, f"{address}/{name}")
    assert imagenet_state("resnet18")["fc.weight"].equal(state["fc.weight"])
    (folder / name).unlink()
    for weights in ("imagenet", "auto"):  # from the cache from now on
        initial = find_weights(weights, name="resnet18")
        assert initial.source == "imagenet"
        assert initial.state is not None
        assert initial.state["fc.weight"].equal(state["fc.weight"])
    assert [path.name for path in hub.iterdir()] == [name]


def test_imagenet_in_the_cache_is_hash_checked(hub: Path, offline: None) -> None:
    hub.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), hub / "resnet18-f37072fd.pth")
    with pytest.raises(ValueError, match=r"corrupt or another file: their SHA-256 begins with .*, not with f37072fd"):
        find_weights("imagenet", name="resnet18")
    assert "corrupt or another file" in (find_weights("auto", name="resnet18").warning or "")


def test_a_download_of_another_hash_is_refused(
    server: tuple[str, Path], hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = server
    torch.save(Tiny().state_dict(), folder / "tiny-00000000.pth")
    _offer(monkeypatch, f"{address}/tiny-00000000.pth")
    with pytest.raises(ValueError, match="corrupt or another file"):
        find_weights("imagenet", name="resnet18")


def test_there_are_no_imagenet_weights_for_an_own_network() -> None:
    with pytest.raises(ValueError, match="no ImageNet weights for a network of your own"):
        find_weights("imagenet", name=None)
    assert "a network of your own" in (find_weights("auto", name=None).warning or "")


def _published(folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """A file named by its hash, as torchvision publishes them."""
    state = Tiny().state_dict()
    torch.save(state, folder / "new.pth")
    name = f"tiny-{hashlib.sha256((folder / 'new.pth').read_bytes()).hexdigest()[:8]}.pth"
    (folder / "new.pth").rename(folder / name)
    return name, state


def _offer(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """torchvision's own kind of weights, at another address."""

    class Offered(WeightsEnum):
        DEFAULT = Weights(url=url, transforms=torch.nn.Identity, meta={})

    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _: Offered)
