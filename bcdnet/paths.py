"""Where the files that the project ships lie."""

import os
from pathlib import Path


def assets_dir() -> Path:
    """The folder of shipped checkpoints, images and data: `$BCDNET_ASSETS`, else `assets/` of the checkout."""
    override = os.environ.get("BCDNET_ASSETS")
    return Path(override) if override else Path(__file__).resolve().parent.parent / "assets"
