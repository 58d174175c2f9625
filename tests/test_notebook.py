"""The example notebook runs from start to end, from both folders that it says it runs from."""

import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture(autouse=True)
def kernel_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kernels write goes to a folder of the test; figures are made, but no browser is asked to show them."""
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")


def run(notebook: NotebookNode, folder: Path, files: Path) -> NotebookNode:
    """All cells in a kernel of this Python, which is spoken to by files and not by the network."""
    manager = AsyncKernelManager(transport="ipc", ip=str(files / "ipc"))
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client = NotebookClient(notebook, km=manager, timeout=300, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    asked = code_cells(run(nbformat.read(NOTEBOOK, 4), ROOT / "docs", tmp_path))
    for cell in asked:
        text = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
        drawn = [output for output in cell.outputs if "application/vnd.plotly.v1+json" in output.get("data", {})]
        assert bool(drawn) == cell.source.endswith("figure")
        assert bool(text) == ("print(" in cell.source)


def test_it_finds_the_models_from_the_root_too(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells = code_cells(notebook)[:2]
    assert code_cells(run(notebook, ROOT, tmp_path))[1].outputs


def test_a_cell_that_raises_is_a_failure(tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(notebook, tmp_path, tmp_path)


def test_it_is_kept_without_outputs_and_explains_itself() -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not [cell for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None]
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) >= 10
    assert not [cell.source for cell in notebook.cells if str(ROOT) in cell.source or "/home/" in cell.source]
