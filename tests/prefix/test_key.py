"""Equal keys mean equal features: every bit of the prefix counts, and nothing behind it."""

import torch
from torchvision.models import resnet18

from frostline.prefix.key import feature_key, prefix_digest
from frostline.prefix.split_model import split_at_frost_line


def split_of(network, after: str = "layer2"):
    trainable = {name for name, _ in network.named_parameters() if name.startswith((after, "fc"))}
    held = {name for name, _ in network.named_modules() if name and not name.startswith(after)}
    return split_at_frost_line(network, trainable=trainable, held=held)


def network():
    torch.manual_seed(0)
    return resnet18(num_classes=3)


def test_equal_prefixes_have_one_digest_in_any_memory_format() -> None:
    digest = prefix_digest(split_of(network()))
    assert digest == prefix_digest(split_of(network()))
    assert digest == prefix_digest(split_of(network().to(memory_format=torch.channels_last)))


def test_one_bit_of_a_weight_or_a_buffer_changes_the_digest() -> None:
    digest = prefix_digest(split_of(network()))
    for name in ("conv1.weight", "layer1.1.bn2.bias", "bn1.running_var", "layer1.0.bn1.num_batches_tracked"):
        changed = network()
        tensor = changed.state_dict()[name].view(-1)
        if tensor.is_floating_point():
            tensor.view(torch.int32)[0] ^= 1
        else:
            tensor[0] ^= 1
        assert prefix_digest(split_of(changed)) != digest, name


def test_what_lies_after_the_frost_line_does_not_count() -> None:
    changed = network()
    torch.nn.init.normal_(changed.fc.weight)
    torch.nn.init.normal_(changed.layer3[0].conv1.weight)
    assert prefix_digest(split_of(changed)) == prefix_digest(split_of(network()))


def test_what_runs_counts_even_with_equal_weights() -> None:
    changed = network()
    changed.maxpool = torch.nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    assert prefix_digest(split_of(changed)) != prefix_digest(split_of(network()))


def test_another_frost_line_has_another_digest() -> None:
    assert prefix_digest(split_of(network(), "layer3")) != prefix_digest(split_of(network()))


def test_a_key_depends_on_values_and_not_on_their_order() -> None:
    assert feature_key({"a": 1, "b": [1, 2]}) == feature_key({"b": [1, 2], "a": 1})
    assert feature_key({"a": 1}) != feature_key({"a": "1"})
