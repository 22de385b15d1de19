"""`python -m benchmarks.models` runs, and says in its last line what it measured; and the parts that it is made of."""

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import caption_lengths, model_folders
from benchmarks.models import CPU, PYTHON, Benchmark, quick, summary, versions
from benchmarks.turns import Contender, ContenderError
from sd_assets_tests.optional import ALL_VARIABLE, missing

PROJECT = Path(__file__).parents[2]
KEYS = [
    "device",
    "clip_bound_share",
    "clip_vs_clip_retrieval",
    "clip_vs_clip_retrieval_same_dtype",
    "clip_vs_fondant_loop",
    "caption_bound_share",
    "caption_vs_pipeline",
    "caption_vs_fondant_loop",
    "caption_vs_fondant_loop_same_dtype",
    "bf16_cosine_p1",
    "img_s",
]
OF_PEERS = ["clip_vs_clip_retrieval", "clip_vs_clip_retrieval_same_dtype", "caption_vs_pipeline"]
PEERS = {"clip_retrieval", "clip_retrieval_same_dtype", "pipeline"}
ALL = set(CPU.images)
_CONTENDER = """
import os, sys, time
from benchmarks.turns import serve

def measure(count, **question):
    {body}

serve(measure)
"""


def is_figure(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


def test_the_last_line_has_all_figures_without_dagster(tmp_path: Path) -> None:
    """The peers run beside ours where they are installed; else what depends on them is null."""
    peers = versions(PYTHON)
    if not peers and os.environ.get(ALL_VARIABLE):
        missing("environment with clip-retrieval", "run `make setup-clip-retrieval`")
    folder, site = tmp_path / "folder", tmp_path / "site"
    plan = quick(CPU)
    # It finds them there: torch need not be imported by one process more.
    made = model_folders.make(folder / f"{plan.clip}-{plan.pictures}", plan.clip, plan.pictures)
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys; sys.modules['dagster'] = None")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.models", "--quick", "--folder", str(folder)],
        cwd=PROJECT,
        # Threads that wait for one another are slow where other tests run, too.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *_, detail_line, last_line = done.stdout.splitlines()
    last, detail = json.loads(last_line), json.loads(detail_line.removeprefix("detail "))
    assert detail["folder"] == made
    assert list(last) == KEYS
    assert last["device"] == "cpu"
    assert [name for name in KEYS if last[name] is None] == ([] if peers else OF_PEERS)
    assert all(is_figure(last[name]) for name in KEYS[1:-1] if last[name] is not None)
    assert 0.99 < last["bf16_cosine_p1"] <= 1.0001
    assert set(last["img_s"]) == set(detail["runs"]) == ALL - (set() if peers else PEERS)
    assert all(is_figure(rate) for rate in last["img_s"].values())
    if peers:
        assert (peers["clip-retrieval"][:4], peers["transformers"][:4]) == ("2.45", "4.57")
    # Models and pictures stay, what runs wrote does not.
    (kept,) = (path for path in folder.iterdir() if path.is_dir())
    assert {path.name for path in kept.iterdir()} == {
        *("blip", "clip", "pictures"),
        *("web-images", "web-images.json"),
    }


def test_what_the_figures_are() -> None:
    def runs(*rates: float) -> list[dict[str, Any]]:
        return [{"rate": rate} for rate in rates]

    measured = {
        "bf16_cosine_p1": 0.9995,
        "runs": {
            "clip": runs(80, 40, 90),
            "clip_bound": runs(100, 50, 100),
            "clip_retrieval": runs(20, 20, 20),
            "clip_fondant_loop": runs(10, 10, 30),
            "caption": runs(3, 2),
            "caption_bound": runs(4, 4),
            "caption_fondant_loop": runs(1, 1),
            "caption_fondant_loop_same_dtype": runs(2, 2),
        },
    }
    figures = summary("cpu", measured)
    assert list(figures) == KEYS
    assert figures == {
        "device": "cpu",
        "clip_bound_share": 0.8,
        "clip_vs_clip_retrieval": 4,
        "clip_vs_clip_retrieval_same_dtype": None,
        "clip_vs_fondant_loop": 4,
        "caption_bound_share": 0.625,
        "caption_vs_pipeline": None,
        "caption_vs_fondant_loop": 2.5,
        "caption_vs_fondant_loop_same_dtype": 1.25,
        "bf16_cosine_p1": 0.9995,
        "img_s": {
            "clip": 80,
            "clip_bound": 100,
            "clip_retrieval": 20,
            "clip_fondant_loop": 10,
            "caption": 2.5,
            "caption_bound": 4,
            "caption_fondant_loop": 1,
            "caption_fondant_loop_same_dtype": 2,
        },
    }


