"""One word chooses the augmentation; evaluation is deterministic; uint8 stays uint8."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode

from frostline.data.transforms import (
    AUGMENTATIONS,
    Augmentation,
    checked_normalisation,
    evaluation_transform,
    middle,
    mix_batch,
    training_transform,
)

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))


def augmented(augment, image=NOISE, seed=0, size=32):
    torch.manual_seed(seed)
    return training_transform(augment, image_size=size)(image)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("image", [NOISE, torch.zeros(3, 8, 8, dtype=torch.uint8)], ids=["pil", "uint8"])
def test_every_augmentation_gives_uint8_of_the_size(name, image):
    out = augmented(Augmentation(name=name), image)
    assert type(out) is torch.Tensor
    assert out.dtype == torch.uint8
    assert out.shape == (3, 32, 32)


@pytest.mark.parametrize("name", ["light", "crop", "standard", "trivial"])
def test_augmentation_is_random_and_seeded(name):
    augment = Augmentation(name=name)
    outs = [augmented(augment, seed=seed) for seed in range(8)]
    assert torch.equal(outs[0], augmented(augment, seed=0))
    assert len({out.numpy().tobytes() for out in outs}) > 4


def test_none_is_what_evaluation_does():
    assert torch.equal(augmented(Augmentation(name="none")), evaluation_transform(image_size=32)(NOISE))


@pytest.mark.parametrize("name", ["light", "crop", "standard", "trivial"])
def test_horizontal_flip_is_a_switch(name):
    """Left half black, right half white: the brighter side tells whether it was mirrored."""
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 255

    def mirrored(flip):
        outs = [augmented(Augmentation(name=name, horizontal_flip=flip), image, seed=seed) for seed in range(60)]
        return sum(bool(out[:, :, :8].float().mean() > out[:, :, -8:].float().mean()) for out in outs)

    assert mirrored(True) > 10
    # TrivialAugment's solarize and invert-like operations may turn black into white, but rarely.
    assert mirrored(False) <= (10 if name == "trivial" else 0)


@pytest.mark.parametrize("name", ["crop", "standard"])
def test_the_random_crop_takes_the_area_that_is_promised(name):
    """The left edge is 0, the right one 255: the share of the width that a crop saw tells its area."""
    image = torch.linspace(0, 255, 256).round().to(torch.uint8).expand(3, 256, 256)
    outs = [augmented(Augmentation(name=name, horizontal_flip=False), image, seed=seed)[0] for seed in range(200)]
    narrowest = min(int(out.max()) - int(out.min()) for out in outs) / 255
    least = {"crop": 0.08, "standard": 0.25}[name]
    # Colour changes of `standard` scale the difference by 0.8 * 0.8 at least.
    slack = 0.64 if name == "standard" else 1.0
    assert (least * 3 / 4) ** 0.5 * slack - 0.02 <= narrowest <= 1.6 * (least * 3 / 4) ** 0.5


def test_float_images_pass_unchanged():
    image = torch.rand(3, 32, 32)
    assert torch.equal(evaluation_transform(image_size=32)(image), image)
    assert torch.equal(augmented(Augmentation(name="none"), image), image)
    assert augmented(Augmentation(name="standard"), image).dtype == torch.float32


def test_evaluation_takes_the_centre_of_the_resized_image():
    image = torch.zeros(3, 64, 128, dtype=torch.uint8)
    image[:, :, 32:96] = 200
    assert torch.equal(evaluation_transform(image_size=64)(image), torch.full((3, 64, 64), 200, dtype=torch.uint8))


def test_the_resize_ratio_cuts_the_border_away():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, 16:48, 16:48] = 200
    out = evaluation_transform(image_size=32, resize=2.0)(image)
    assert torch.equal(out, torch.full((3, 32, 32), 200, dtype=torch.uint8))


def test_small_square_images_are_enlarged_whole():
    image = torch.arange(4, dtype=torch.uint8).reshape(1, 2, 2).expand(3, 2, 2) * 60
    out = evaluation_transform(image_size=8)(image)
    assert [out[0, 0, 0], out[0, 0, -1], out[0, -1, 0], out[0, -1, -1]] == [0, 60, 120, 180]


def test_unknown_augmentation_lists_the_choices():
    with pytest.raises(ValueError, match="'heavy'; choose from none, light, crop, standard, trivial"):
        Augmentation(name="heavy")


def test_negative_alpha():
    with pytest.raises(ValueError, match="at least 0"):
        Augmentation(mixup=-1)


@pytest.mark.parametrize("ways", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_makes_soft_targets(ways):
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    targets = torch.arange(8) % 4
    mixed, soft = mix_batch(images, targets, augment=Augmentation(**ways), classes=4)
    assert mixed.dtype == torch.uint8
    assert mixed.shape == images.shape
    assert soft.shape == (8, 4)
    assert soft.dtype == torch.float32
    assert torch.allclose(soft.sum(1), torch.ones(8))


def test_mixup_weighs_image_and_label_alike():
    images = torch.stack([torch.full((3, 4, 4), value, dtype=torch.uint8) for value in (0, 250)])
    torch.manual_seed(0)
    mixed, soft = mix_batch(images, torch.tensor([0, 1]), augment=Augmentation(mixup=1.0), classes=2)
    assert torch.allclose(mixed[:, 0, 0, 0].float() / 250, soft[:, 1], atol=0.003)


def test_without_mixing_targets_stay_hard():
    images, targets = torch.zeros(2, 3, 4, 4), torch.tensor([1, 0])
    assert mix_batch(images, targets, augment=Augmentation(), classes=2) == (images, targets)


@pytest.mark.parametrize("name", ["evaluation", *AUGMENTATIONS])
@pytest.mark.parametrize("size", [(40_000, 1), (1, 40_000), (20_000, 2)])
def test_no_shape_of_image_takes_more_than_its_share_of_memory(name, size):
    """Resized whole, 40,000 x 1 pixels become 2.9 million x 73; the longest tensor here is 16 times as long as high."""
    image = Image.new("RGB", size, (10, 20, 30))
    largest = 0

    class Sizes(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            out = function(*arguments, **(keywords or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    transform = (
        evaluation_transform(image_size=64, resize=1.143)
        if name == "evaluation"
        else training_transform(Augmentation(name=name), image_size=64, resize=1.143)
    )
    torch.manual_seed(0)
    with Sizes():
        out = transform(image)
    assert out.shape == (3, 64, 64)
    assert largest <= max(3 * 73 * 16 * 73, 3 * size[0] * size[1])
    if name == "evaluation":
        assert torch.equal(out, torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1).expand(3, 64, 64))


def test_an_image_up_to_16_times_as_long_as_high_is_resized_whole():
    image = torch.arange(3 * 4 * 64, dtype=torch.int64).remainder(256).to(torch.uint8).view(3, 4, 64)
    assert middle(image) is image
    longer = torch.cat([image, image[..., :3]], dim=2)
    assert torch.equal(middle(longer), longer[..., 1:65])


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        Augmentation(mixup=value)
    for name in ("mean", "std"):
        with pytest.raises(ValueError, match=rf"{name} takes three finite"):
            checked_normalisation([0.5, value, 0.5], [0.5] * 3, name)


class TestOwnTransform:
    """`augment` with a class of the user's own."""

    def test_it_gets_the_whole_image_and_its_result_is_fitted(self):
        seen = []

        def own(image):
            seen.append((image.shape, image.dtype))
            return image[:, :20, :20]

        augment = Augmentation(name="mine", own=own, horizontal_flip=False)
        image = Image.new("RGB", (40, 24), (10, 20, 30))
        fitted = training_transform(augment, image_size=8)(image)
        assert seen == [((3, 24, 40), torch.uint8)]
        assert fitted.shape == (3, 8, 8)
        assert fitted[:, 0, 0].tolist() == [10, 20, 30]

    def test_a_result_of_the_right_size_is_left_as_it_is(self):
        chosen = torch.arange(3 * 8 * 8, dtype=torch.uint8).reshape(3, 8, 8)
        augment = Augmentation(name="mine", own=lambda _: chosen, horizontal_flip=False)
        transform = training_transform(augment, image_size=8, resize=1.5)
        assert torch.equal(transform(Image.new("RGB", (9, 9))), chosen)

    @pytest.mark.parametrize("result", [None, torch.zeros(8, 8)])
    def test_another_result_is_an_error(self, result):
        transform = training_transform(Augmentation(name="mine", own=lambda _: result), image_size=8)
        with pytest.raises(
            ValueError, match=r"augment: the transform has to return a tensor \(3, height, width\), not "
        ):
            transform(Image.new("RGB", (9, 9)))

    def test_a_name_without_a_transform_is_unknown(self):
        with pytest.raises(ValueError, match="Unknown augmentation 'mine'"):
            Augmentation(name="mine")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_resizes_with_the_interpolation_that_is_named(name):
    def augmented_with(interpolation: str) -> torch.Tensor:
        torch.manual_seed(0)
        return training_transform(Augmentation(name=name), image_size=64, interpolation=interpolation)(NOISE)

    assert not torch.equal(augmented_with("bicubic"), augmented_with("bilinear"))
