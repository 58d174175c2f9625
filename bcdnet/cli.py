"""The console script ``bcdnet``.

Results go to stdout, as tables or, with ``--json``, as exactly one JSON document; progress and complaints go to
stderr. Exit status: 0, 1 for a run that failed, 2 for bad usage or bad input, with one sentence and no traceback.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from tqdm import tqdm

from bcdnet import bench as benchmarks
from bcdnet import evaluate as evaluation
from bcdnet import kernels
from bcdnet.checkpoint import load, save
from bcdnet.cost import network_cost
from bcdnet.data import SOURCES, ImageError, MissingData, decode_image, open_dataset
from bcdnet.data.check import FOLDER, check
from bcdnet.data.fetch import fetch
from bcdnet.engine import Engine as PackedEngine
from bcdnet.engine import is_packed, load_engine, pack
from bcdnet.published import KeyMismatch, import_published
from bcdnet.variants import VARIANTS, get_config

ENGINES = ("float", "packed")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
data_app = typer.Typer(rich_markup_mode=None, help="The data sets: list them, look one through, fetch one.")
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Checkpoint = Annotated[Path, typer.Argument(metavar="CKPT", help="A .safetensors checkpoint.")]
Model = Annotated[Path, typer.Argument(metavar="CKPT", help="A .safetensors checkpoint, or a packed network.")]
Engine = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(ENGINES),
        help="What computes the logits: the float simulation or the XNOR kernels; by default what the file is for.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=kernels.MAX_THREADS, help="Cores for the packed engine; all by default.", show_default=False
    ),
]


class UsageError(ValueError):
    """An option's value that there is not, or that does not fit the file."""


@app.callback(help="Binary networks of the BCDNet family: list, count, import, run, measure and train them.")
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    pass  # main() looks for --debug itself, because usage errors come before any callback


@app.command("list")
def list_variants(as_json: Json = False) -> None:
    """The variants, with their numbers of parameters."""
    rows = []
    for name, config in VARIANTS.items():
        cost = network_cost(config)
        size = config.image_size[0] if len(set(config.image_size)) == 1 else list(config.image_size)
        counts = {"params": cost.params, "binary_params": cost.binary_params}
        rows.append({"name": name, "family": config.family, "image_size": size, **counts})
    _show(rows, as_json, lambda: _table(rows))


@app.command()
def ops(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="A name from `bcdnet list`.")],
    image_size: Annotated[int, typer.Option(help="Side of the square image in pixels.")] = 224,
    num_classes: Annotated[int, typer.Option(help="Outputs of the head.")] = 1000,
    as_json: Json = False,
) -> None:
    """Operations and parameters of a variant, in total and per layer: plain counts for one image."""
    cost = network_cost(get_config(variant, image_size=image_size, num_classes=num_classes))
    layers = [asdict(layer) | {"bits": layer.bits, "flops": layer.flops} for layer in cost.layers]
    document = {"bops": cost.bops, "flops": cost.flops, "ops": cost.ops, "layers": layers}

    def human() -> None:
        shown = ("name", "kind", "output", "params", "binary_params", "bops", "macs", "elementwise")
        rows = [{key: layer[key] for key in shown} for layer in layers]
        _table([row | {"output": "×".join(map(str, row["output"]))} for row in rows])
        for convention in ("full", "conv_fc"):
            flops, total = cost.flops[convention], cost.ops[convention]
            print(f"{convention:8} BOPs {cost.bops:,}   FLOPs {flops:,}   OPs = BOPs/64 + FLOPs {total:,.0f}")

    _show(document, as_json, human)


