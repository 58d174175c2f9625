"""Slow questions: what they cost is told, they can be stopped, and what comes of them is kept."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pages import assert_fine
from slow_question import failure, gate, threads
from streamlit.testing.v1 import AppTest

from analysis import binarization, bits, branches, comparison, faithfulness
from analysis.attribution import attribute
from analysis.receptive_field import effective_receptive_field
from app import cache, jobs, uploads
from app.jobs import Cancelled, Job


def page(forwards: int, seconds: float) -> None:
    """A page with one slow question. Runs as a script of its own, so it imports what it needs."""
    import slow_question
    import streamlit as st

    from app import cache, jobs

    model = cache.catalogue()[0][0]
    found = jobs.answer(slow_question.question, model, 5, forwards=forwards, what="Counting", seconds=seconds)
    if found is not None:
        st.markdown(f"found {found}")


@pytest.fixture(autouse=True)
def fresh() -> None:
    gate.set()
    threads.clear()
    failure.clear()


def opened(forwards: int = 7, seconds: float = 5.0) -> AppTest:
    return AppTest.from_function(page, kwargs={"forwards": forwards, "seconds": seconds}, default_timeout=30).run()


def wait(at: AppTest, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in " ".join(m.value for m in [*at.markdown, *at.info, *at.error]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        at.run()


def test_what_is_quick_is_answered_at_once() -> None:
    at = opened(seconds=0.1)
    assert at.markdown[0].value == "found 50" and not at.button
    assert not threads[0].startswith("job")


def test_what_takes_long_tells_its_cost_and_waits_for_consent() -> None:
    at = opened(forwards=1234, seconds=200)
    assert "1,234 forward passes, about 3 min" in at.info[0].value and not threads
    at.button[0].click().run()
    wait(at, "found 50")
    assert_fine(at)
    assert threads == ["job_0"]
    # The answer is kept, for this page and any other.
    again = opened(forwards=1234, seconds=200)
    assert again.markdown[0].value == "found 50" and not again.info and len(threads) == 1


def test_what_takes_a_moment_starts_by_itself() -> None:
    gate.clear()
    at = opened(seconds=2)
    assert not at.info and [button.label for button in at.button] == ["Cancel"]
    gate.set()
    wait(at, "found 50")


def test_cancelling_stops_within_a_second_and_keeps_nothing() -> None:
    gate.clear()
    at = opened(seconds=2)
    at.button[0].click().run()
    (job,) = jobs._jobs()[0].values()
    gate.set()
    start = time.monotonic()
    assert job.ended.wait(1)  # the worker itself, not only the page
    wait(at, "Cancelled; nothing was kept.")
    assert time.monotonic() - start < 1
    assert not any(m.value.startswith("found") for m in at.markdown)
    at.button[0].click().run()  # it can be asked for again
    wait(at, "found 50")


def test_a_second_click_starts_nothing_more() -> None:
    at = opened(seconds=200)
    gate.clear()
    ask = at.button[0]
    ask.click().run()
    ask.click().run()  # on the button of the page as it was
    (job,) = jobs._jobs()[0].values()
    assert [button.label for button in at.button] == ["Cancel"]
    at.button[0].click().run()
    gate.set()
    assert job.ended.wait(1)
    wait(at, "Cancelled; nothing was kept.")
    at.run()
    assert list(jobs._jobs()[0].values()) == [job] and len(threads) == 1  # and it asks anew


def choosing_page() -> None:
    import slow_question
    import streamlit as st

    from app import cache, jobs

    n = int(st.number_input("n", value=5))
    model = cache.catalogue()[0][0]
    found = jobs.answer(slow_question.question, model, n, forwards=n, what="Counting", seconds=200)
    if found is not None:
        st.markdown(f"found {found}")


def test_a_click_that_comes_with_another_choice_starts_neither_question() -> None:
    at = AppTest.from_function(choosing_page, default_timeout=30).run()
    at.number_input[0].set_value(6)
    at.button[0].click().run()
    assert "6 forward passes" in at.info[0].value and not jobs._jobs()[0] and not threads
    at.button[0].click().run()
    wait(at, "found 60")
    assert len(threads) == 1


def test_nobody_cancels_the_work_of_another_reader() -> None:
    gate.clear()
    mine, theirs = opened(seconds=2), opened(seconds=2)
    mine.button[0].click().run()
    gate.set()
    wait(mine, "Cancelled; nothing was kept.")
    wait(theirs, "found 50")
    assert not any("Cancelled" in note.value for note in theirs.info)


def test_what_two_readers_ask_alike_is_computed_once() -> None:
    gate.clear()
    mine, theirs = opened(seconds=2), opened(seconds=2)
    gate.set()
    wait(mine, "found 50")
    wait(theirs, "found 50")
    assert len(threads) == 1


def test_a_sentence_for_the_reader_is_shown_and_the_question_may_be_repeated() -> None:
    failure.append(ValueError("Choose a smaller number."))
    at = opened(seconds=2)
    wait(at, "Choose a smaller number.")
    failure.clear()
    at.button[0].click().run()
    wait(at, "found 50")


def test_a_bug_shows_no_traceback() -> None:
    failure.append(KeyError("secret"))
    at = opened(seconds=2)
    wait(at, "could not be computed")
    assert not at.exception and "secret" not in at.error[0].value


def test_a_second_job_waits_for_the_first_and_both_end() -> None:
    gate.clear()
    first, second = opened(seconds=2), AppTest.from_function(other_page, default_timeout=30).run()
    gate.set()
    wait(first, "found 50")
    wait(second, "found 60")
    assert threads == ["job_0", "job_0"]


def other_page() -> None:
    import slow_question
    import streamlit as st

    from app import cache, jobs

    model = cache.catalogue()[0][0]
    found = jobs.answer(slow_question.question, model, 6, forwards=1, what="Counting on", seconds=2)
    if found is not None:
        st.markdown(f"found {found}")


def test_a_job_that_nobody_looks_at_stops() -> None:
    job = Job(looked_at=time.monotonic() - jobs._FORGOTTEN - 1)
    with pytest.raises(Cancelled):
        job.report(1, 2)


#: Questions that run as jobs: options of each, with "x" for one picture and "images" for many.
SLOW: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "comparison": (comparison.predict_set, ("batches",)),
    "knock-outs": (branches.knockout, ("images", None, None, "mean")),
    "shares": (branches.branch_shares, ("images",)),
    "activations": (binarization.activation_error, ("images",)),
    "thresholds": (bits.dynamic_bits, ("x",)),
    "flips": (bits.compare_orders, ("x", "mlp1_1")),
    "information": (bits.information, ("images",)),
    "field by gradient": (effective_receptive_field, ("images", "mlp1_1", 3, 3, "gradient")),
    "field by perturbation": (effective_receptive_field, ("images", "mlp1_1", 3, 3, "perturbation")),
    "occlusion": (attribute, ("x", 0, "occlusion")),
    "Shapley values": (attribute, ("x", 0, "shapley_value_sampling")),
    "judgement": (faithfulness.judge, ("x", 0, "integrated_gradients")),
    "randomisation": (faithfulness.randomise, ("x", 0, "integrated_gradients")),
    "surrogate meter": (faithfulness.surrogate_meter, ("x", 0)),
}


@pytest.mark.parametrize("question", SLOW)
def test_a_question_of_large_images_can_be_stopped_within_a_second(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BCDNET_CHECKPOINTS")
    wanted = "elpv_bcdnet_b" if question == "thresholds" else "elpv_bcdnet_a"
    model = next(model for model in cache.catalogue()[0] if model.id == wanted)
    images = next(images for images in uploads.image_sets(model) if images.test_of == "elpv")
    stand_for = {"x": images.picture(0), "images": images.first(48), "batches": images.batches(200)}
    ask, arguments = SLOW[question]
    given, _ = cache.resolved(model, tuple(stand_for.get(value, value) for value in arguments), {})
    job, gaps = Job(), []

    def progress(done: int, total: int) -> None:
        # The thread's own seconds: this machine may be busy with other work.
        nonlocal last
        gaps.append(time.thread_time() - last)
        last = time.thread_time()
        if sum(gaps) > 1.5:
            job.cancelled.set()
        job.report(done, total)

    network, threads = cache.private_copy(model), torch.get_num_threads()
    torch.set_num_threads(1)  # so that one thread does it all
    last = time.thread_time()
    try:
        with contextlib.suppress(Cancelled):
            ask(network, *given, progress=progress)
    finally:
        torch.set_num_threads(threads)
    assert max([*gaps, time.thread_time() - last]) < 1


def test_time_left_follows_the_pace() -> None:
    job = Job(began=time.monotonic() - 10)
    assert job.seconds_left() is None
    job.report(2, 10)
    left = job.seconds_left()
    assert left is not None and abs(left - 40) < 1
    assert [jobs.duration(s) for s in (0.2, 4, 89, 200)] == ["less than a second", "4 s", "89 s", "3 min"]
