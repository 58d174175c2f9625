"""The house's plumbing: who may import whom. Reads the source, imports nothing, so that it sees every branch."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "analysis", "bcdnet")

# A module may import from its own layer and from those that stand below it.
LAYERS = ("app", "analysis", "bcdnet", "bcdnet.kernels")
# Package -> the only places where it may be imported.
ONLY_UNDER = {
    "streamlit": "app",
    "lightning": "bcdnet.training",
    "pytorch_lightning": "bcdnet.training",
}
# The only modules of the dashboard that may import from bcdnet.
KEEPERS = ("app.cache", "app.engines", "app.uploads")
# They run code from the files that they read.
UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int | None:
    """The position in LAYERS, by the longest name that fits; None outside the project."""
    return max((i for i, name in enumerate(LAYERS) if inside(module, name)), default=None)


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything imported, at any depth; `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            # `from bcdnet import kernels` may name a module as well as a thing inside one.
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def unsafe_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        options = {keyword.arg: keyword.value for keyword in node.keywords}
        name = ast.unparse(node.func)
        weights_only = options.get("weights_only")
        safe = isinstance(weights_only, ast.Constant) and weights_only.value is True
        if (name == "torch.load" or weights_only is not None) and not safe:
            yield node.lineno, f"{name} without weights_only=True"
        allow_pickle = options.get("allow_pickle")
        if allow_pickle is not None and not (isinstance(allow_pickle, ast.Constant) and allow_pickle.value is False):
            yield node.lineno, f"{name} with allow_pickle"


def violations(root: Path) -> list[str]:
    """Every breach of the house's rules in the packages under `root`, as 'file:line what'."""
    found = []
    for path in sorted(file for package in PACKAGES for file in (root / package).rglob("*.py")):
        relative = path.relative_to(root)
        parts = relative.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        package = ".".join(parts[:-1])
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        own = layer(module)
        assert own is not None
        for line, target in imports(tree, package):
            where = f"{relative.as_posix()}:{line}"
            other = layer(target)
            if other is not None and other < own:
                found.append(f"{where} {module} imports {target}, which stands above it")
            if inside(module, "app") and inside(target, "bcdnet") and module not in KEEPERS:
                found.append(f"{where} {module} imports {target}; only {' and '.join(KEEPERS)} may")
            for restricted, home in ONLY_UNDER.items():
                if inside(target, restricted) and not inside(module, home):
                    found.append(f"{where} {module} imports {target}, which belongs under {home}")
            if target.split(".")[0] in UNSAFE_MODULES:
                found.append(f"{where} {module} imports {target}, which can run code from a file")
        found += [f"{relative.as_posix()}:{line} {what}" for line, what in unsafe_calls(tree)]
    # Streamlit puts app/ at the head of the path: a module there hides any package of its name.
    hiding = {*PACKAGES, "streamlit", "torch", "tests", *sys.stdlib_module_names}
    found += [
        f"app/{entry.name} hides the package {entry.stem}"
        for entry in sorted((root / "app").glob("*"))
        if entry.stem in hiding and (entry.suffix == ".py" or entry.is_dir())
    ]
    return found


def test_the_project_keeps_its_own_rules() -> None:
    assert violations(ROOT) == []


def test_something_is_checked() -> None:
    for package in PACKAGES:
        assert list((ROOT / package).rglob("*.py")), f"no source under {package}/"


ALLOWED = {
    "app/main.py": "import streamlit as st\nfrom app import cache\nfrom analysis import sampling",
    "app/cache.py": "import bcdnet\nfrom bcdnet.data import decode_image",
    "app/engines.py": "from bcdnet import kernels",
    "app/views/analysis.py": "from app.widgets import token_grid",
    "analysis/sampling.py": "import numpy\nfrom bcdnet import layers\nfrom .figures import palette",
    "bcdnet/model.py": "from . import layers\nfrom bcdnet.kernels import bgemm",
    "bcdnet/checkpoint.py": "import torch\ntorch.load('x', weights_only=True)",
    "bcdnet/training/module.py": "import lightning as L\nfrom ..model import build",
    "bcdnet/kernels/reference.py": "import torch\nfrom . import ops\nfrom bcdnet.kernels.ops import sign",
}


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    plant(tmp_path, ALLOWED)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("bcdnet/model.py", "import analysis", "stands above"),
        ("bcdnet/model.py", "def f():\n    from app.cache import x", "stands above"),
        ("bcdnet/model.py", "import importlib\nimportlib.import_module('analysis.sampling')", "stands above"),
        ("analysis/figures/draw.py", "from app import state", "stands above"),
        ("bcdnet/kernels/reference.py", "from bcdnet import layers", "stands above"),
        ("bcdnet/kernels/reference.py", "from .. import layers", "stands above"),
        ("bcdnet/kernels/__init__.py", "from ..layers import RSign", "stands above"),
        ("bcdnet/kernels/__init__.py", "import bcdnet", "stands above"),
        ("app/views/overview.py", "from bcdnet.data import decode_image", "and app.uploads may"),
        ("app/main.py", "import bcdnet", "and app.uploads may"),
        ("analysis/sampling.py", "import streamlit as st", "belongs under app"),
        ("bcdnet/model.py", "from streamlit.runtime import get", "belongs under app"),
        ("bcdnet/model.py", "import lightning", "belongs under bcdnet.training"),
        ("app/cache.py", "from pytorch_lightning import Trainer", "belongs under bcdnet.training"),
        ("bcdnet/checkpoint.py", "import pickle", "run code"),
        ("analysis/sampling.py", "from joblib import load", "run code"),
        ("bcdnet/checkpoint.py", "import torch\ntorch.load('x')", "weights_only"),
        ("bcdnet/checkpoint.py", "import torch\ntorch.load('x', weights_only=False)", "weights_only"),
        ("bcdnet/checkpoint.py", "from torch import load\nload('x', weights_only=flag)", "weights_only"),
        ("bcdnet/checkpoint.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "allow_pickle"),
        ("app/analysis.py", "", "hides"),
        ("app/bcdnet.py", "", "hides"),
        ("app/analysis/__init__.py", "", "hides"),
        ("app/types.py", "", "hides"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    plant(tmp_path, {**ALLOWED, file: text})
    found = violations(tmp_path)
    assert found and all(complaint in line and file.removesuffix("/__init__.py") in line for line in found[:1])