@app.command("import")
def import_checkpoint(
    src: Annotated[Path, typer.Argument(metavar="SRC", help="A published .pth or .pth.tar file.")],
    variant: Annotated[str, typer.Option(help="reactnet_a, bcdnet_a or reactnet_18.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.safetensors", help="The checkpoint to write.")],
    precision: Annotated[str, typer.Option(metavar="1/1|32/1", help="Training step 2 is 1/1, step 1 is 32/1.")] = "1/1",
    num_classes: Annotated[int, typer.Option(help="Outputs of each head.")] = 1000,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into one of this project; every name in it must match."""
    try:
        model, report = import_published(src, variant, precision, num_classes=num_classes)
    except KeyMismatch as error:
        # The sentence names a few keys; the document lists every one.
        _show(asdict(error.report), as_json, lambda: None)
        raise
    save(model, out, model.card)
    _show(asdict(report), as_json, lambda: print(f"{len(report.loaded)} tensors loaded; wrote {out}."))


@app.command()
def predict(
    checkpoint: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG, WebP, GIF, BMP or TIFF.")],
    engine: Engine = None,
    threads: Threads = None,
    topk: Annotated[int, typer.Option(min=1, help="How many classes to name.")] = 5,
    as_json: Json = False,
) -> None:
    """Classify pictures."""
    model = _classifier(checkpoint, engine, threads)
    preprocess, names = evaluation.model_preprocess(model), evaluation.class_names(model)
    document: list[dict[str, Any]] = []
    for path in images:
        try:
            decoded = decode_image(path)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        with torch.no_grad():
            logits = model(preprocess.tensor(decoded.image)[None])[0]
        best = logits.softmax(0).topk(min(topk, len(names)))
        top = [
            {"label": names[index], "index": index, "probability": probability}
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        document.append({"image": str(path), "top": top, "logits": logits.tolist()})

    def human() -> None:
        for row in document:
            _table(row["top"], title=row["image"])

    _show(document, as_json, human)


@app.command()
def evaluate(
    checkpoint: Model,
    data: Annotated[str, typer.Option(metavar="NAME|FOLDER", help="From `bcdnet data list`, or class folders.")],
    engine: Engine = None,
    threads: Threads = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 256,
    as_json: Json = False,
) -> None:
    """Measure the accuracy on a test set, in percent, with a 95 % interval (Wilson) of top-1."""
    model, dataset = _classifier(checkpoint, engine, threads), open_dataset(data)
    for note in dataset.notes:
        print(note, file=sys.stderr)
    with tqdm(total=len(dataset), unit="image", file=sys.stderr, disable=None, leave=False) as bar:
        result = evaluation.evaluate(model, dataset, batch_size, lambda done, _: bar.update(done - bar.n))
    document = result.metrics()
    low, high = result.ci95
    sentence = f"top-1 {result.top1:.2f} % [{low:.2f}, {high:.2f}], top-5 {result.top5:.2f} %, {result.n:,} images"
    if result.f1 is not None:
        area = "" if result.auc is None else f", area under the ROC curve {result.auc:.2f} %"
        sentence += f"; {dataset.classes[1]}: F1 {result.f1:.2f} %{area}"
    _show(document, as_json, lambda: print(sentence))


@app.command("pack")
def pack_checkpoint(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The packed file to write.")],
    as_json: Json = False,
) -> None:
    """Pack a trained 1/1 network: weights as bits, everything else folded, for the XNOR kernels."""
    engine = pack(load(checkpoint), threads=1)
    if out.exists() and not is_packed(out):
        raise UsageError(f"{out} exists and is no packed network; name another file to write.")
    before = checkpoint.stat().st_size
    engine.save(out)
    size = out.stat().st_size
    document = {"bytes": size, "binary_params": engine.binary_params, "real_params": engine.real_params}
    sentence = (
        f"Wrote {out}: {size:,} bytes, 1/{before / size:.1f} of the checkpoint, with {engine.binary_params:,} weights "
        f"of one bit and {engine.real_params:,} real numbers."
    )
    _show(document, as_json, lambda: print(sentence))


@app.command()
def bench(
    words: Annotated[
        list[str],
        typer.Argument(metavar="CKPT|VARIANT", help="A checkpoint, or a name from `bcdnet list` for random weights."),
    ],
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Side of the square image in pixels; the network's own by default.", show_default=False
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    threads: Annotated[int, typer.Option(min=1, max=kernels.MAX_THREADS, help="Cores for every runtime.")] = 1,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar=" ".join(benchmarks.PEERS), help="Time the same network in float too; one or several."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time the packed engine of a 1/1 network, layer by layer, and the same network in float beside it."""
    # `--against torch onnxruntime` leaves all names but the first among the arguments.
    peers = [name for value in against or [] for name in value.replace(",", " ").split()]
    if peers:
        peers += [word for word in words if word in benchmarks.PEERS]
        words = [word for word in words if word not in benchmarks.PEERS]
    if len(words) != 1:
        raise UsageError(
            f"name one checkpoint or variant, not {', '.join(words) or 'none'}; see `bcdnet bench --help`."
        )
    size = None if image_size is None else (image_size, image_size)
    path = Path(words[0])
    if words[0] not in VARIANTS and (path.suffix or path.exists()):
        model = load(path)
    else:
        config = get_config(words[0])
        model = benchmarks.lively_network(config if size is None else config.replace(image_size=size))
    # Runtimes print where they like; stdout is for the result.
    with redirect_stdout(sys.stderr):
        document = benchmarks.benchmark(
            model, size, batch, threads, peers, progress=lambda sentence: print(f"bench: {sentence}", file=sys.stderr)
        )

    def human() -> None:
        keys = dict.fromkeys(key for layer in document["layers"] for key in layer)
        _table([{key: layer.get(key, "") for key in keys} for layer in document["layers"]], title="Layers, one image")
        rows = [
            {"runtime": name, **{key: detail[key] for key in ("how", "runs", "median", "p10", "p90")}}
            for name, detail in document["details"].items()
        ]
        _table(rows, title=f"Milliseconds for {batch} image(s), {threads} thread(s), {document['cpu']}")
        print(kernels.describe())

    _show(document, as_json, human)


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="A file like those in recipes/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run to go on with.")] = None,
    as_json: Json = False,
) -> None:
    """Train a network by a recipe."""
    from bcdnet.training import run  # here, because Lightning takes seconds to import

    # Trainers print where they like; stdout is for the result.
    with redirect_stdout(sys.stderr):
        outcome = run.train(recipe, list(overrides or []), resume)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        return  # of many processes the first one tells the result
    document = {key: outcome[key] for key in ("run", "checkpoint", "metrics")}
    _show(document, as_json, lambda: _table([{"what": key, "value": value} for key, value in document.items()]))


