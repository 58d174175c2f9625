"""Every line of what is promised about uploads: a right picture, or one plain sentence."""

import hashlib
import random
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcdnet.data import ImageError, decode_image
from bcdnet.data.images import FORMATS, MAX_BYTES


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def refusal(data: bytes | str | Path) -> str:
    """The sentence with which `data` is refused; checks that it is one sentence."""
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and "Error" not in message
    return message


def corners() -> Image.Image:
    """40 x 20 px, each quarter in a colour of its own: shows any flip or rotation."""
    image = Image.new("RGB", (40, 20), "red")
    image.paste("lime", (20, 0, 40, 10))
    image.paste("blue", (0, 10, 20, 20))
    image.paste("white", (20, 10, 40, 20))
    return image


def close(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int], tolerance: int = 0) -> bool:
    pixel = np.asarray(image)[at[1], at[0]].astype(int)
    return bool(np.abs(pixel - colour).max() <= tolerance)


def test_plain_png_is_returned_as_it_is(tmp_path: Path) -> None:
    data = encode(corners())
    path = tmp_path / "naïve <b>*md*&amp;.png"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        decoded = decode_image(source)
        assert decoded.image.mode == "RGB" and decoded.notes == ()
        assert decoded.image.tobytes() == corners().tobytes()
        assert decoded.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
