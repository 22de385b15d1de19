"""`python -m benchmarks.models`: how fast images are embedded and captioned, against the models alone and against other programs.

CLIP ViT-B/32 (with `--device cuda` ViT-L/14) and BLIP base, at full size and with random weights, get JPEGs of 512 x 512 px
(`benchmarks.model_folders`). What is compared takes turns, three of each (`--runs`), so that a machine that is busy for a while
slows down all; each is a process of its own that has loaded its model (`benchmarks.turns`):

    ours            the stages of `seed_embeddings` and `image_captions`, from a Parquet table to a committed one, with default
                    settings, in the number format that is ours for the device (`benchmarks.model_ours`)
    bound           the model alone, on tensors that lie ready on the device, in the same number format: eager, with channels
                    last or compiled, and with the batch size, that were the fastest in trials before (`benchmarks.model_bound`)
    clip-retrieval  `clip-retrieval inference` 2.45, from files to its own, with those of some options that were the fastest in
                    trials; as it comes, and in our number format (`benchmarks.model_clip_retrieval`)
    pipeline        transformers' pipeline `image-to-text` (of 4.57: 5 has none), from files to Parquet, with the number format
                    and options that were the fastest in trials (`benchmarks.model_pipeline`)
    loop            as the components of Fondant do it: pictures preprocessed one by one, batches of 8, float32; captions in
                    our number format, too (`benchmarks.model_loop`)

Random weights do not end a caption: each picture says how many words its caption has, 5 to 20 (`benchmarks.caption_lengths`), and
that holds for all. A run in which an image fails, or a caption has another length, ends the benchmark. Not counted are the
start of processes, imports, loading, and a first batch. How many images a run has differs, so that all take about as long.

Prints a line a trial and a run, a line `detail` with all that was measured, and one JSON line last; ratios are medians of the
runs, each of ours over what ran beside it:

    device                              where the models ran
    clip_bound_share                    ours over the bound
    clip_vs_clip_retrieval              ours over clip-retrieval as it comes
    clip_vs_clip_retrieval_same_dtype   ours over clip-retrieval in our number format
    clip_vs_fondant_loop                ours over the loop
    caption_bound_share, caption_vs_pipeline, caption_vs_fondant_loop, caption_vs_fondant_loop_same_dtype    likewise
    bf16_cosine_p1                      of our embeddings in bfloat16 and in float32: 1st percentile of the cosines
    img_s                               images a second, medians, by what ran

Goals on two CPU cores: bound shares of 0.95, clip-retrieval 1.2 and 1.05, loops of captions 1.8 and 1.05, the pipeline 1.05, a
cosine of 0.999. On an H100: 0.9 of the bound for CLIP, captions 6 times the loop and 3 times the pipeline.

clip-retrieval and the pipeline run in the environment of `make setup-clip-retrieval` (`--python`). Where that is missing it is
said, and what depends on them is null. Dagster is not needed: on a bare machine with a GPU torch, open_clip, transformers and
what sd_assets reads and decodes with are enough. The default run is made to take less than 30 minutes on two cores, and less
than 10 on an H100; models and pictures are kept in `--folder`. This process itself loads the standard library only.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.turns import PROJECT, Contender, ContenderError

# Where `make setup-clip-retrieval` puts it.
PYTHON = PROJECT / ".venv-clip-retrieval" / "bin" / "python"

Measured = dict[str, Any]
# Its name, who does it, and the question.
Turn = tuple[str, Contender, Measured]
_WARM_UP = 2  # pictures, for what has no trial


@dataclass(frozen=True)
class Plan:
    """How much is measured on a device.

    Attributes:
        clip: the architecture, as open_clip names it.
        images: of a run, by what runs; `half` in 16 bits, `full` in float32.
        trial_images: likewise, of a trial.
        agreement: images whose embeddings are compared.
        batches: of the bound, by model.
        clip_retrieval: `batch_size` and `num_prepro_workers` to try; the first are the defaults.
        pipeline: batch sizes to try.
        pipeline_workers: to try with the best of them, besides none.
        compile_s: seconds after which compiling is given up; 0: it is not tried.
        runs: of each.
    """

    clip: str
    images: Mapping[str, int]
    trial_images: Mapping[str, int]
    agreement: int
    batches: Mapping[str, Sequence[int]]
    clip_retrieval: Sequence[tuple[int, int]]
    pipeline: Sequence[int]
    pipeline_workers: int
    compile_s: float
    runs: int = 3

    @property
    def pictures(self) -> int:
        """That are needed."""
        return max(*self.images.values(), *self.trial_images.values(), self.agreement)


CPU = Plan(
    clip="ViT-B-32",
    images={
        "clip": 1024,
        "clip_bound": 1024,
        "clip_retrieval": 320,
        "clip_retrieval_same_dtype": 768,
        "clip_fondant_loop": 256,
        "caption": 96,
        "caption_bound": 96,
        "pipeline": 48,
        "caption_fondant_loop": 24,
        "caption_fondant_loop_same_dtype": 48,
    },
    trial_images={"clip": 256, "caption": 32, "clip_retrieval": 256, "pipeline": 16},
    agreement=512,
    batches={"clip": (16, 32, 64, 128), "caption": (4, 8, 16, 32)},
    clip_retrieval=((256, 4), (64, 2), (32, 2)),
    pipeline=(1, 8, 16),
    pipeline_workers=1,
    compile_s=150,
)
CUDA = Plan(
    clip="ViT-L-14",
    images={
        "clip": 16_384,
        "clip_bound": 16_384,
        "clip_retrieval": 4_096,
        "clip_retrieval_same_dtype": 4_096,
        "clip_fondant_loop": 768,
        "caption": 3_072,
        "caption_bound": 3_072,
        "pipeline": 512,
        "caption_fondant_loop": 256,
        "caption_fondant_loop_same_dtype": 256,
    },
    trial_images={"clip": 4_096, "caption": 512, "clip_retrieval": 2_048, "pipeline": 256},
    agreement=2_048,
    batches={"clip": (64, 128, 256, 512), "caption": (32, 64, 128, 256)},
    clip_retrieval=((256, 4), (256, 8), (256, 16)),
    pipeline=(8, 64, 128),
    pipeline_workers=8,
    compile_s=150,
)


def quick(plan: Plan) -> Plan:
    """With tiny models and few images, for a test."""
    return replace(
        plan,
        clip="tiny",
        images=dict.fromkeys(plan.images, 12),
        trial_images=dict.fromkeys(plan.trial_images, 8),
        agreement=12,
        batches={"clip": (4,), "caption": (4,)},
        clip_retrieval=((8, 0),),
        pipeline=(4,),
        pipeline_workers=0,
        compile_s=0,
        runs=1,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--runs", type=int, help="of each; default 3")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sd_assets-benchmark-models",
        help="where models and pictures are kept, and where there is room for tables",
    )
    parser.add_argument("--python", type=Path, default=PYTHON, help="that has clip-retrieval, transformers 4")
    parser.add_argument("--quick", action="store_true", help="tiny models, one run: for tests")
    options = parser.parse_args(arguments)
    plan = CPU if options.device == "cpu" else CUDA
    plan = quick(plan) if options.quick else plan
    plan = replace(plan, runs=options.runs or plan.runs)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder / f"{plan.clip}-{plan.pictures}"
    made = last_line(sys.executable, "-m", "benchmarks.model_folders", folder, plan.clip, plan.pictures)
    print("folder", json.dumps(made), flush=True)
    about = machine(options.device, options.python)
    print("machine", json.dumps(about), flush=True)
    device = "cpu" if options.device == "cpu" else "cuda:0"  # of several GPUs one, as the others use one
    with tempfile.TemporaryDirectory(prefix="runs-", dir=options.folder) as room:
        benchmark = Benchmark(plan, folder, Path(room), device, options.python, about["peers"])
        measured = benchmark.measure()
    print("detail", json.dumps({"folder": made, "machine": about, **measured}))
    print(json.dumps(summary(about["device"], measured)), flush=True)


def summary(device: str, measured: Mapping[str, Any]) -> Measured:
    """The figures: see the module.

    Args:
        device: its name.
        measured: `runs`, by what ran, each with its `rate`; `bf16_cosine_p1`.
    """
    rates = {name: [run["rate"] for run in runs] for name, runs in measured["runs"].items()}

    def ratio(ours: str, other: str) -> float | None:
        pairs = zip(rates[ours], rates.get(other, ()), strict=other in rates)
        ratios = [our_rate / other_rate for our_rate, other_rate in pairs]
        return round(statistics.median(ratios), 3) if ratios else None

    return {
        "device": device,
        "clip_bound_share": ratio("clip", "clip_bound"),
        "clip_vs_clip_retrieval": ratio("clip", "clip_retrieval"),
        "clip_vs_clip_retrieval_same_dtype": ratio("clip", "clip_retrieval_same_dtype"),
        "clip_vs_fondant_loop": ratio("clip", "clip_fondant_loop"),
        "caption_bound_share": ratio("caption", "caption_bound"),
        "caption_vs_pipeline": ratio("caption", "pipeline"),
        "caption_vs_fondant_loop": ratio("caption", "caption_fondant_loop"),
        "caption_vs_fondant_loop_same_dtype": ratio("caption", "caption_fondant_loop_same_dtype"),
        "bf16_cosine_p1": measured["bf16_cosine_p1"],
        "img_s": {name: round(statistics.median(those), 2) for name, those in rates.items()},
    }


class Benchmark:
    """Trials and runs, of CLIP and then of the captioner.

    Args:
        plan: how much.
        folder: of the models and pictures.
        room: a folder for what is written meanwhile.
        device: of torch.
        python: of the environment of the peers.
        peers: the versions there, by package; of what is not there, none.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        room: Path,
        device: str,
        python: Path,
        peers: Mapping[str, str],
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._environment = environment(device, room)
        self._device = device
        self._python = python
        self._peers = peers
        self._tried: dict[str, float | str] = {}
        self._chosen: dict[str, Measured] = {}
        self._runs: dict[str, list[Measured]] = {}

    def measure(self) -> Measured:
        """All of it: see the module."""
        with ExitStack() as stack:
            own = [
                stack.enter_context(self._contender(module))
                for module in ("model_ours", "model_bound", "model_loop")
            ]
            agreement = self._clip(*own)
            self._captions(*own)
        spread = {
            name: [pick(run["rate"] for run in runs) for pick in (min, max)]
            for name, runs in self._runs.items()
        }
        return {
            **agreement,
            "spread": spread,
            "chosen": self._chosen,
            "trials": self._tried,
            "runs": self._runs,
        }

    def _clip(self, ours: Contender, bound: Contender, loop: Contender) -> Measured:
        """The trials and runs of CLIP. Returns how near bfloat16 is to float32."""
        dtype = ours.ask(what="clip", count=self._plan.trial_images["clip"])["precision"]
        turns: list[Turn] = [("clip", ours, {"what": "clip"})]
        turns.append(("clip_bound", bound, self._best_bound(bound, "clip", dtype)))
        with ExitStack() as stack:
            if "clip-retrieval" in self._peers:
                peer = stack.enter_context(self._peer("model_clip_retrieval"))
                for name, precision in (("clip_retrieval", None), ("clip_retrieval_same_dtype", dtype)):
                    turns.append((name, peer, self._best_clip_retrieval(peer, name, precision)))
            else:
                self._tell_absent("clip-retrieval")
            question: Measured = {"what": "clip", "precision": "float32"}
            loop.ask(**question, count=_WARM_UP)
            turns.append(("clip_fondant_loop", loop, question))
            self._take_turns(turns)
        return ours.ask(what="agreement", count=self._plan.agreement)

    def _captions(self, ours: Contender, bound: Contender, loop: Contender) -> None:
        """The trials and runs of the captioner."""
        dtype = ours.ask(what="caption", count=self._plan.trial_images["caption"])["precision"]
        turns: list[Turn] = [("caption", ours, {"what": "caption"})]
        turns.append(("caption_bound", bound, self._best_bound(bound, "caption", dtype)))
        with ExitStack() as stack:
            if self._peers.get("transformers", "").startswith("4."):
                peer = stack.enter_context(self._peer("model_pipeline", self._device))
                turns.append(("pipeline", peer, self._best_pipeline(peer, dtype)))
            else:
                self._tell_absent("transformers 4")
            for name, precision in (
                ("caption_fondant_loop", "float32"),
                ("caption_fondant_loop_same_dtype", dtype),
            ):
                question: Measured = {"what": "caption", "precision": precision}
                loop.ask(**question, count=_WARM_UP)
                turns.append((name, loop, question))
            self._take_turns(turns)

    def _tell_absent(self, what: str) -> None:
        print(f"absent {what}: {self._python} has none: run `make setup-clip-retrieval`", flush=True)

    def _take_turns(self, turns: Sequence[Turn]) -> None:
        for _ in range(self._plan.runs):
            for name, contender, question in turns:
                run = self._rated(contender, question, self._plan.images[name])
                self._runs.setdefault(name, []).append(run)
                print(f"{name:<34} {json.dumps(run)}", flush=True)

    def _best_bound(self, contender: Contender, what: str, dtype: str) -> Measured:
        """How the model alone is the fastest."""

        def question(batch: int, how: str) -> Measured:
            return {"what": what, "precision": dtype, "batch": batch, "how": how}

        rates: dict[tuple[int, str], float] = {}

        def attempt(asked: Contender, batch: int, how: str, limit_s: float | None = None) -> None:
            name = f"{what} bound, {how}, batches of {batch}"
            count = self._plan.trial_images[what]
            rates[batch, how] = self._try(name, asked, question(batch, how), count, limit_s)

        for batch in self._plan.batches[what]:
            attempt(contender, batch, "eager")
        best, _ = max(rates, key=rates.__getitem__)
        attempt(contender, best, "channels-last")
        if self._plan.compile_s:
            with self._contender("model_bound") as alone:  # which is ended if it takes too long
                attempt(alone, best, "compiled", self._plan.compile_s)
        self._chosen[f"{what}_bound"] = question(*max(rates, key=rates.__getitem__))
        return self._chosen[f"{what}_bound"]

    def _best_clip_retrieval(self, peer: Contender, name: str, precision: str | None) -> Measured:
        """With which of the options it is the fastest."""
        rates: dict[tuple[int, int], float] = {}
        count = self._plan.trial_images["clip_retrieval"]
        for batch, workers in self._plan.clip_retrieval:
            question = {"precision": precision, "batch": batch, "workers": workers}
            tried = f"{name}, batches of {batch}, {workers} workers"
            rates[batch, workers] = self._try(tried, peer, question, count)
        batch, workers = max(rates, key=rates.__getitem__)
        self._chosen[name] = {"precision": precision, "batch": batch, "workers": workers}
        return self._chosen[name]

    def _best_pipeline(self, peer: Contender, dtype: str) -> Measured:
        """With which number format and options it is the fastest."""
        rates: dict[tuple[str | None, int, int], float] = {}
        count = self._plan.trial_images["pipeline"]

        def attempt(precision: str | None, batch: int, workers: int) -> None:
            question = {"precision": precision, "batch": batch, "workers": workers}
            tried = f"pipeline, {precision or 'as it comes'}, batches of {batch}, {workers} workers"
            rates[precision, batch, workers] = self._try(tried, peer, question, count)

        for precision in (None, dtype):
            for batch in self._plan.pipeline:
                attempt(precision, batch, 0)
        precision, batch, _ = max(rates, key=rates.__getitem__)
        if self._plan.pipeline_workers:
            attempt(precision, batch, self._plan.pipeline_workers)
        precision, batch, workers = max(rates, key=rates.__getitem__)
        self._chosen["pipeline"] = {"precision": precision, "batch": batch, "workers": workers}
        return self._chosen["pipeline"]

    def _try(
        self,
        name: str,
        contender: Contender,
        question: Measured,
        count: int,
        limit_s: float | None = None,
    ) -> float:
        """Images a second; 0 if it was not done in `limit_s` seconds, or then failed."""
        rate: float = 0
        result: float | str
        try:
            rate = result = self._rated(contender, question, count, limit_s)["rate"]
        except ContenderError as error:
            if limit_s is None:
                raise
            result = str(error).strip().splitlines()[-1]
        self._tried[name] = result
        print(f"tried  {name:<60} {result}", flush=True)
        return rate

    def _rated(
        self, contender: Contender, question: Measured, count: int, limit_s: float | None = None
    ) -> Measured:
        """What was measured, with images a second, `rate`."""
        answer = {"count": count, **contender.ask(limit_s, **question, count=count)}
        return {
            **answer,
            "seconds": round(answer["seconds"], 3),
            "rate": round(answer["count"] / answer["seconds"], 3),
        }

    def _contender(self, module: str) -> Contender:
        return Contender(module, self._folder, self._device, environment=self._environment)

    def _peer(self, module: str, *arguments: object) -> Contender:
        return Contender(module, self._folder, *arguments, python=self._python, environment=self._environment)