@data_app.command("list")
def list_data(as_json: Json = False) -> None:
    """The known data sets, and where each lies on this machine."""
    document: list[dict[str, Any]] = []
    for name, source in SOURCES.items():
        found: dict[str, str | None] = {}
        for split in source.splits:
            try:
                found[split] = str(source.locate(split))
            except MissingData:
                found[split] = None
        row: dict[str, Any] = {
            "name": name,
            "title": source.title,
            "classes": source.classes,
            "splits": dict(source.splits),
        }
        row |= {"origin": source.origin, "licence": source.licence, "obtain": source.obtain}
        document.append(row | {"fetchable": bool(source.downloads), "found": found})

    def human() -> None:
        rows = []
        for row in document:
            splits = "\n".join(f"{split} {count:,}" for split, count in row["splits"].items())
            rows.append({key: row[key] for key in ("name", "classes")} | {"images": splits, "licence": row["licence"]})
        _table(rows)
        for row in document:
            places = dict.fromkeys(filter(None, row["found"].values()))
            print(f"{row['name']}: {'in ' + ' and '.join(places) if places else 'not found; ' + row['obtain']}")

    _show(document, as_json, human)


@data_app.command("check")
def check_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"From `bcdnet data list`, or `{FOLDER}` for any other.")],
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="Its folder; where it is looked for by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Don't decode the images, only see that they are there.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Look a data set through: what is there and what is wrong. Exit status 1 if something is, 2 if nothing opens."""
    with _progress("image") as progress:
        report = check(name, path, quick, progress)

    def human() -> None:
        rows = []
        for part in report.splits:
            counts = sorted((count, label) for label, count in part.classes.items())
            (low, smallest), (high, largest) = counts[0], counts[-1]
            rows.append(
                {
                    "split": part.split,
                    "images": part.images,
                    "official": "" if part.official is None else part.official,
                    "classes": len(counts),
                    "smallest": f"{smallest} ({low:,})",
                    "largest": f"{largest} ({high:,})",
                }
            )
        if rows:
            places = dict.fromkeys(str(part.path) for part in report.splits)
            _table(rows, title=f"{report.name} in {' and '.join(places)}")
        for part in report.splits:
            print(fill(f"{part.split}: {_counts(part.classes)}.", 110, subsequent_indent="  ", break_on_hyphens=False))
        for note in report.notes:
            print(f"Note: {note}")
        for problem in report.problems:
            print(f"Wrong: {problem}")
        if not report.problems:
            print(f"Nothing is wrong; the images {'are there' if quick else 'can all be read'}.")

    _show(report.to_dict(), as_json, human)
    if not report.splits:
        return 2
    return 1 if report.problems else 0


