"""Large JPEGs are decoded at reduced size: by which rule, and by how much their pixels differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from frostline.data.datamodule import ImageDataModule
from frostline.data.decoding import decode_image, decoded_size, reduction
from frostline.data.image_file import UnreadableImage
from frostline.data.image_folder import ImageFolder
from frostline.data.prediction_files import ImageFiles
from frostline.data.spec import DataSpec
from frostline.data.transforms import (
    Augmentation,
    evaluation_transform,
    shorter_side,
)

# Grey levels of 255, after resizing: measured were 4 and 0.5 on what `photograph` draws.
LARGEST, MEAN = 10, 1.0


def photograph(width, height, *, seed=0):
    """Noise with a photograph's spectrum (amplitude 1/f), discs with sharp edges, and the noise of a sensor."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / width)
    phases = np.exp(2j * np.pi * rng.random((3, *amplitude.shape)))
    waves = np.fft.irfft2(amplitude * phases, s=(height, width))
    pixels = 128 + 45 * waves / waves.std() + 4 * rng.standard_normal(waves.shape)
    y, x = np.mgrid[:height, :width]
    for _ in range(6):
        disc = np.hypot(y - rng.integers(height), x - rng.integers(width)) < rng.integers(height // 10, height // 4)
        pixels[:, disc] += rng.uniform(-80, 80, (3, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """3.1 megapixels, the largest that a test need draw."""
    path = tmp_path_factory.mktemp("photographs") / "large.jpg"
    photograph(2048, 1536).save(path, quality=90)
    return path


@pytest.mark.parametrize(
    ("size", "needed", "expected"),
    [
        ((4000, 3000), None, 1),
        ((4000, 3000), 1501 // 2, 2),
        ((4000, 3000), 751, 1),  # one pixel more than half of the half
        ((4000, 3000), 375, 4),
        ((4000, 3000), 376, 2),
        ((4000, 3000), 187, 8),
        ((3000, 4000), 187, 8),
        ((80_000, 1000), 1, 8),  # no more than libjpeg can
        ((4000, 500), 125, 2),
        ((512, 512), 16, 1),
        ((2000, 999), 16, 1),  # fewer than two megapixels
        ((2000, 1000), 16, 8),
    ],
)
def test_the_rule(size, needed, expected):
    """The largest of 8, 4, 2 that leaves twice what is needed; nothing below two megapixels."""
    assert reduction(*size, shorter_side=needed) == expected


def test_what_each_transform_needs():
    assert shorter_side(image_size=224, resize=1.143) == 256
    assert shorter_side(image_size=224, resize=1.143, augment=Augmentation(name="light")) == 256
    assert shorter_side(image_size=224, resize=1.143, augment=Augmentation(name="standard")) == 518


def test_the_smallest_random_crop_still_has_the_images_size():
    side = shorter_side(image_size=224, augment=Augmentation(name="standard"))
    smallest_crop = (0.25 * side * side * 3 / 4) ** 0.5
    assert 224 <= smallest_crop < 225


@pytest.mark.parametrize(("needed", "factor"), [(64, 8), (128, 4), (256, 2)])
def test_after_resizing_pixels_differ_by_a_few_grey_levels(large, needed, factor):
    """The stated tolerance: at most 10 of 255 anywhere, at most 1 on average."""
    reduced = decode_image(large, shorter_side=needed)
    assert reduced.size == (2048 // factor, 1536 // factor)
    transform = evaluation_transform(image_size=needed)
    error = (transform(reduced).int() - transform(decode_image(large)).int()).abs()
    assert 0 < error.max() <= LARGEST
    assert error.float().mean() <= MEAN


def test_odd_sizes_too(tmp_path):
    """A side that 8 does not divide, unlike a camera's, is off by up to a quarter of a pixel after resizing."""
    path = tmp_path / "odd.jpg"
    photograph(1843, 1381, seed=1).save(path, quality=90)
    transform = evaluation_transform(image_size=64)
    reduced = decode_image(path, shorter_side=64)
    assert reduced.size == (230, 173)
    error = (transform(reduced).int() - transform(decode_image(path)).int()).abs()
    assert error.max() <= 2 * LARGEST  # at the sharp edges, which moved
    assert error.float().mean() <= 2.5 * MEAN


def test_below_the_threshold_images_are_bit_identical(tmp_path):
    path = tmp_path / "small.jpg"
    photograph(640, 512).save(path)
    assert decode_image(path, shorter_side=16).tobytes() == decode_image(path).tobytes()


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_other_formats_come_out_whole(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (2000, 1000), (9, 99, 199)).save(path, lossless=True)
    assert decode_image(path, shorter_side=16).size == (2000, 1000) == decoded_size(path, shorter_side=16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied_to_the_reduced_image(tmp_path, orientation):
    image = Image.new("RGB", (2000, 1000), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 1000, 500))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.jpg"
    image.save(path, exif=exif)
    whole, reduced = decode_image(path), decode_image(path, shorter_side=60)
    assert decoded_size(path) == whole.size
    assert decoded_size(path, shorter_side=60) == reduced.size == tuple(side // 8 for side in whole.size)
    corners = [(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)]
    seen = [
        [image.getpixel((int(image.width * x), int(image.height * y))) for x, y in corners]
        for image in (whole, reduced)
    ]
    assert seen[0] == seen[1]
    assert seen[0].count((255, 255, 255)) == 1


@pytest.mark.parametrize("ending", ["tif", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_reported_beforehand_is_the_size_that_comes(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (2000, 1001)).save(path, exif=exif)
    size = (1001, 2000) if orientation == 6 else (2000, 1001)
    assert decode_image(path, shorter_side=60).size == size == decoded_size(path, shorter_side=60)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk(tmp_path, mode):
    path = tmp_path / "a.jpg"
    Image.new(mode, (2000, 1000), 90 if mode == "L" else (0, 255, 255, 0)).save(path)
    reduced = decode_image(path, shorter_side=60)
    assert (reduced.size, reduced.mode) == ((250, 125), "RGB")
    difference = np.asarray(reduced).astype(int) - np.asarray(decode_image(path))[:125, :250]
    assert np.abs(difference).max() <= 1


def test_the_limit_on_pixels_is_about_the_file(large):
    with pytest.raises(UnreadableImage, match="2048 x 1536 pixels, more than the limit"):
        decode_image(large, max_pixels=2_000_000, shorter_side=64)


def test_a_torn_file_is_as_unreadable_as_before(large, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(large.read_bytes()[:50_000])
    with pytest.raises(UnreadableImage, match=r"cut\.jpg: cannot be decoded"):
        decode_image(tmp_path / "cut.jpg", shorter_side=64)


class TestOneRuleEverywhere:
    """Training's evaluation, `evaluate` and `predict` see the same pixels."""

    @pytest.fixture
    def folder(self, tmp_path, large):
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for number in range(3):
                (tmp_path / name / f"{number}.jpg").write_bytes(large.read_bytes())
        return tmp_path

    def data(self, folder, augment="none", **options):
        source = ImageFolder(path=folder, **options)
        return ImageDataModule(source=source, image_size=64, batch_size=2, augment=Augmentation(name=augment))

    @pytest.mark.parametrize("scaled", [True, False])
    def test_prediction_sees_what_the_validation_saw(self, folder, scaled):
        data = self.data(folder, scaled_decoding=scaled)
        assert data.spec.scaled_decoding is scaled
        images, _ = next(iter(data.val_dataloader()))
        path = data.images("val").paths[0]
        files = ImageFiles([path], spec=data.spec)
        assert torch.equal(files[0][0], images[0])
        whole = evaluation_transform(image_size=64)(decode_image(path))
        assert torch.equal(whole, images[0]) is not scaled

    def test_a_checkpoint_from_before_reads_whole_images(self):
        before = {"classes": ["a"], "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 64, "resize": 1.0}
        assert ImageFiles([], spec=DataSpec.from_dict(before)).shorter_side is None

    def test_training_decodes_as_its_augmentation_needs(self, folder):
        sizes = {}
        for augment in ("none", "standard"):
            loader = self.data(folder, augment).train_dataloader()
            sizes[augment] = loader.dataset.images[0][0].size
        # 64 pixels allow an eighth of 1536; the random crop needs 148, twice that leaves a quarter.
        assert sizes == {"none": (256, 192), "standard": (512, 384)}

    def test_it_can_be_switched_off(self, folder):
        loader = self.data(folder, scaled_decoding=False).train_dataloader()
        assert loader.dataset.images[0][0].size == (2048, 1536)
