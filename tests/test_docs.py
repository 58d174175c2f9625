"""What the guides name is there: every `module.name` of theirs that looks like one of ours."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Where the modules are that the guides call by their last name alone.
FOLDERS = ("app", "app/widgets", "analysis", "analysis/figures")
#: `figure.js` is a file.
SUFFIXES = {"py", "js"}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def named(text: str) -> Iterator[tuple[str, str]]:
    """(module, name) wherever code, in a block or within a line, asks a name of another name."""
    for code in (*blocks(text), *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))):
        try:
            tree = ast.parse(code)
        except SyntaxError:
            continue  # a path, a command or a placeholder
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr not in SUFFIXES:
                yield node.value.id, node.attr


def defined(path: Path) -> set[str]:
    """What stands at the top of a module, by name."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def absent(text: str) -> list[str]:
    """What a guide names of a module of ours and the module does not have."""
    missing = []
    for module, name in named(text):
        paths = [path for folder in FOLDERS if (path := ROOT / folder / f"{module}.py").is_file()]
        if paths and name not in set().union(*map(defined, paths)):
            missing.append(f"{module}.{name}")
    return missing


@pytest.mark.parametrize("guide", sorted(ROOT.glob("docs/adding-*.md")), ids=lambda path: path.stem)
def test_guides_name_what_is_there(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    for code in blocks(text):
        ast.parse(code)
    assert absent(text) == []


def test_what_is_not_there_is_found() -> None:
    text = "`selection.chosen()` and `selection.choosen()`\n```python\ncache.ask(comparison.logits, model)\n```\n"
    assert absent(text) == ["comparison.logits", "selection.choosen"]


def test_the_guide_to_pages_is_read() -> None:
    text = (ROOT / "docs" / "adding-a-page.md").read_text(encoding="utf-8")
    assert {("cache", "ask"), ("jobs", "answer"), ("selection", "token"), ("figure", "show")} <= set(named(text))
