"""Compare what configs learn in the same time.  python -m benchmarks.learning --corpus DIR --out FILE.jsonl

Trains configs for `--minutes` each (default: those of configs/corpus that start from no other run), evaluates
them, and prints two Markdown tables: the results, and how criteria without labels would have ranked the runs.
The minutes determine the number of steps. The time of a step is measured first, as CPU time and alternately
with the first config's step, so that other load has little effect. Results in FILE with the same threads and
overrides are not repeated, so the same command resumes after a stop. Use one FILE per corpus.
"""

import argparse
import json
import statistics
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.command import parser_of
from benchmarks.contestants import Contestant
from sslsv import registry
from sslsv.config import Config, load_config
from sslsv.data.stream import Plan
from sslsv.evaluation.trials import open_trial_sets
from sslsv.reports.sweep import LABEL_FREE, rank_criteria
from sslsv.runs.environment import describe_environment
from sslsv.settings import leaves_of, parse_yaml

ROUNDS = 5
PANELS_IN_A_ROW = 5
VALIDATIONS = 5  # per run, the last one at its end; each takes as long as about 15 steps
EPOCHS_OF = ("model.", "optimizer.schedule.")  # Their settings in epochs keep their share of a run.


def main() -> int:
    """Measure, train and evaluate everything that FILE does not hold yet; print the tables."""
    parser = parser_of("learning", __doc__)
    add = parser.add_argument
    add("overrides", nargs="*", metavar="key=value", help="settings of all trainings")
    add("--corpus", type=Path, required=True, metavar="DIR", help="data.root of all trainings")
    add("--out", type=Path, required=True, metavar="FILE.jsonl", help="results are appended to it")
    add("--configs", type=Path, nargs="+", metavar="FILE.yml", help="default: those of configs/corpus")
    add("--minutes", type=float, default=15.0, help="minutes of training, without validations (%(default)s)")
    add("--seeds", type=int, nargs="+", default=[1717], help="seeds; one run for each (%(default)s)")
    add("--threads", type=int, default=1, help="threads of the training process (%(default)s)")
    add("--step-ms", type=float, help="time of a step of the first config; default: measured")
    add("--storage", default="runs/learning", help="folder of the runs (%(default)s)")
    add("--curves", type=Path, metavar="FILE.svg", help="also draw validation EER over minutes there")
    args = parser.parse_intermixed_args()
    configs = args.configs or plain_configs(Path("configs/corpus"))
    configs.sort(key=lambda path: path.stem != "simclr")  # stable, so the rest keeps its order
    shared = {"threads": args.threads, "overrides": args.overrides}
    stored = [line for line in read(args.out) if shared.items() <= line.items()]
    try:
        plans = {path: plan_of(path, args) for path in configs}
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        times = step_times(plans, stored, args)
        for seed in args.seeds:  # all configs with the first seed, then all with the second
            for path, plan in plans.items():
                epochs = plan.epochs_in(args.minutes, times[path])
                run = {"config": str(path), "seed": seed, "epochs": epochs, **shared}
                if not any(run.items() <= line.items() and "tests" in line for line in stored):
                    result = {**run, "step_ms": times[path], **train_and_evaluate(path, plan, run, args)}
                    stored.append(result)
                    append(args.out, result)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    lines = [  # in the order of the configs; only with these minutes and seeds
        line
        for path, plan in plans.items()
        for line in stored
        if "tests" in line and line["config"] == str(path)
        if line["epochs"] == plan.epochs_in(args.minutes, times[path]) and line["seed"] in args.seeds
    ]
    without_labels = [line for line in lines if not plans[Path(line["config"])].needs_labels]
    print(table(lines), ranking(without_labels), sep="\n\n")
    if args.curves:
        draw_curves(lines, args.curves)
    return 0


def plain_configs(folder: Path) -> list[Path]:
    """Return the configs of a folder, except pseudo-label loops and configs that need another run."""
    files = {path: parse_yaml(path.read_text()) for path in sorted(folder.glob("*.yml"))}
    return [path for path, raw in files.items() if "init" not in raw and "init" not in raw.get("encoder", {})]


class RunPlan:
    """Hold the settings of a config's trainings without their length, and the number of steps per epoch."""

    def __init__(self, path: Path, overrides: list[str]) -> None:
        self.overrides = overrides
        self.config: Config = load_config(path, overrides)
        manifest = open_trial_sets(self.config)[0]
        self.num_utterances = len(manifest)
        train = self.config.train
        plan = Plan(len(manifest), train.batch_size, self.config.seed)
        self.steps_per_epoch = plan.steps_per_epoch
        self.needs_labels = registry.find("models", self.config.model.name).needs_labels

    def epochs_in(self, minutes: float, step_ms: float) -> int:
        """Return the number of epochs that fit into `minutes`, at least one."""
        return max(1, round(60_000 * minutes / step_ms / self.steps_per_epoch))

    def scaled(self, epochs: int) -> list[str]:
        """Return overrides for a run of `epochs`; settings in epochs (above 1) keep their share of it."""
        factor, overrides = epochs / self.config.train.epochs, [f"train.epochs={epochs}"]
        for key, value in leaves_of(asdict(self.config)):
            is_in_epochs = key.startswith(EPOCHS_OF) and key.endswith(("_epoch", "_epochs"))
            if is_in_epochs and isinstance(value, int | float) and value > 1:
                overrides.append(f"{key}={type(value)(max(1, round(value * factor)))}")
        return [*overrides, f"evaluation.every_epochs={max(1, epochs // VALIDATIONS)}"]


