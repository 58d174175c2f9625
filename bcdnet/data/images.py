"""Turns whatever bytes somebody hands in into one plain RGB picture, or into one plain sentence.

Uploads are untrusted: formats come from a short allow-list, sizes are judged from the header before any pixel is
decoded, and every conversion that changes what one sees is named in `DecodedImage.notes`.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_BYTES = 10 * 1024 * 1024
MAX_PIXELS = 25_000_000

_READABLE = "PNG, JPEG, WebP, GIF, BMP or TIFF"

# EXIF tag 0x0112 -> how to bring the stored pixels upright (EXIF 2.32, section 4.6.4).
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_NOTE_BY_MODE = {
    "1": "Pure black and white was read as grey.",
    "P": "Palette colours were turned into full colour.",
    "PA": "Palette colours were turned into full colour.",
    "CMYK": "Printing colours (CMYK) were turned into RGB; tones may shift a little.",
    "YCbCr": "Video colours (YCbCr) were turned into RGB.",
    "HSV": "HSV colours were turned into RGB.",
}


class ImageError(ValueError):
    """The data cannot be used as a picture; the message is one sentence for the person who handed it in."""


@dataclass(frozen=True)
class DecodedImage:
    """A picture ready for `Preprocess`: `image` in mode RGB, `notes` on what was changed, `sha256` of the file."""

    image: Image.Image
    notes: tuple[str, ...]
    sha256: str


def decode_image(
    source: bytes | str | Path, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decodes the bytes of an image file, or the file at a path, into an upright 8-bit RGB picture.

    The first frame of several is taken, EXIF rotation applied, transparency laid on white, and 16-bit, 32-bit and
    floating-point values scaled to 0..255. Raises `ImageError`, and nothing else, when that cannot be done.
    """
    data = source if isinstance(source, bytes) else _read(Path(source), max_bytes)
    if not data:
        raise ImageError(f"The file is empty; choose a picture in {_READABLE}.")
    if len(data) > max_bytes:
        raise _too_heavy(len(data), max_bytes)
    _verify(data, max_pixels)
    notes: list[str] = []
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as stored:
            orientation = _orientation(stored)
            if getattr(stored, "is_animated", False):
                notes.append("The file holds several pictures (an animation or pages); the first one is used.")
            stored.load()
            # Pillow turns TIFF files upright by itself while loading, and then drops the tag.
            upright: Image.Image = stored
            if (pending := _orientation(stored)) in _UPRIGHT:
                upright = stored.transpose(_UPRIGHT[pending])
            if orientation in _UPRIGHT:
                notes.append("The picture was turned upright, as the camera noted in the file (EXIF).")
            image = _to_rgb(upright, notes)
    except ImageError:
        raise
    except Exception as error:  # decoders raise almost anything on damaged data: OSError, SyntaxError, struct.error ...
        raise ImageError("The picture is damaged or cut off; save or download it again and retry.") from error
    image.info.clear()  # profiles, comments and GPS positions stay behind
    return DecodedImage(image, tuple(notes), hashlib.sha256(data).hexdigest())


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{path.name!r} is a folder; name the pictures in it.")
        if not path.is_file():
            raise ImageError(f"There is no file {path.name!r}; check the path.")
        if (size := path.stat().st_size) > max_bytes:
            raise _too_heavy(size, max_bytes)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"The file {path.name!r} cannot be read; check the path and its permissions.") from error


def _too_heavy(size: int, max_bytes: int) -> ImageError:
    mib = 1024 * 1024
    return ImageError(
        f"The file has {size / mib:.1f} MB and the limit is {max_bytes / mib:g} MB; save it smaller or as JPEG."
    )


def _verify(data: bytes, max_pixels: int) -> None:
    """Refuses by header and checksums, before any pixel is decoded. `verify` leaves the image unusable: reopen it."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height <= max_pixels:
                image.verify()
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"The picture has far more pixels than the limit of {max_pixels / 1e6:g} million; save it smaller."
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"This is not a picture that can be read; choose one in {_READABLE}.") from error
    except Exception as error:
        raise ImageError("The picture is damaged or cut off; save or download it again and retry.") from error
    if width * height > max_pixels:
        raise ImageError(
            f"The picture has {width} × {height} pixels and the limit is {max_pixels / 1e6:g} million; save it smaller."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data is no reason to refuse sound pixels
        return 1


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _from_16_bit(image, notes)
    if image.mode in ("I", "F"):
        return _from_wide(image, notes)
    if note := _NOTE_BY_MODE.get(image.mode):
        notes.append(note)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        # Dropping alpha would bring to light whatever colour is stored under the transparent parts.
        if np.asarray(rgba.getchannel("A")).min() < 255:
            notes.append("Transparent parts were laid on white.")
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        return rgba.convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"The colour mode {image.mode} cannot be read; save the picture as an RGB PNG.") from error


def _from_16_bit(image: Image.Image, notes: list[str]) -> Image.Image:
    """Scales 0..65535 to 0..255. `convert("RGB")` would clip instead and make nearly everything white."""
    values = np.asarray(image).astype(np.uint32)
    notes.append("16-bit brightness was scaled to 8 bits.")
    grey = ((values + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and (mask := values == transparent).any():
        notes.append("Transparent parts were laid on white.")
        grey[mask] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_wide(image: Image.Image, notes: list[str]) -> Image.Image:
    """32-bit integers and floats have no agreed range: the narrowest usual one that holds all values is taken."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError("The picture holds values that are not numbers (NaN or infinite); save it as an 8-bit PNG.")
    low, high = float(values.min()), float(values.max())
    kind = "Floating-point" if image.mode == "F" else "32-bit"
    if image.mode == "F" and low >= 0 and high <= 1:
        values, how = values * 255, "from the range 0 to 1"
    elif low >= 0 and high <= 255:
        how = "as they are, from the range 0 to 255"
    elif low >= 0 and high <= 65535:
        values, how = values / 257, "from the range 0 to 65535"
    else:
        span = high - low
        values = (values - low) / span * 255 if span > 0 else np.full_like(values, 127.5)
        how = "from the picture's own darkest to its brightest value"
    notes.append(f"{kind} values were taken {how}.")
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
