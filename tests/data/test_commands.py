"""`bcdnet data check`, `list` and `fetch`: what they find, what they print and how they exit."""

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from layouts import write_flowers
from scipy.io import savemat

from bcdnet import cli
from bcdnet.data import SOURCES, DataError, Download, registry
from bcdnet.data import fetch as fetching
from bcdnet.data.check import check
from bcdnet.data.fetch import FetchError, fetch


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def invoke(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main(["data", *map(str, arguments)])
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, *capsys.readouterr()

    return invoke


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch):
    """Changes rows of the table for one test."""

    def change(name: str, **changes: Any) -> None:
        table = dict(registry.SOURCES) | {name: dataclasses.replace(registry.SOURCES[name], **changes)}
        monkeypatch.setattr(registry, "SOURCES", table)

    return change


# check


def test_a_sound_set(elpv: Path, sources, run) -> None:
    sources("elpv", splits={"train": 12, "test": 4})
    status, out, _ = run("check", "elpv", elpv, "--json")
    half = {"functional": 6, "defective": 6}
    assert status == 0 and json.loads(out) == {
        "name": "elpv",
        "usable": True,
        "splits": {
            "train": {"path": str(elpv), "images": 12, "official": 12, "classes": half},
            "test": {"path": str(elpv), "images": 4, "official": 4, "classes": {"functional": 2, "defective": 2}},
        },
        "problems": [],
        "notes": [],
    }
    status, out, _ = run("check", "elpv", elpv)
    assert status == 0 and "functional (6)" in out and "can all be read" in out
    assert "train: 6 each.\n" in out and "test: 2 each.\n" in out


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"a": 6000, "b": 6000}, "6,000 each"),
        ({"a": 1000, "b": 2}, "a 1,000, b 2"),
        ({"a": 3, "b": 1, "c": 3, "d": 0, "e": 3}, "3 each, but b 1, d 0"),
        ({"only": 1}, "1 each"),
    ],
)
def test_images_by_class_in_few_words(classes: dict[str, int], words: str) -> None:
    assert cli._counts(classes) == words


def test_counts_that_are_not_the_official_ones(cub: Path, run) -> None:
    status, out, _ = run("check", "cub-200-2011", cub, "--json")
    report = json.loads(out)
    assert status == 1 and not report["usable"]
    assert report["problems"] == [
        "train: there are 2 classes, officially 200.",
        "train: there are 2 images, officially 5,994.",
        "test: there are 2 classes, officially 200.",
        "test: there are 3 images, officially 5,794.",
    ]
    assert report["splits"]["test"]["classes"] == {"Black footed Albatross": 1, "Laysan Albatross": 2}
    _, out, _ = run("check", "cub-200-2011", cub)
    assert "train: 1 each.\ntest: Black footed Albatross 1, Laysan Albatross 2.\n" in out


def test_missing_and_unreadable_images(elpv: Path, sources) -> None:
    sources("elpv", splits={"train": 12, "test": 4})
    paths = sorted((elpv / "images").iterdir())
    paths[0].unlink()
    for path in paths[1:8]:
        path.write_bytes(path.read_bytes()[:60])
    problems = check("elpv", elpv).problems
    text = "\n".join(problems)
    assert "1 image(s) are not there, first " + str(paths[0]) in text
    unreadable = [problem for problem in problems if "unreadable" in problem and "damaged" in problem]
    more = [problem for problem in problems if "more image(s) are unreadable" in problem]
    named = len(unreadable) + sum(int(problem.split()[1]) for problem in more)
    assert named == 7
    quick = check("elpv", elpv, quick=True).problems
    assert len(quick) == 1 and "not there" in quick[0]


def test_a_missing_split_and_labels_out_of_range(flowers: Path, cars: Path, dogs: Path, run) -> None:
    (cars / "cars_test").rename(cars / "aside")
    status, _, _ = run("check", "stanford-cars", cars)
    assert status == 1
    problems = check("stanford-cars", cars).problems
    assert sum("The test split of Stanford Cars" in problem for problem in problems) == 1
    (flowers / "imagelabels.mat").unlink()
    savemat(flowers / "imagelabels.mat", {"labels": np.array([[1, 103, 2, 3, 5, 4]], np.uint8)})
    report = check("flowers-102", flowers)
    assert not report.splits and all("label 103, outside 1 to 102" in problem for problem in report.problems)
    assert "come from ImageNet" in check("stanford-dogs", dogs).notes[0]


def test_any_folder_can_be_checked(tmp_path: Path, cub: Path, run) -> None:
    status, out, _ = run("check", "folder", cub / "images", "--json")
    assert status == 0
    assert json.loads(out)["splits"]["test"]["classes"] == {
        "001.Black_footed_Albatross": 2,
        "002.Laysan_Albatross": 3,
    }
    (cub / "images" / "empty").mkdir()
    assert check("folder", cub / "images").problems == ("test: 1 class(es) have no image, 'empty' first.",)