def plan_of(path: Path, args: argparse.Namespace) -> RunPlan:
    """Return the plan of a config with the settings of all runs here: one process, `--threads` threads."""
    return RunPlan(
        path,
        [
            f"data.root={args.corpus.resolve()}",
            "resources.workers=1",
            f"resources.threads_per_worker={args.threads}",
            "evaluation.test_every_epochs=0",
            "run.tensorboard=false",
            "run.wandb=disabled",
            "run.progress=false",
            *args.overrides,
        ],
    )


def step_times(
    plans: dict[Path, RunPlan], stored: list[dict[str, Any]], args: argparse.Namespace
) -> dict[Path, float]:
    """Return the milliseconds of a step of each config: from FILE, or the first config's times a ratio."""
    times = {Path(line["config"]): line["measured_ms"] for line in stored if "measured_ms" in line}
    first, *_ = plans
    if all(path in times for path in plans):
        return times
    with stepper(first, plans[first], args) as reference:
        if first not in times:
            measured = statistics.median(cpu_seconds(reference) for _ in range(2 * ROUNDS))
            store_time(first, args.step_ms or 1000 * measured / args.threads, times, args)
        for path, plan in plans.items():
            if path not in times:
                share = after = 0.0
                positives = getattr(plan.config.model, "positives", None)
                if positives is not None:  # SSPS costs time only from its first epoch on
                    share = 1 - positives.start_epoch / plan.config.train.epochs
                    after = ratio_of(path, plan, reference, args, "model.positives.start_epoch=0")
                before = ratio_of(path, plan, reference, args, *["model.positives=null"] * bool(positives))
                store_time(path, ((1 - share) * before + share * after) * times[first], times, args)
    return times


def stepper(path: Path, plan: RunPlan, args: argparse.Namespace, *more: str) -> Contestant:
    """Return a contestant that takes this config's steps."""
    return Contestant(
        "method_step",
        threads=args.threads,
        config=str(path),
        overrides=[*plan.overrides, *more],
        num_utterances=plan.num_utterances,
    )


def ratio_of(path: Path, plan: RunPlan, reference: Contestant, args: argparse.Namespace, *more: str) -> float:
    """Return the time of a step divided by the reference's: the median of alternating pairs."""
    with stepper(path, plan, args, *more) as ours:
        return statistics.median(cpu_seconds(ours) / cpu_seconds(reference) for _ in range(ROUNDS))


def cpu_seconds(stepper: Contestant) -> float:
    """Return the CPU seconds of a step, which other processes affect little."""
    stepper.run(1)
    return stepper.facts["cpu_seconds"]


def store_time(path: Path, step_ms: float, times: dict[Path, float], args: argparse.Namespace) -> None:
    """Store a measured time in `times` and in FILE."""
    times[path] = step_ms
    line = {"config": str(path), "measured_ms": step_ms}
    append(args.out, {**line, "threads": args.threads, "overrides": args.overrides})


