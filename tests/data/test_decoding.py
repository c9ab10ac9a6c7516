"""Every kind of image file becomes RGB, or an error that names the file and the reason."""

import os
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from frostline.data.decoding import decode_image
from frostline.data.image_file import UnreadableImage


def saved(tmp_path, image, name, **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def reason(path, **options):
    with pytest.raises(UnreadableImage) as caught:
        decode_image(path, **options)
    assert caught.value.path == path
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


RED = Image.new("RGB", (6, 4), (255, 0, 0))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tiff", "a.ppm", "a.webp", "a.jpg", "a.JPEG"])
def test_the_usual_formats(tmp_path, name):
    image = decode_image(saved(tmp_path, RED, name))
    assert image.mode == "RGB"
    assert image.size == (6, 4)
    assert np.abs(np.asarray(image).astype(int) - [255, 0, 0]).max() <= 3


def test_the_content_decides_not_the_name(tmp_path):
    path = saved(tmp_path, RED, "a.png")
    assert decode_image(path.rename(tmp_path / "a.jpg")).size == (6, 4)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (6, 4), (0, 0, 0))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    upright = decode_image(saved(tmp_path, image, "a.png", exif=exif))
    assert upright.size == (4, 6)
    assert upright.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (255,))
    shown = decode_image(saved(tmp_path, image, "a.png"))
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 0)]


def test_palettes_with_a_transparent_colour(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 0, 0, 255])
    image.putpixel((1, 0), 1)
    shown = decode_image(saved(tmp_path, image, "a.png", transparency=0))
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (0, 0, 255)]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32_896, 65_535]], np.uint16)
    shown = decode_image(saved(tmp_path, Image.fromarray(values), "a.png"))
    assert [shown.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def sixteen_bit_png(path, values, *chunks):
    """A PNG of 16 bits: (height, width) is grey, with two channels grey and alpha, with three RGB, with four RGBA."""
    height, width, *channels = values.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels[0] if channels else 1]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    body = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(lines)), png_chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