@data_app.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="From `bcdnet data list`.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of all data sets; the one BCDNET_DATA names by default."),
    ] = None,
    as_json: Json = False,
) -> int:
    """Download a data set that its owners offer to everybody; goes on where it was stopped."""
    with _progress("B") as progress:
        folder = fetch(name, to, progress)
    report = check(name, folder, quick=True)
    for problem in report.problems:
        print(problem, file=sys.stderr)
    document = {"folder": str(folder), "problems": list(report.problems)}
    _show(document, as_json, lambda: print(f"{name} is in {folder}; name it, or {folder.parent} in BCDNET_DATA."))
    return 1 if report.problems else 0


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, 1 for a failed run, 2 for bad usage or input."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        status = app(args=arguments, prog_name="bcdnet", standalone_mode=False)
    except Exception as error:
        if arguments[:1] == ["--debug"]:
            raise
        status = _complain(error)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(error: Exception) -> int:
    """One sentence on stderr, and the exit status it stands for."""
    message = " ".join((error.format_message() if isinstance(error, typer.BadParameter) else str(error)).split())
    # An error that this package defines has a message written for whoever typed the command; bad input is a ValueError.
    if isinstance(error, typer.TyperException):
        command = getattr(getattr(error, "ctx", None), "command_path", None) or "bcdnet"
        status, message = 2, f"{message.rstrip('.')}; see `{command} --help`."
    elif type(error).__module__.startswith("bcdnet."):
        status = 2 if isinstance(error, ValueError) else 1
    else:
        status, message = 1, f"the run failed with {type(error).__name__}: {message or 'no message'} (see --debug)"
    print(f"bcdnet: {message}", file=sys.stderr)
    return status


def _classifier(path: Path, engine: str | None, threads: int | None) -> evaluation.Classifier:
    """The network or the packed engine in a file; a checkpoint is packed on the way if the engine is asked for."""
    if engine not in (None, *ENGINES):
        raise UsageError(f"there is no engine {engine!r}; use --engine {' or '.join(ENGINES)}.")
    if is_packed(path):
        if engine == "float":
            raise UsageError(f"{path.name} is packed, so only --engine packed runs it; name its checkpoint instead.")
        model: evaluation.Classifier = load_engine(path, threads)
    else:
        if threads is not None and engine != "packed":
            raise UsageError("--threads is for the packed engine; add --engine packed, or leave it out.")
        model = load(path)
        if engine == "packed":
            model = pack(model, threads)
    if isinstance(model, PackedEngine):
        print(kernels.describe(), file=sys.stderr)
    return model


@contextmanager
def _progress(unit: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """Bars on stderr, one after the other for each thing that is under way."""
    bar: tqdm | None = None
    current = ""

    def update(what: str, done: int, total: int | None) -> None:
        nonlocal bar, current
        if bar is None or what != current:
            if bar is not None:
                bar.close()
            current = what
            bar = tqdm(
                desc=what, initial=done, total=total, unit=unit, unit_scale=unit == "B", file=sys.stderr, disable=None
            )
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


def _show(document: Any, as_json: bool, human: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        human()


def _table(rows: list[dict[str, Any]], title: str | None = None) -> None:
    """A table of which nothing is cut: a narrow terminal folds its cells; a file or pipe is as wide as it takes, up to
    1000 columns."""
    table = Table(title=title, title_justify="left")
    for key, value in rows[0].items():
        table.add_column(key, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console(markup=False)
    if not console.is_terminal:
        console.width = max(
            console.width, Measurement.get(console, console.options.update(max_width=1000), table).maximum
        )
    console.print(table)


def _counts(classes: Mapping[str, int]) -> str:
    """Images by class; the number that most classes have is said once, if more than half of them have it."""
    (usual, often), *_ = Counter(classes.values()).most_common(1)
    if often == len(classes):
        return f"{usual:,} each"
    common = 2 * often > len(classes)
    named = ", ".join(f"{name} {n:,}" for name, n in classes.items() if not (common and n == usual))
    return f"{usual:,} each, but {named}" if common else named


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
