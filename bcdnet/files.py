"""Where the files that the project ships lie, and how every file is written."""

import os
import tempfile
from pathlib import Path

#: In the folder of a training run: its log, how far it is, and the recipe, digests of checkpoints and commit it is of.
LOG, PROGRESS, RECORD = "log.csv", "progress.json", "run.json"


def assets_dir() -> Path:
    """The folder of shipped checkpoints, images and data: `$BCDNET_ASSETS`, else `assets/` of the checkout."""
    override = os.environ.get("BCDNET_ASSETS")
    return Path(override) if override else Path(__file__).resolve().parent.parent / "assets"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace ``path`` by a file that is either whole or not there at all. Raises OSError, leaving the old file."""
    # A temporary file in the same folder, so that the replacement is one step of the same file system.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; make it as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