def train_and_evaluate(
    path: Path, plan: RunPlan, run: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """Train and evaluate one run by the command line; return its results, or the error."""
    epochs, seed = run["epochs"], run["seed"]
    # The digest keeps runs with other settings apart.
    digest = f"{zlib.crc32(' '.join(plan.overrides).encode()):08x}"
    name = f"{path.parent.name}-{path.stem}-{epochs}x{plan.steps_per_epoch}-seed{seed}-{digest}"
    folder = Path(args.storage) / name
    settings = [
        *plan.overrides,
        *plan.scaled(epochs),
        f"seed={seed}",
        f"run.name={name}",
        f"run.storage={args.storage}",
    ]
    commands = [["evaluate", str(folder), "--norm", "as", "--no-calibration", "--workers", "1"]]
    if not (folder / "summary.json").exists():  # an earlier call may have been stopped during `evaluate`
        commands.insert(0, ["train", str(path), *settings])
    print(f"{name}: about {epochs * plan.steps_per_epoch} steps", file=sys.stderr, flush=True)
    for module, *arguments in commands:
        command = [sys.executable, "-m", f"sslsv.{module}", *arguments]
        completed = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if completed.returncode == 130:
            raise KeyboardInterrupt
        if completed.returncode:
            print(completed.stdout[-2000:], file=sys.stderr, flush=True)
            return {"error": f"sslsv.{module} ended with {completed.returncode}: {completed.stdout[-300:]}"}
    return numbers_of(folder)


def numbers_of(folder: Path) -> dict[str, Any]:
    """Return the results of a trained and evaluated run."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    steps = [record for record in records if "loss" in record]
    validations = [record for record in records if "eer" in record]
    summary = json.loads((folder / "summary.json").read_text())
    evaluation = json.loads((folder / "evaluation/evaluation.json").read_text())
    tests = {}
    for name, result in evaluation["lists"].items():
        scorings = {key: table["eer"] for key, table in result["scorings"].items()}
        as_norm = next(key for key in scorings if "as_norm" in key)
        tests[name] = {"eer": scorings["cosine"], "as_norm_eer": scorings[as_norm]}
    return {
        "commit": describe_environment().get("commit", ""),
        "run": str(folder),
        "steps": summary["last"]["step"],
        "minutes": summary["seconds"] / 60,
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "feature_std": steps[-1].get("batch_feature_std"),
        "validation": summary["best"],
        "validations": [
            {key: each[key] for key in ("step", "eer", *LABEL_FREE) if key in each} for each in validations
        ],
        "tests": tests,
    }


def table(lines: list[dict[str, Any]]) -> str:
    """Return the results as Markdown, a row per config and length; seeds as mean (minimum to maximum)."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["config"], line["epochs"]), []).append(line)
    lists = list(dict.fromkeys(name for line in lines for name in line["tests"]))
    header = ["config", "steps", "ms", "loss", "spread", "validation EER"]
    header += [text for name in lists for text in (f"{name} EER", "AS-norm")]
    rows = [header, ["---"] * len(header)]
    for (config, _), runs in groups.items():
        cells = [Path(config).stem, f"{runs[0]['steps']}", f"{runs[0]['step_ms']:.0f}"]
        cells.append(f"{mean(runs, 'first_loss'):.2f} to {mean(runs, 'last_loss'):.2f}")
        stds = [run["feature_std"] for run in runs if run["feature_std"] is not None]
        cells.append(f"{statistics.mean(stds):.2f}" if stds else "")
        cells.append(spread([run["validation"].get("value") for run in runs]))
        for name in lists:
            for kind in ("eer", "as_norm_eer"):
                errors = [run["tests"][name][kind] for run in runs if name in run["tests"]]
                cells.append(spread([each["value"] for each in errors], errors))
        rows.append(cells)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def ranking(lines: list[dict[str, Any]]) -> str:
    """Return a table of how criteria without labels rank the finished runs, against their validation EER.

    Runs are compared within a seed, because each seed holds out different speakers.
    """
    ends: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        ends.setdefault(line["seed"], []).append(line["validations"][-1])
    rows = ["| seed | criterion | runs | tau | regret, % EER |", "|---|---|---|---|---|"]
    for entry in rank_criteria(ends):
        tau = "" if entry["tau"] is None else f"{entry['tau']:.2f}"
        cells = f"{entry['criterion']} | {entry['trials']} | {tau} | {entry['regret']:.1f} |"
        rows.append(f"| {entry['epoch']} | {cells}")
    return "\n".join(rows)


def draw_curves(lines: list[dict[str, Any]], file: Path) -> None:
    """Draw a panel per config, worst last, with a curve per seed; the first config's curves are grey."""
    from matplotlib.figure import Figure

    groups: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(Path(line["config"]).stem, []).append(line)
    first, *_ = groups.values()
    names = sorted(groups, key=lambda name: mean([run["validation"] for run in groups[name]], "value"))
    num_rows = -(-len(names) // PANELS_IN_A_ROW)
    canvas = Figure(figsize=(2.1 * PANELS_IN_A_ROW, 1.5 * num_rows), layout="constrained")
    panels = canvas.subplots(num_rows, PANELS_IN_A_ROW, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, name in zip(panels, names, strict=False):
        for runs, color in ((first, "0.75"), (groups[name], "tab:blue")):
            for run in runs:
                minutes = [each["step"] * run["step_ms"] / 60_000 for each in run["validations"]]
                panel.plot(minutes, [each["eer"] for each in run["validations"]], color=color)
        panel.set_title(name, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[len(names) :]:
        panel.set_axis_off()
    canvas.supxlabel(f"minutes of training, threads: {lines[0]['threads']}", fontsize=8)
    canvas.supylabel("validation EER, %", fontsize=8)
    canvas.savefig(file, metadata={"Date": None})


def mean(runs: list[dict[str, Any]], key: str) -> float:
    """Return the mean of a number over runs."""
    return statistics.mean(run[key] for run in runs)


def spread(values: list[float | None], intervals: list[dict[str, float]] | None = None) -> str:
    """Format values of seeds as mean (minimum to maximum); a single seed with its interval over speakers."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return ""
    text = f"{statistics.mean(numbers):.1f}"
    if len(numbers) > 1:
        return f"{text} ({min(numbers):.1f} to {max(numbers):.1f})"
    if intervals and "low" in intervals[0]:
        text += f" ({intervals[0]['low']:.1f} to {intervals[0]['high']:.1f})"
    return text


def read(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, without an incomplete last line."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append(file: Path, line: dict[str, Any]) -> None:
    """Append a line; remove an incomplete last line first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = file.read_text() if file.exists() else ""
    if text and not text.endswith("\n"):
        file.write_text(text[: text.rfind("\n") + 1])
    with file.open("a") as opened:
        opened.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
