"""Overview: what this is, and the trained models."""

import pandas as pd
import streamlit as st

from analysis.figures import overview as figures
from app import cache
from app.widgets import words

models, _ = cache.catalogue()

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
        "Top-1": metrics.get("top1"),
        "low": low,
        "high": high,
        "95 %": f"{low:.2f}–{high:.2f}",
        "n": metrics.get("n"),
        "Parameters": cost.params,
        "1 bit": cost.binary_params / cost.params,
        "BOPs": cost.bops / 1e6,
        "OPs": cost.ops["full"] / 1e6,
        "KB": cost.bits / 8 / 1000,
    }


table = pd.DataFrame([_row(model) for model in models])
binary = table[table["W/A"] == "1/1"]
measured = table.dropna(subset=["Top-1"])

columns = st.columns(4)
columns[0].metric("Trained models", len(models), help="Checkpoints on offer in the sidebar.", border=True)
if len(both := measured[measured["W/A"] == "1/1"]):
    best = both.sort_values("Top-1").iloc[-1]
    columns[1].metric(
        "Best 1-bit model",
        f"{best['Top-1']:.2f} %",
        help=f"Top-1 of {best['Model']} on {best['n']:,.0f} test images.",
        border=True,
    )
if len(real := measured[measured["W/A"] == "32/32"]):
    twin = real.iloc[0]
    taught = sum(model.recipe.get("teacher") == twin["id"] for model in models)
    columns[2].metric(
        "Real-valued twin",
        f"{twin['Top-1']:.2f} %",
        help=f"Top-1 of {twin['Model']}" + (f", the teacher of {taught} of the other models." if taught else "."),
        border=True,
    )
if len(binary) and len(table[table["W/A"] == "32/32"]):
    ratio = table[table["W/A"] == "32/32"].iloc[0]["KB"] / binary.iloc[0]["KB"]
    columns[3].metric(
        "Smaller by",
        f"{ratio:.1f} ×",
        help="Memory of the parameters: twin against the first 1-bit model.",
        border=True,
    )

st.markdown("**What to ask them**")
for column, (page, question) in zip(
    st.columns(4) + st.columns(4)[:3],
    [
        ("sampling", "Which tokens does one location of a layer read?"),
        ("receptive", "Which pixels can reach it, and how much does each count?"),
        ("attributions", "Which pixels speak for the predicted class?"),
        ("binarizing", "What do weights and activations lose as single bits?"),
        ("deployment", "What does it gain as real bits, on this machine?"),
        ("costs", "What accuracy does an operation buy?"),
        ("compare", "Where do two variants part?"),
    ],
    strict=True,
):
    with column.container(border=True, height="stretch", gap="xsmall"):
        st.page_link(f"views/{page}.py", icon=":material/arrow_forward:")
        st.caption(question)

st.subheader("The trained models")
with st.container(horizontal=True):
    words.badge("measured", "accuracy, from each model's card")
    words.badge("computed", "costs for one image")
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
        "OPs": st.column_config.NumberColumn("OPs (10⁶)", format="%.2f", help="BOPs / 64 + FLOPs, convention full."),
        "KB": st.column_config.NumberColumn("Memory (kB)", format="%.1f", help="1 bit a binary, 32 a real parameter."),
    },
    alt="The trained models with measured accuracy and computed cost",
)

if len(measured):
    st.plotly_chart(
        figures.accuracy_intervals(measured),
        config={"displayModeBar": False},
        alt="Top-1 accuracy of the models with 95 % confidence intervals",
    )
    st.caption("Where two intervals overlap a lot, the test set is too small to tell which model is better.")
    for sentence in filter(None, (words.continued(model, models) for model in models)):
        st.caption(f":material/info: {sentence}")

logs = {model.title: cache.training_log(model.log) for model in models if model.log and model.log.is_file()}
if logs:
    st.subheader("How they were trained")
    words.badge("measured", "training logs of the shipped models")
    st.plotly_chart(
        figures.training_curves(logs, {model.title: model.id for model in models}),
        config={"displayModeBar": False},
        alt="Test accuracy of each model, epoch by epoch",
    )
    st.caption("Dotted: real weights or activations (the twin, and training step 1). Solid: one bit each (step 2).")

with st.expander("Cards of the models", icon=":material/badge:"):
    for model in models:
        st.markdown(f"**{model.title}**")
        st.json({key: value for key, value in model.card.items() if key != "classes"}, expanded=False)

words.misleads(
    "Fashion-MNIST is small and easy. A gap between variants here is no prediction for ImageNet, where the paper's "
    "numbers were measured: those are on the page *OPs trade-offs*, marked as quoted.",
    "A model that is continued from another one has been trained for longer. The difference of the two is not only "
    "what it adds: look for one that was trained as long.",
    "OPs count operations, not time. How fast a network runs depends on the processor and its kernels.",
    "Each model was trained once. How much a second run with another seed would differ was not measured.",
)