def test_every_allowed_format_opens(format: str) -> None:
    assert decode_image(encode(corners(), format)).image.size == (40, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied_once(format: str, orientation: int) -> None:
    # What the camera stores so that the tag's operation gives `corners` back: the inverse operation on it.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = corners()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    decoded = decode_image(encode(stored, format, exif=exif, **options))
    assert decoded.image.size == (40, 20)
    assert close(decoded.image, (5, 4), (255, 0, 0), 4) and close(decoded.image, (34, 4), (0, 255, 0), 4)
    assert close(decoded.image, (5, 15), (0, 0, 255), 4) and close(decoded.image, (34, 15), (255, 255, 255), 4)
    assert any("upright" in note for note in decoded.notes) == (orientation > 1)


def test_personal_data_is_left_behind() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    assert decode_image(encode(corners(), "JPEG", exif=exif)).image.info == {}


def test_a_16_bit_ramp_stays_a_ramp() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(3, 0)
    decoded = decode_image(encode(Image.fromarray(ramp)))
    grey = np.asarray(decoded.image)
    assert np.array_equal(grey[0, :, 0], np.arange(256))
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all()
    assert any("16-bit" in note for note in decoded.notes)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_rounds_to_nearest(format: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], dtype=np.uint16)
    decoded = decode_image(encode(Image.fromarray(values), format))
    assert np.asarray(decoded.image)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_16_bit_transparency_becomes_white() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0)
    row = zlib.compress(b"\0" + struct.pack(">HH", 1000, 65535 // 2))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in [(b"IHDR", header), (b"tRNS", struct.pack(">H", 1000)), (b"IDAT", row), (b"IEND", b"")]
    )
    decoded = decode_image(data)
    assert np.asarray(decoded.image)[0, :, 0].tolist() == [255, 127]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white_and_hides_what_is_below(mode: str) -> None:
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    image.paste((0, 0, 0, 255), (2, 0, 4, 2))
    options: dict[str, Any] = {}
    if mode == "P":
        image = Image.new("P", (4, 2), 0)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.paste(1, (2, 0, 4, 2))
        options["transparency"] = 0
    else:
        image = image.convert(mode)
    decoded = decode_image(encode(image, **options))
    assert close(decoded.image, (0, 0), (255, 255, 255)) and close(decoded.image, (3, 1), (0, 0, 0))
    assert "Transparent parts were laid on white." in decoded.notes


def test_half_transparency_is_mixed() -> None:
    decoded = decode_image(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert close(decoded.image, (0, 0), (127, 127, 127))


def test_an_opaque_alpha_channel_is_not_worth_a_note() -> None:
    assert decode_image(encode(corners().convert("RGBA"))).notes == ()


def test_cmyk_jpeg() -> None:
    decoded = decode_image(encode(corners().convert("CMYK"), "JPEG", quality=95, subsampling=0))
    assert decoded.image.mode == "RGB" and close(decoded.image, (5, 4), (255, 0, 0), 4)
    assert any("CMYK" in note for note in decoded.notes)


def test_palette_gif() -> None:
    decoded = decode_image(encode(corners().convert("P", palette=Image.Palette.ADAPTIVE), "GIF"))
    assert close(decoded.image, (34, 4), (0, 255, 0)) and any("Palette" in note for note in decoded.notes)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_of_several_frames(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    decoded = decode_image(encode(frames[0], format, save_all=True, append_images=frames[1:]))
    assert close(decoded.image, (4, 4), (255, 0, 0), 2) and any("first one" in note for note in decoded.notes)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_modes(mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), 255)
    assert np.asarray(decode_image(encode(image)).image)[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[7e9, 7e9, 7e9]], np.float32), [128, 128, 128]),
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-5, 0, 5]], np.int32), [0, 128, 255]),
    ],
)
def test_wide_values_are_scaled_and_the_range_is_named(values: np.ndarray, expected: list[int]) -> None:
    decoded = decode_image(encode(Image.fromarray(values), "TIFF"))
    assert np.asarray(decoded.image)[0, :, 0].tolist() == expected
    assert any("values were taken" in note for note in decoded.notes)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused(bad: float) -> None:
    values = np.array([[0.0, bad]], np.float32)
    assert "not numbers" in refusal(encode(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_tiny_and_thin_pictures(size: tuple[int, int]) -> None:
    assert decode_image(encode(Image.new("RGB", size, "blue"))).image.size == size


def test_text_named_png(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("Dear diary, this is no picture.")
    assert "not a picture" in refusal(path)


def test_a_format_outside_the_list_is_refused() -> None:
    assert "not a picture" in refusal(encode(corners(), "PPM"))


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    assert "empty" in refusal(b"")
    assert "no file" in refusal(tmp_path / "nowhere.png")
    assert "is a folder" in refusal(tmp_path)
    refusal("a\0b.png")


@pytest.mark.parametrize("format", FORMATS)
def test_cut_off_files_are_refused(format: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, format)
    assert "damaged" in refusal(data[: len(data) // 2])


def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "heavy.png"
    path.write_bytes(encode(corners()) + bytes(MAX_BYTES))
    assert "limit is 10 MB" in refusal(path)
    assert "limit is 10 MB" in refusal(path.read_bytes())


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds no pixels at all."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + b"\0\0\0\0IDAT"


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    # There is nothing to decode in these files, so that an answer about pixels can come from the header only.
    assert "5001 × 5000 pixels" in refusal(png_header(5001, 5000))
    assert "far more pixels" in refusal(png_header(100_000, 100_000))
    assert "damaged" in refusal(png_header(5000, 5000))


def test_limits_can_be_set() -> None:
    with pytest.raises(ImageError, match="40 × 20"):
        decode_image(encode(corners()), max_pixels=799)
    with pytest.raises(ImageError, match="limit"):
        decode_image(encode(corners()), max_bytes=10)
    assert decode_image(encode(corners()), max_pixels=800).image.size == (40, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encode(corners(), "JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 30)
    assert decode_image(data).image.size == (40, 20)


# Pillow warns about damaged metadata on its way to an answer.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_and_mutated_bytes_give_a_picture_or_a_sentence() -> None:
    rng = random.Random(20240607)
    seeds = [encode(corners(), format) for format in FORMATS]
    seeds.append(encode(corners().convert("P"), "GIF", transparency=0))
    seeds.append(encode(corners().convert("RGBA")))
    seeds.append(encode(Image.fromarray(np.arange(800, dtype=np.uint16).reshape(20, 40))))
    pictures = sentences = 0
    for turn in range(1500):
        if turn % 5 == 0:
            data = rng.randbytes(rng.randrange(1, 400))
        else:
            mutable = bytearray(rng.choice(seeds))
            for _ in range(rng.randrange(1, 8)):
                mutable[rng.randrange(len(mutable))] = rng.randrange(256)
            data = bytes(mutable[: rng.randrange(1, len(mutable) + 1)] if rng.random() < 0.3 else mutable)
        try:
            assert decode_image(data).image.mode == "RGB"
            pictures += 1
        except ImageError as error:
            assert str(error).endswith(".")
            sentences += 1
    assert pictures > 100 and sentences > 100
