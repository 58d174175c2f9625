"""Overview: what this is, and the trained models."""

from pathlib import Path

import pandas as pd
import streamlit as st

from analysis.figures.comparison import accuracy_whiskers
from analysis.figures.overview import training_curves
from analysis.runs import epochs_before
from app import cache, state
from app.widgets import figure, selection, tabs, words

models = selection.offered()

st.markdown(
    "BCDNet is a **binary neural network**: weights and activations of its inner layers are single bits, so that a "
    "multiplication becomes an XNOR and 64 of them fit one processor word. Its authors (Xing et al., *Towards Accurate "
    "Binary Neural Networks via Modeling Contextual Dependencies*, ECCV 2022) replace the last convolutions by binary "
    "MLPs that read near and far tokens. This program lets you look inside trained ones."
)

if not models:
    st.warning(
        "No trained models were found. Run `make zoo` to train them, or set `BCDNET_CHECKPOINTS` to a folder "
        "of checkpoints.",
        icon=":material/folder_off:",
    )
    st.markdown("The page *OPs trade-offs* works without models.")
    st.stop()


def _row(model: cache.Model) -> dict:
    metrics, cost = model.card.get("metrics") or {}, cache.network_cost(model.config)
    low, high = metrics.get("ci95") or (float("nan"), float("nan"))
    return {
        "id": model.id,
        "Model": model.title,
        "W/A": model.config.precision,
        "Branches": model.config.branches if model.config.mlp_groups or model.config.mlp_stages else "–",
        "Top-1": metrics.get("top1", float("nan")),
        "low": low,
        "high": high,
        "95 %": f"{low:.2f}–{high:.2f}" if pd.notna(low) else None,
        "n": metrics.get("n", float("nan")),
        "Parameters": cost.params,
        "1 bit": cost.binary_params / cost.params,
        "BOPs": cost.bops / 1e6,
        "OPs": cost.ops["full"] / 1e6,
        "KB": cost.bits / 8 / 1000,
    }


def _headlines(shown: list[cache.Model], table: pd.DataFrame) -> None:
    binary = table[table["W/A"] == "1/1"]
    measured = table.dropna(subset=["Top-1"])

    with st.container(horizontal=True):
        words.badge("measured", "accuracies, from each model's card")
        words.badge("computed", "sizes")
    headlines = st.container(horizontal=True)
    headlines.metric(
        "Trained models", len(shown), help="Checkpoints on offer in the sidebar, of this data set.", border=True
    )
    if len(both := measured[measured["W/A"] == "1/1"]):
        best = both.sort_values("Top-1").iloc[-1]
        headlines.metric(
            "Best 1-bit model",
            f"{best['Top-1']:.2f} %",
            help=f"Top-1 of {best['Model']}" + (f" on {best['n']:,.0f} test images." if pd.notna(best["n"]) else "."),
            border=True,
        )
    if len(real := measured[measured["W/A"] == "32/32"]):
        twin = real.iloc[0]
        taught = sum(model.recipe.get("teacher") == twin["id"] for model in shown)
        headlines.metric(
            "Real-valued twin",
            f"{twin['Top-1']:.2f} %",
            help=f"Top-1 of {twin['Model']}" + (f", the teacher of {taught} of the other models." if taught else "."),
            border=True,
        )
    if len(binary) and len(table[table["W/A"] == "32/32"]):
        ratio = table[table["W/A"] == "32/32"].iloc[0]["KB"] / binary.iloc[0]["KB"]
        headlines.metric(
            "Smaller by",
            f"{ratio:.1f} ×",
            help="Memory of the parameters: twin against the first 1-bit model.",
            border=True,
        )


def _accuracies(shown: list[cache.Model], measured: pd.DataFrame) -> None:
    if measured.empty:
        st.info("No card of these models says how accurate it is.")
        return
    whiskers = measured.rename(columns={"Top-1": "top1"}).set_index("Model")[["top1", "low", "high", "n"]]
    whiskers["correct"] = (whiskers.top1 * whiskers.n / 100).round()
    ids = dict(zip(measured["Model"], measured["id"], strict=True))
    figure.show(
        accuracy_whiskers(whiskers, ids),
        "accuracies",
        "Top-1 accuracy of the models with 95 % confidence intervals",
        whiskers.reset_index(),
        "import pandas as pd\nfrom analysis.figures.comparison import accuracy_whiskers\n"
        "from bcdnet.checkpoint import inspect\n\n"
        f"files = { {model.id: cache.checkpoint_name(model) for model in shown if model.id in ids.values()} }\n"
        "rows, ids = {}, {}\nfor name, path in files.items():\n"
        "    card = inspect(path)['card']\n    about = card['metrics']\n"
        "    low, high = about['ci95']\n    ids[card['title']] = name\n"
        "    rows[card['title']] = {'top1': about['top1'], 'low': low, 'high': high, 'n': about['n']}\n"
        "table = pd.DataFrame.from_dict(rows, orient='index')\n"
        "table['correct'] = (table.top1 * table.n / 100).round()\n"
        "figure = accuracy_whiskers(table, ids)\n",
    )
    st.caption("Where two intervals overlap a lot, the test set is too small to tell which model is better.")
    for sentence in filter(None, (words.continued(model, shown) for model in shown)):
        st.caption(f":material/info: {sentence}")


