"""Fetches the data sets that their owners offer to everybody, when somebody asks for it and never otherwise."""

import hashlib
import os
import ssl
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from bcdnet.data.dataset import DataError
from bcdnet.data.registry import get_source
from bcdnet.data.source import Download, MissingData, Source

TIMEOUT = 30  # seconds of silence
_CHUNK = 2**18

Progress = Callable[[str, int, int | None], object]


class FetchError(RuntimeError):
    """A download that failed or was stopped; the message says whether to try again."""


def fetch(name: str, to: str | Path | None = None, progress: Progress | None = None) -> Path:
    """Download a data set into `<to>/<name>` and unpack it; goes on where it was stopped.

    Every file is compared with its published checksum before it gets its name, and unpacked beside its place before
    it is moved there. A set that is there already is left alone.

    Args:
        name: of a known set.
        to: the folder of all data sets; None means the one that BCDNET_DATA names.
        progress: called with what is being done, how much is done and how much there is in all, if that is known:
            bytes for a download, files for an archive.

    Returns:
        The set's folder.

    Raises:
        DataError: there is no such set, it may not be fetched, or no folder is named.
        FetchError: the network, the server, the disk or the user put an end to it.
    """
    source = get_source(name)
    if not source.downloads:
        raise DataError(f"{source.title} is not offered for download to everybody: {source.obtain}.")
    base = to or os.environ.get("BCDNET_DATA")
    if not base:
        raise DataError("say where to put it: `--to FOLDER`, or name a folder in the environment variable BCDNET_DATA.")
    folder = Path(base) / name
    report = progress or (lambda *_: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _complete(source, folder):
            files = [_download(download, folder, report) for download in source.downloads]
            archives = [file for file, one in zip(files, source.downloads, strict=True) if one.unpack]
            for archive in archives:
                _unpack(archive, folder, report)
            # Only now: a stopped run finds its archives again.
            for archive in archives:
                archive.unlink()
    except KeyboardInterrupt:
        raise FetchError("stopped by Ctrl+C; run the same command again to go on, what came is kept.") from None
    except OSError as error:
        raise FetchError(
            f"{folder} cannot be written ({error.strerror or error}); make room there or name another."
        ) from error
    return folder


def _complete(source: Source, folder: Path) -> bool:
    try:
        for split in source.splits:
            source.locate(split, folder)
    except MissingData:
        return False
    return True


def _download(download: Download, folder: Path, report: Progress) -> Path:
    target = folder / download.file
    if target.is_file() and _matches(target, download):
        return target
    part = target.with_name(f"{target.name}.part")
    if not (part.is_file() and part.stat().st_size == download.size):
        _receive(download, part, report)
    if not _matches(part, download):
        part.unlink()
        raise FetchError(
            f"{download.url} gave a file with another checksum than the published one, so it was removed; "
            "run the same command again, and if that does not help, its owners have changed it."
        )
    part.replace(target)
    return target


def _receive(download: Download, part: Path, report: Progress) -> None:
    """Add what is missing to `part`, or start over where the server cannot send a part of a file."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "bcdnet", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urlopen(Request(download.url, headers=headers), timeout=TIMEOUT) as response:
            continued = response.headers["Content-Range"] or ""
            if response.status != 206 or not continued.startswith(f"bytes {have}-"):
                have = 0
            length = response.headers["Content-Length"]
            total = have + int(length) if length else download.size
            with part.open("ab" if have else "wb") as stream:
                report(download.file, have, total)
                while chunk := response.read(_CHUNK):
                    stream.write(chunk)
                    have += len(chunk)
                    report(download.file, have, total)
                stream.flush()
                os.fsync(stream.fileno())
    except HTTPError as error:
        # Nothing lies beyond what is there: the file is whole, or not this one, and its checksum tells.
        if error.code == 416 and have:
            return
        raise FetchError(f"{download.url} answered {error.code} {error.reason}; try again later.") from error
    except URLError as error:
        raise FetchError(f"{download.url} cannot be reached ({error.reason}); try again later.") from error
    except (ConnectionError, TimeoutError, HTTPException, ssl.SSLError) as error:
        raise _broken_off(download, have, error) from error
    if total is not None and have < total:
        raise _broken_off(download, have, "the connection was closed")


def _broken_off(download: Download, have: int, why: object) -> FetchError:
    return FetchError(
        f"{download.url} broke off after {have:,} bytes ({why}); run the same command again to go on from there."
    )


def _matches(path: Path, download: Download) -> bool:
    algorithm, _, expected = download.checksum.partition(":")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest() == expected


def _unpack(archive: Path, folder: Path, report: Progress) -> None:
    """Unpack a tar archive, compressed or not; each of its top entries appears whole or not at all.

    The filter "data" refuses what would leave the folder, by name or by link, and devices.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            with tarfile.open(archive) as tar:
                for number, member in enumerate(tar, start=1):
                    tar.extract(member, temporary, filter="data")
                    report(f"unpacking {archive.name}", number, None)
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise FetchError(f"{archive} cannot be unpacked ({error}); nothing of it was kept.") from error
        for entry in sorted(Path(temporary).iterdir()):
            # A folder that is there came whole from an earlier run.
            if not (folder / entry.name).is_dir():
                entry.replace(folder / entry.name)