def environment(device: str, room: Path) -> dict[str, str]:
    """Of a process that has no Hub to ask, writes to `room`, and sees no GPU if it is to use none."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    room = room.absolute()
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TMPDIR": str(room), **hidden}


def machine(device: str, python: Path) -> Measured:
    """What the figures depend on besides the code."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    name = "cpu"
    if device != "cpu":
        name = last_line(
            sys.executable, "-c", "import json, torch; print(json.dumps(torch.cuda.get_device_name(0)))"
        )
    return {
        "device": name,
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "ours": versions(Path(sys.executable)),
        "peers": versions(python),
    }


def versions(python: Path) -> dict[str, str]:
    """Of what an environment has of the packages that matter; of one that is not there, none."""
    if not python.exists():
        return {}
    names = ("clip-retrieval", "open-clip-torch", "torch", "torchvision", "transformers", "pyarrow", "pillow")
    code = (
        "import json; from importlib.metadata import version, distributions; "
        f"there = {{it.metadata['Name'].lower().replace('_', '-') for it in distributions()}}; "
        f"print(json.dumps({{name: version(name) for name in {names} if name in there}}))"
    )
    found: dict[str, str] = last_line(python, "-c", code)
    return found


def last_line(*command: object) -> Any:
    """What the last line of a program says, as JSON. Raises RuntimeError if it failed, with all that it said."""
    done = subprocess.run(list(map(str, command)), cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