def _training(shown: list[cache.Model]) -> None:
    logged = [model for model in shown if model.log and model.log.is_file()]
    logs = {model.title: cache.training_log(model.log) for model in logged if model.log}
    if not logs:
        st.info("None of these models came with the log of its training.")
        return
    words.badge("measured", "training logs of the shipped models")
    ids = {model.title: model.id for model in logged}
    before = epochs_before(
        {model.id: logs[model.title] for model in logged}, {model.id: str(model.recipe.get("init")) for model in logged}
    )
    starts = {model.title: before[model.id] for model in logged}
    files = {model.title: str(Path(cache.checkpoint_name(model)).with_suffix(".csv")) for model in logged}
    figure.show(
        training_curves(logs, ids, starts),
        "training",
        "Test accuracy of each model, epoch by epoch",
        pd.concat([log.assign(model=title) for title, log in logs.items()]),
        "import pandas as pd\nfrom analysis.figures.overview import training_curves\n\n"
        f"files = {files!r}\n"
        "logs = {title: pd.read_csv(path) for title, path in files.items()}\n"
        f"figure = training_curves(logs, {ids!r}, {starts!r})\n",
    )
    st.caption(
        "Dotted: real weights or activations (the twin, and training step 1). Solid: one bit each (step 2). A model "
        "that is continued from another one of these begins where that one ends."
    )


sets = list(dict.fromkeys(cache.dataset_source(model.dataset).title for model in models))


@st.fragment
def trained() -> None:
    shown = list(models)
    if len(sets) > 1:
        state.valid("of", sets, cache.dataset_source(st.session_state["chosen"][0].dataset).title)
        st.segmented_control(
            "Data set",
            sets,
            key="of",
            required=True,
            on_change=state.remember,
            help="Accuracies on different data sets cannot be compared, so one is shown at a time.",
        )
        shown = [model for model in models if cache.dataset_source(model.dataset).title == st.session_state["of"]]
    table = pd.DataFrame([_row(model) for model in shown])
    _headlines(shown, table)
    st.dataframe(
        table.drop(columns=["id", "low", "high"]),
        hide_index=True,
        column_config={
            "W/A": st.column_config.TextColumn(help="Bits of weights and activations in the inner layers."),
            "Branches": st.column_config.TextColumn(help="Point, short, long: what each binary MLP reads."),
            "Top-1": st.column_config.NumberColumn(format="%.2f %%", help="Share of test images classified correctly."),
            "95 %": st.column_config.TextColumn(help="Confidence interval of the accuracy (Wilson), in percent."),
            "n": st.column_config.NumberColumn(format="localized", help="Test images the accuracy was measured on."),
            "Parameters": st.column_config.NumberColumn(format="localized"),
            "1 bit": st.column_config.NumberColumn(format="percent", help="Share of the parameters that take one bit."),
            "BOPs": st.column_config.NumberColumn("BOPs (10⁶)", format="%.2f", help="Binary multiply-accumulates."),
            "OPs": st.column_config.NumberColumn(
                "OPs (10⁶)", format="%.2f", help="BOPs / 64 + FLOPs, convention full."
            ),
            "KB": st.column_config.NumberColumn("Memory (kB)", format="%.1f", help="1 bit or 32 a parameter."),
        },
        alt="The trained models with measured accuracy and computed cost",
    )

    tabs.show(
        "overview_tab",
        {
            "Accuracy": lambda: _accuracies(shown, table.dropna(subset=["Top-1"])),
            "How they were trained": lambda: _training(shown),
        },
    )
    state.publish()


st.markdown("**What to ask them**")
with st.container(horizontal=True):
    for page, question in (
        ("sampling", "Which tokens does one location of a layer read?"),
        ("receptive", "Which pixels can reach it, and how much does each count?"),
        ("attributions", "Which pixels speak for the predicted class?"),
        ("ledger", "What does each branch add, and what goes without it?"),
        ("binarizing", "What do weights and activations lose as single bits?"),
        ("deployment", "What does it gain as real bits, on this machine?"),
        ("costs", "What accuracy does an operation buy?"),
        ("compare", "Where do up to four variants part?"),
        ("runs", "How did accuracy, flips and error go in training?"),
        ("own", "What do a checkpoint and images of your own show?"),
    ):
        # As wide as four in a row allow; a narrow window has fewer.
        with st.container(border=True, width=222, gap="xsmall"):
            st.page_link(f"views/{page}.py", icon=":material/arrow_forward:")
            st.caption(question)

st.subheader("The trained models")
trained()
with st.expander("Cards of the models", icon=":material/badge:", on_change="rerun") as cards:
    for model in models if cards.open else ():
        st.markdown(f"**{model.title}**")
        st.json({key: value for key, value in model.card.items() if key != "classes"}, expanded=False)

words.misleads(
    "Fashion-MNIST is small and easy. A gap between variants here is no prediction for ImageNet, where the paper's "
    "numbers were measured: those are on the page *OPs trade-offs*, marked as quoted.",
    "A model that is continued from another one has been trained for longer. The difference of the two is not only "
    "what it adds: look for one that was trained as long.",
    "OPs count operations, not time. How fast a network runs depends on the processor and its kernels.",
    "One run of each model is shown. How much another seed changes is in `docs/results.md`, for those trained with "
    "several.",
)