def tiff(path, content, bits, *, photometric=1, sample_format=1):
    """A TIFF of four grey pixels."""
    tags = [(256, 4), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(content)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<I", 8 + len(content))
    path.write_bytes(header + content + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


RAMP = np.array([[0, 257, 32_896, 65_535]], np.uint16)
SHOWN = [0, 1, 128, 255]


@pytest.fixture(autouse=True)
def nothing_said_before(monkeypatch):
    monkeypatch.setattr("frostline.data.pixel_depth._logged", set())


class TestSixteenBits:
    """The range is what the file states; where it states none, values up to 255 are 8 bits, which is reported once."""

    def shown(self, path):
        return np.asarray(decode_image(path))[0, :, 0].tolist()

    @pytest.mark.parametrize("bits", [10, 12, 14])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_png_with_fewer_significant_bits(self, tmp_path, bits, channels):
        stated = png_chunk(b"sBIT", bytes([bits] * channels))
        values = RAMP.astype(int) * (2**bits - 1) // 65_535
        full = RAMP
        if channels == 3:
            values, full = (np.repeat(each[..., None], 3, axis=2) for each in (values, full))
        assert self.shown(sixteen_bit_png(tmp_path / "low.png", values, stated)) == pytest.approx(SHOWN, abs=1)
        # Scaled to 16 bits, as the format wants it, the same statement changes nothing.
        assert self.shown(sixteen_bit_png(tmp_path / "high.png", full, stated)) == SHOWN

    def test_unscaled_bits_beside_transparency_are_refused(self, tmp_path):
        values = np.full((2, 2, 4), 4095)
        path = sixteen_bit_png(tmp_path / "a.png", values, png_chunk(b"sBIT", bytes([12] * 4)))
        assert "16-bit pixels with transparency of which 12 bits are significant" in reason(path)

    def test_tiff_with_a_stated_largest_value(self, tmp_path):
        path = saved(tmp_path, Image.fromarray(RAMP >> 4), "a.tif", tiffinfo={281: 4095})
        assert self.shown(path) == pytest.approx(SHOWN, abs=1)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_values_of_8_bits(self, tmp_path, caplog, channels):
        values = (RAMP >> 8).repeat(channels).reshape(1, 4, channels).squeeze()
        path = sixteen_bit_png(tmp_path / "a.png", values.reshape(1, 4, *([3] if channels == 3 else [])))
        assert [self.shown(path) for _ in range(2)] == [[0, 1, 128, 255]] * 2
        assert caplog.text.count("holds values of 0 to 255 in 16 bits or more") == 1

    def test_a_range_that_no_one_states_is_reported(self, tmp_path, caplog):
        assert self.shown(saved(tmp_path, Image.fromarray(RAMP >> 4), "a.tif")) == [0, 0, 8, 15]
        assert "16-bit values of at most 4,095, states no range, and is read as 0 to 65,535" in caplog.text

    def test_a_dark_pgm_states_its_range(self, tmp_path, caplog):
        (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 0, 255))
        assert self.shown(tmp_path / "a.pgm") == [0, 0]
        assert not caplog.text

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
    def test_white_is_zero(self, tmp_path, compression):
        path = saved(tmp_path, Image.fromarray(RAMP), "a.tif", tiffinfo={262: 0}, compression=compression)
        assert self.shown(path) == [255, 254, 127, 0]

    @pytest.mark.parametrize(
        ("bits", "sample_format", "content", "expected"),
        [
            (12, 1, bytes.fromhex("000555aaafff"), [0, 85, 170, 255]),
            (16, 2, struct.pack("<4h", 0, 10_923, 21_845, 32_767), [0, 85, 170, 255]),
            (16, 2, struct.pack("<4h", 0, 85, 170, 255), [0, 85, 170, 255]),
        ],
    )
    def test_tiffs_of_12_bits_and_with_a_sign(self, tmp_path, bits, sample_format, content, expected):
        assert self.shown(tiff(tmp_path / "a.tif", content, bits, sample_format=sample_format)) == expected

    def test_a_tiff_that_pillow_does_not_know(self, tmp_path):
        path = tiff(tmp_path / "a.tif", bytes(4), 8, photometric=4)  # a transparency mask
        assert "pixel layout, photometric interpretation or compression not supported" in reason(path)

    def test_big_endian(self, tmp_path):
        assert self.shown(saved(tmp_path, Image.fromarray(RAMP.astype(">u2")), "a.tif")) == SHOWN

    def test_32_bit_integers(self, tmp_path):
        assert self.shown(saved(tmp_path, Image.fromarray(RAMP.astype(np.int32)), "a.tif")) == SHOWN
        beyond = saved(tmp_path, Image.fromarray(np.array([[0, 65_536]], np.int32)), "b.tif")
        assert "32-bit integer pixels beyond the 16-bit range" in reason(beyond)

    def test_a_transparent_value(self, tmp_path):
        assert self.shown(sixteen_bit_png(tmp_path / "a.png", RAMP, png_chunk(b"tRNS", b"\0\0"))) == [255, 1, 128, 255]


def test_cmyk(tmp_path):
    shown = decode_image(saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "a.jpg"))
    assert np.abs(np.asarray(shown).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_of_an_animation_the_first_frame(tmp_path, name):
    path = saved(tmp_path, RED, name, save_all=True, append_images=[Image.new("RGB", (6, 4), (0, 0, 255))], lossless=1)
    assert decode_image(path).getpixel((2, 2)) == (255, 0, 0)


def test_one_bit_images(tmp_path):
    assert decode_image(saved(tmp_path, Image.new("1", (3, 3), 1), "a.png")).getpixel((1, 1)) == (255, 255, 255)


def test_missing(tmp_path):
    assert reason(tmp_path / "none.jpg") == "no such file"


def test_empty(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert reason(tmp_path / "a.jpg") == "empty file (0 bytes)"


def test_no_image(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    assert "no image" in reason(tmp_path / "a.jpg")


def test_a_folder(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    assert "cannot be decoded" in reason(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif"])
def test_truncated(tmp_path, name):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path = saved(tmp_path, noise, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path)


def test_a_flipped_byte_in_a_png(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)), "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert reason(path)


def test_too_many_pixels_are_refused_before_decoding(tmp_path):
    assert "6 x 4 pixels, more than the limit of 23" in reason(saved(tmp_path, RED, "a.png"), max_pixels=23)
    assert decode_image(tmp_path / "a.png", max_pixels=24).size == (6, 4)


def test_a_decompression_bomb(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    assert "pixels" in reason(path)


def test_formats_that_run_programs_are_not_opened(tmp_path):
    path = tmp_path / "a.eps"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    assert "no image" in reason(path)


def test_float_pixels_have_no_range(tmp_path):
    assert "32-bit float" in reason(saved(tmp_path, Image.new("F", (2, 2), 0.5), "a.tiff"))


def test_the_error_survives_a_worker_process():
    error = UnreadableImage("a: b.jpg", "truncated")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        decode_image(tmp_path / "pipe.png")