def test_a_folder_without_a_set_in_it_is_no_set_with_faults(tmp_path: Path, flowers: Path, run) -> None:
    (empty := tmp_path / "empty").mkdir()
    status, out, _ = run("check", "folder", empty)
    assert status == 2
    assert out == f"Wrong: test: The folder {empty} holds no folders; it needs one folder of images for each class.\n"
    (flowers / "imagelabels.mat").write_bytes(b"")
    status, out, _ = run("check", "flowers-102", flowers, "--json")
    assert status == 2 and json.loads(out)["splits"] == {} and len(json.loads(out)["problems"]) == 4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("check", "cifar"), "'cifar' is no known data set"),
        (("check", "folder"), "name a folder to check"),
        (("check", "folder", "/nowhere"), "/nowhere is none"),
        (("check", "imagenet", "/nowhere"), "there is no folder /nowhere"),
        (("check", "imagenet", "{tmp}"), "image-net.org"),
        (("fetch", "cifar", "--to", "{tmp}"), "'cifar' is no known data set"),
        (("fetch", "imagenet", "--to", "{tmp}"), "register at image-net.org"),
        (("fetch", "stanford-cars", "--to", "{tmp}"), "no longer offers it"),
        (("fetch", "elpv", "--to", "{tmp}"), "pip install elpv-dataset"),
        (("fetch", "flowers-102"), "--to FOLDER"),
    ],
)
def test_bad_names_and_paths(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BCDNET_DATA", raising=False)
    status, out, err = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert status == 2 and out == "" and complaint in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_list(run, elpv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCDNET_DATA", str(elpv))
    status, out, _ = run("list", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and rows.keys() == SOURCES.keys()
    assert rows["elpv"]["found"] == {"train": str(elpv), "test": str(elpv)} and not rows["elpv"]["fetchable"]
    assert rows["imagenet"]["found"] == {"train": None, "test": None} and rows["flowers-102"]["fetchable"]
    status, out, _ = run("list")
    assert status == 0 and all(name in out for name in SOURCES)
    monkeypatch.setenv("BCDNET_DATA", str(elpv / "nowhere"))
    assert run("list")[0] == 2


# fetch


class Server(ThreadingHTTPServer):
    """Serves `files`, with or without ranges; `cut` bytes into an answer it hangs up; `ranges` are those asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.honours_ranges = True
        self.cut: int | None = None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        content = self.server.files.get(self.path.lstrip("/"))
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.honours_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = len(content) if self.server.cut is None else start + self.server.cut
        self.wfile.write(content[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def tar(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return stream.getvalue()


@pytest.fixture
def offered(server: Server, tmp_path: Path, sources) -> Server:
    """Flowers-102 as its owners offer it: an archive of images, and two files beside it."""
    root = write_flowers(tmp_path / "origin")
    (tmp_path / "packed").mkdir()
    (root / "jpg").rename(tmp_path / "packed" / "jpg")
    server.files = {"102flowers.tgz": tar(tmp_path / "packed")}
    server.files |= {name: (root / name).read_bytes() for name in ("imagelabels.mat", "setid.mat")}
    downloads = tuple(
        Download(server.url(name), f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), name.endswith("tgz"))
        for name, content in server.files.items()
    )
    sources("flowers-102", downloads=downloads, splits={"train": 3, "fit": 2, "val": 1, "test": 3})
    return server


def test_fetch(offered: Server, tmp_path: Path, run) -> None:
    status, out, err = run("fetch", "flowers-102", "--to", tmp_path / "sets", "--json")
    # The tiny set has few of the 102 flowers, and that is said.
    document = json.loads(out)
    assert status == 1 and "class(es) have no image" in err and document["folder"] == str(tmp_path / "sets/flowers-102")
    assert not any("officially" in problem for problem in document["problems"])
    folder = tmp_path / "sets" / "flowers-102"
    assert sorted(path.name for path in folder.iterdir()) == ["imagelabels.mat", "jpg", "setid.mat"]
    assert (folder / "jpg" / "image_00001.jpg").read_bytes() == (
        tmp_path / "packed" / "jpg" / "image_00001.jpg"
    ).read_bytes()
    assert offered.ranges == [None] * 3
    assert fetch("flowers-102", tmp_path / "sets") == folder and len(offered.ranges) == 3  # it is there already


def test_fetch_goes_to_the_folder_that_the_environment_names(
    offered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path / "sets"))
    assert fetch("flowers-102") == tmp_path / "sets" / "flowers-102"


@pytest.mark.parametrize("honours_ranges", [True, False])
def test_fetch_goes_on_after_the_connection_broke(offered: Server, tmp_path: Path, honours_ranges: bool) -> None:
    offered.cut = 100
    with pytest.raises(FetchError, match=r"broke off after 100 bytes.*same command again"):
        fetch("flowers-102", tmp_path)
    part = tmp_path / "flowers-102" / "102flowers.tgz.part"
    assert part.read_bytes() == offered.files["102flowers.tgz"][:100]
    offered.cut, offered.honours_ranges = None, honours_ranges
    seen: list[int] = []
    fetch("flowers-102", tmp_path, lambda what, done, total: seen.append(done) if what == "102flowers.tgz" else None)
    assert offered.ranges[:2] == [None, "bytes=100-"] and seen[0] == (100 if honours_ranges else 0)
    assert seen[-1] == len(offered.files["102flowers.tgz"])
    assert len(list((tmp_path / "flowers-102" / "jpg").iterdir())) == 6 and not part.exists()


def test_control_c_keeps_what_came(offered: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.setattr(fetching, "_CHUNK", 64)

    def stop(what: str, done: int, total: int | None) -> None:
        if done >= 128:
            raise KeyboardInterrupt

    with pytest.raises(FetchError, match="stopped by Ctrl"):
        fetch("flowers-102", tmp_path, stop)
    assert (tmp_path / "flowers-102" / "102flowers.tgz.part").stat().st_size == 128
    fetch("flowers-102", tmp_path)
    assert offered.ranges[1] == "bytes=128-"


def test_a_part_that_is_whole_is_not_fetched_again(offered: Server, tmp_path: Path, sources) -> None:
    folder = tmp_path / "flowers-102"
    folder.mkdir()
    (folder / "102flowers.tgz.part").write_bytes(offered.files["102flowers.tgz"])
    # Without a known size the server is asked, and answers that nothing lies beyond.
    first, *others = registry.SOURCES["flowers-102"].downloads
    sources("flowers-102", downloads=(dataclasses.replace(first, size=None), *others))
    fetch("flowers-102", tmp_path)
    assert offered.ranges == [f"bytes={len(offered.files['102flowers.tgz'])}-", None, None]


def test_another_checksum_is_refused_and_nothing_of_it_kept(offered: Server, tmp_path: Path, run) -> None:
    offered.files["102flowers.tgz"] = bytes(len(offered.files["102flowers.tgz"]))
    status, out, err = run("fetch", "flowers-102", "--to", tmp_path)
    assert status == 1 and out == "" and "another checksum" in err and len(err.splitlines()) == 1
    assert not list((tmp_path / "flowers-102").iterdir())


def test_a_server_that_refuses_or_is_not_there(offered: Server, tmp_path: Path, sources) -> None:
    del offered.files["102flowers.tgz"]
    with pytest.raises(FetchError, match="answered 404"):
        fetch("flowers-102", tmp_path)
    gone = dataclasses.replace(registry.SOURCES["flowers-102"].downloads[0], url="http://127.0.0.1:9/gone.tgz")
    sources("flowers-102", downloads=(gone,))
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch("flowers-102", tmp_path)


def test_a_folder_that_cannot_be_written(offered: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="cannot be written"):
        fetch("flowers-102", tmp_path / "file")


def hostile(name: str, link: str | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for entry, target in ((name, link), ("jpg/image_00001.jpg", None)):
            info = tarfile.TarInfo(entry)
            if target:
                info.type, info.linkname = tarfile.SYMTYPE, target
            else:
                info.size = 4
            archive.addfile(info, None if target else io.BytesIO(b"evil"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "link"), [("../evil", None), ("jpg/../../evil", None), ("jpg", "../.."), ("jpg", "/etc")]
)
def test_archives_that_reach_out_of_their_folder_are_refused(
    offered: Server, tmp_path: Path, sources, name: str, link: str | None
) -> None:
    content = hostile(name, link)
    offered.files["102flowers.tgz"] = content
    first, *others = registry.SOURCES["flowers-102"].downloads
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    sources("flowers-102", downloads=(dataclasses.replace(first, checksum=checksum), *others))
    with pytest.raises(FetchError, match="cannot be unpacked"):
        fetch("flowers-102", tmp_path / "sets")
    there = {path.name for path in (tmp_path / "sets").rglob("*")}
    assert there == {"flowers-102", "102flowers.tgz", "imagelabels.mat", "setid.mat"}


def test_nothing_is_fetched_without_being_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(fetching, "urlopen", refuse)
    monkeypatch.setenv("BCDNET_DATA", str(tmp_path))
    with pytest.raises(DataError, match="bcdnet data fetch flowers-102"):
        registry.open_dataset("flowers-102")