def test_the_quick_plan_measures_the_same() -> None:
    assert set(quick(CPU).images) == set(CPU.images)
    assert quick(CPU).pictures == 12
    assert CPU.pictures == 1024


def test_lengths_of_captions() -> None:
    lengths = [caption_lengths.length(number) for number in range(1_000)]
    assert (min(lengths), max(lengths)) == (5, 20)
    assert 12 < sum(lengths) / 1_000 < 13
    greys = [caption_lengths.grey(words) for words in range(5, 21)]
    assert (greys[0], greys[-1]) == (0, 255)
    assert min(lighter - grey for grey, lighter in itertools.pairwise(greys)) == 17

    captions = [" ".join(["word"] * words) for words in lengths[:3]]
    caption_lengths.require(captions)
    with pytest.raises(RuntimeError, match=f"picture 2 is to have {lengths[2]} words: 'word"):
        caption_lengths.require([*captions[:2], captions[2] + " more"])


@pytest.fixture
def contender_of(tmp_path: Path) -> Callable[[str], Contender]:
    """A contender whose `measure` has this body."""
    numbers = itertools.count()

    def made(body: str) -> Contender:
        # A folder for each: one that has just been started may not have read its script yet.
        folder = tmp_path / f"contender-{next(numbers)}"
        folder.mkdir()
        script = folder / "contender.py"
        script.write_text(_CONTENDER.format(body=body))
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}"\n')
        python.chmod(0o755)
        return Contender("model_ours", python=python, environment={"PYTHONPATH": str(PROJECT)})

    return made


def test_the_best_of_the_trials_is_the_bound(
    contender_of: Callable[[str], Contender], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class OfScripts(Benchmark):
        """With contenders that are as fast as they say."""

        def _contender(self, module: str) -> Contender:
            return contender_of(
                "if question.get('how') == 'compiled': time.sleep(600)\n"
                "    rate = {4: 10, 8: 40, 16: 20}.get(question.get('batch'), 5)\n"
                "    rate *= 0.5 if question.get('how') == 'channels-last' else 1\n"
                "    return {'seconds': count / rate, 'precision': 'bfloat16', 'bf16_cosine_p1': 0.9995}"
            )

    plan = replace(quick(CPU), batches=dict.fromkeys(("clip", "caption"), (4, 8, 16)), compile_s=0.5, runs=2)
    python = tmp_path / "nothing"
    measured = OfScripts(plan, tmp_path, tmp_path, "cpu", python, versions(python)).measure()
    fastest = {"precision": "bfloat16", "batch": 8, "how": "eager"}
    assert measured["chosen"] == {
        "clip_bound": {"what": "clip", **fastest},
        "caption_bound": {"what": "caption", **fastest},
    }
    assert measured["trials"]["clip bound, channels-last, batches of 8"] == 20
    assert "did not do" in measured["trials"]["clip bound, compiled, batches of 8"]
    assert {name: len(runs) for name, runs in measured["runs"].items()} == dict.fromkeys(ALL - PEERS, 2)

    figures = summary("cpu", measured)
    assert [name for name in KEYS if figures[name] is None] == OF_PEERS
    assert figures["clip_bound_share"] == 5 / 40
    said = capsys.readouterr().out
    for absent in ("clip-retrieval", "transformers 4"):
        assert f"absent {absent}: {python} has none: run `make setup-clip-retrieval`" in said


def test_a_contender_answers_whatever_its_libraries_print(contender_of: Callable[[str], Contender]) -> None:
    with contender_of(
        'print("loading"); os.system("echo warning"); return {"seconds": count / 2}'
    ) as contender:
        assert contender.ask(count=1) == {"seconds": 0.5}
        assert contender.ask(count=3) == {"seconds": 1.5}


def test_a_contender_that_fails_says_why(contender_of: Callable[[str], Contender]) -> None:
    with contender_of('raise ValueError("no such model")') as contender:
        for _ in range(2):  # it goes on
            with pytest.raises(ContenderError, match=r"(?s)model_ours failed at {'count': 1}.*no such model"):
                contender.ask(count=1)


def test_a_contender_that_ends_says_what_it_said(contender_of: Callable[[str], Contender]) -> None:
    with contender_of(
        'print("killed for memory", file=sys.stderr); sys.stderr.flush(); os._exit(1)'
    ) as contender:
        for _ in range(2):
            with pytest.raises(
                ContenderError, match=r"(?s)model_ours ended at {'count': 1}.*killed for memory"
            ):
                contender.ask(count=1)


def test_a_contender_that_takes_too_long_is_ended(contender_of: Callable[[str], Contender]) -> None:
    with contender_of("time.sleep(600)") as contender:
        with pytest.raises(ContenderError, match=r"did not do {'count': 1} in 0 s"):
            contender.ask(0.2, count=1)
        assert contender._process.poll() is not None
