"""Zip files of images, as people pack them and as they should not."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcdnet.data import DataError, archive
from bcdnet.data.archive import read_archive, read_folder


def png(grey: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return stream.getvalue()


def test_class_folders_give_classes_and_labels() -> None:
    data = read_archive(packed({"set/b/1.png": png(10), "set/a/2.png": png(20), "set/a/1.png": png(30)}), "my.zip")
    assert data.name == "my.zip" and data.classes == ("a", "b") and data.labels.tolist() == [0, 0, 1]
    assert [np.asarray(data.images[k])[0, 0, 0] for k in range(3)] == [30, 20, 10]
    assert data.notes == ()


def test_images_side_by_side_have_no_classes() -> None:
    data = read_archive(packed({"1.png": png(1), "a/2.png": png(2)}), "my.zip")
    assert data.classes == (archive.UNKNOWN,) and data.labels.tolist() == [0, 0]


def test_what_is_no_image_or_hidden_is_left_out_and_told() -> None:
    files = {"a/1.png": png(1), "a/readme.txt": b"no", "__MACOSX/a/._1.png": b"x", "a/.hidden.png": png(2)}
    data = read_archive(packed(files), "my.zip")
    assert len(data) == 1 and data.notes == ("1 file is no image and left out.",)


def test_of_too_many_images_some_of_every_class_are_taken() -> None:
    files = {f"{letter}/{k}.png": png(k) for letter in "abcd" for k in range(5)}
    data = read_archive(packed(files), "my.zip", most=8)
    assert np.bincount(data.labels).tolist() == [2, 2, 2, 2]
    assert data.notes == ("8 of 20 files were taken, evenly over their names.",)


def test_progress_counts_files_and_may_stop_the_reading() -> None:
    seen: list[tuple[int, int]] = []
    read_archive(packed({"1.png": png(1), "2.png": png(2)}), "my.zip", lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_archive(packed({"1.png": png(1)}), "my.zip", stop)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no zip file"),
        (b"PK\x03\x04 and then nothing", "no zip file"),
        (packed({"1.png": png(1)})[:-30], "no zip file"),
        (packed({"a.txt": b"words"}), "holds no image"),
        (packed({}), "holds no image"),
    ],
)
def test_anything_else_gets_one_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_archive(content, "my.zip")


def test_damaged_bytes_of_an_entry_are_told() -> None:
    content = bytearray(packed({"1.png": png(1) * 50}, zipfile.ZIP_STORED))
    content[60] ^= 0xFF  # inside the stored file, which its checksum no longer fits
    with pytest.raises(DataError, match="no zip file"):
        read_archive(bytes(content), "my.zip")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_whatever_is_damaged_gets_one_sentence(method: int) -> None:
    chance = random.Random(method)
    content = packed({f"{k}.png": png(k) for k in range(3)}, method)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 20))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            assert 0 < len(read_archive(bytes(damaged), "my.zip")) <= 3
        except DataError:
            refused += 1
    assert refused > 100


def test_a_bomb_is_neither_unpacked_nor_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100 MB of zeros shrink to 100 KB: at most MAX_BYTES + 1 of them are ever read, and are no image.
    bomb = packed({"1.png": png(1), "bomb.png": bytes(10**8)})
    assert len(bomb) < 200_000
    assert len(read_archive(bomb, "my.zip")) == 1
    monkeypatch.setattr(archive, "MAX_TOTAL", 1000)
    with pytest.raises(DataError, match="take more than"):
        read_archive(bomb, "my.zip")
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    with pytest.raises(DataError, match="holds 2 files"):
        read_archive(bomb, "my.zip")


def test_a_folder_is_taken_as_a_zip_file_is(tmp_path: Path) -> None:
    files = {f"{letter}/{k}.png": png(k) for letter in "abcd" for k in range(5)}
    with zipfile.ZipFile(io.BytesIO(packed(files))) as file:
        file.extractall(tmp_path / "set")
    ours, theirs = read_folder(tmp_path / "set", most=8), read_archive(packed(files), "set", most=8)
    assert (ours.name, ours.classes, ours.notes) == (theirs.name, theirs.classes, theirs.notes)
    assert ours.labels.tolist() == theirs.labels.tolist()
    assert [ours.images[k].getpixel((0, 0)) for k in range(8)] == [theirs.images[k].getpixel((0, 0)) for k in range(8)]
    flat = read_folder(tmp_path / "set" / "a")
    assert flat.classes == (archive.UNKNOWN,) and len(flat) == 5 and flat.notes == ()


def test_a_folder_names_the_file_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"2\.png is not a picture"):
        read_folder(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        read_folder(tmp_path / "none")
