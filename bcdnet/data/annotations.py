"""The lists and MATLAB files in which the published sets keep their labels and splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bcdnet.data.dataset import DataError


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, stripped. Raises DataError when it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch it again.") from error
    return [stripped for line in lines if (stripped := line.strip())]


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Lines of a key, white space and a value, which may hold spaces itself. Raises DataError for other lines."""
    pairs = []
    for line in read_lines(path):
        key, *value = line.split(maxsplit=1)
        if not value:
            raise DataError(f"{path} has the line {line!r}, which is no pair; fetch it again.")
        pairs.append((key, value[0]))
    return pairs


def read_numbered(path: Path) -> dict[int, str]:
    """Lines of a number, white space and a value. Raises DataError for other lines and numbers that come twice."""
    pairs = read_pairs(path)
    numbered = {integer(key, path): value for key, value in pairs}
    if len(numbered) != len(pairs):
        raise DataError(f"{path} gives one number twice; fetch it again.")
    return numbered


def integer(text: str, path: Path) -> int:
    """`text` from the file `path` as a number. Raises DataError when it is none."""
    try:
        return int(text)
    except ValueError as error:
        raise DataError(f"{path} holds {text!r} where a whole number belongs; fetch it again.") from error


def read_mat(path: Path, key: str) -> np.ndarray:
    """One variable of a MATLAB file, flattened; structs are objects with their fields as attributes.

    Raises DataError when the file cannot be read or has no such variable.
    """
    from scipy.io import loadmat  # here, because it takes a while to import and most sets do without

    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=[key])
    except Exception as error:  # damaged files make it raise almost anything
        raise DataError(f"{path} cannot be read as a MATLAB file; fetch it again.") from error
    if key not in content:
        raise DataError(f"{path} has no variable {key!r}; fetch it again.")
    return np.atleast_1d(content[key])


def zero_based(labels: Sequence[int] | np.ndarray, classes: int, path: Path) -> np.ndarray:
    """Labels 1..classes as int64 (N,) from 0. Raises DataError, naming the file, for others and for none at all."""
    numbers = np.array(labels)
    if not len(numbers) or numbers.dtype.kind not in "uif" or (numbers != np.floor(numbers)).any():
        raise DataError(f"{path} does not hold a list of whole numbers as labels; fetch it again.")
    result = numbers.astype(np.int64) - 1
    if result.min() < 0 or result.max() >= classes:
        strange = int(numbers[(result < 0) | (result >= classes)][0])
        raise DataError(f"{path} holds the label {strange}, outside 1 to {classes}; fetch it again.")
    return result
