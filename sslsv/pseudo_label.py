"""Train on clusters instead of labels: `sslsv pseudo_label CONFIG [init=RUN] [key=value ...]`.

Each round embeds and clusters all training utterances, then trains a supervised run with the clusters as
speakers. The next round uses that run's embeddings. Repeat the command to continue an interrupted loop.
"""

import argparse
import contextlib
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsv.config import changes_of, to_yaml
from sslsv.evaluation.arguments import run_command
from sslsv.settings import ConfigError, apply_overrides, build, command_name, parse_yaml, require_file
from sslsv.tasks.pseudo_labels import PseudoLabelConfig, first_config, is_config_file, load_loop, stages_of

if TYPE_CHECKING:  # needs PyTorch, which functions import only after the settings are checked
    from sslsv.runs.folder import RunFolder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog=command_name("pseudo_label"), description="Train without labels.")
    add = parser.add_argument
    add("config", nargs="?", type=Path, help="a yaml file, such as configs/pseudo_label/dlg_lc.yml")
    add("overrides", nargs="*", metavar="key=value", help="settings to change, such as init=runs/dino")
    add("--fresh", action="store_true", help="start from the beginning; an existing loop is renamed")
    options = parser.parse_intermixed_args(arguments)
    return run_command(run, options, "the same command goes on")


def run(options: argparse.Namespace) -> int:
    """Run the remaining stages and print each; raises ValueError or OSError at the start, `Failed` later."""
    file = require_file(options.config, "config", "configs/pseudo_label/dlg_lc.yml")
    config = load_loop(file, options.overrides)
    from sslsv.evaluation.trials import digest_of_lists
    from sslsv.runs.folder import RunFolder, only_command_on

    folder = RunFolder(config.run.storage, str(config.run.name))
    with only_command_on(folder):
        check_request(config)
        lists = digest_of_lists(config)
        if not options.fresh:
            check_folder(folder, config, lists)

        from sslsv import train
        from sslsv.cluster.connect import connection
        from sslsv.reports.rounds import round_line, write_rounds_report
        from sslsv.tasks.rounds import Loop

        def report_round(record: dict[str, Any]) -> None:
            print(round_line(record), flush=True)
            with contextlib.suppress(OSError):  # the loop itself reports a full disk
                write_rounds_report(folder)

        with connection(config.resources) as resources:
            apply_overrides(config, {"resources.gpu": resources.gpu})  # refuses fp16 without a GPU
            if options.fresh and folder.kind():
                print(f"the old folder is now named {folder.set_aside()}", file=sys.stderr)
            elif folder.has("loop.yml"):
                print(f"going on with the unfinished loop in {folder.location}", file=sys.stderr)
            folder.write_json("lists.json", {"sha256": lists})
            folder.write("loop.yml", to_yaml(config).encode())
            summary = Loop(config, folder, train.run).run(report_round)
            write_rounds_report(folder)
    print(f"best: {summary['run']}\nreport: {folder.location}/report.html")
    return 0


def check_folder(folder: "RunFolder", config: PseudoLabelConfig, lists: str) -> None:
    """Raise ValueError if the folder holds anything but an unfinished loop with these settings and lists."""
    kind = folder.kind()
    problem = f"holds a {kind}" if kind else ""
    if folder.has("loop.yml"):
        problem = "holds a finished loop of the same settings" if folder.has("summary.json") else ""
        try:
            old = build(PseudoLabelConfig, parse_yaml(folder.read("loop.yml").decode()))
        except ConfigError as error:
            problem = f"holds a loop whose loop.yml this version can't read ({error})"
        else:
            changes = changes_of(old, config)
            problem = f"holds a loop with other settings ({'; '.join(changes)})" if changes else problem
    if not problem and folder.has("lists.json") and folder.read_json("lists.json")["sha256"] != lists:
        problem = "holds a loop whose train lists had other contents"
    if problem:
        raise ValueError(
            f"{folder.location} {problem}; use another run.name, or --fresh to start anew (the old one is "
            "kept under another name)"
        )


def check_request(config: PseudoLabelConfig) -> None:
    """Check the lists, the settings of every stage and the first encoder; raises ValueError or OSError."""
    from sslsv.data.lists import read_train_lists
    from sslsv.evaluation.speaker_encoder import SpeakerEncoder
    from sslsv.evaluation.trials import find_list
    from sslsv.runs.folder import absolute
    from sslsv.tasks.clustering import check_packages
    from sslsv.train import check_data
    from sslsv.training.initial import check_same_encoder

    check_packages(config.clustering)
    stages, start = list(chain(*stages_of(config))), config.encoders_start_from
    if is_config_file(config.init):
        first = first_config(config, ".")
        source = f"encoders_start_from is {start!r} and init {config.init}"
        for stage in stages if start != "nothing" else ():
            check_same_encoder(source, first.encoder, stage.encoder)
        check_data(first)
    elif start == "nothing":
        SpeakerEncoder.load(config.init, device="cpu")
    if start != "nothing":  # refuses stages whose encoder can't start from another
        stages = [apply_overrides(each, {"encoder.init": absolute(config.init)}) for each in stages]
    # Check only the stage with the largest batch among stages with the same data, encoder and evaluation.
    stages.sort(key=lambda stage: stage.train.batch_size)
    distinct = {repr((stage.data, stage.encoder, stage.evaluation)): stage for stage in stages}
    is_pending = is_config_file(config.init) and start != "nothing"  # the run of `init` has no weights yet
    manifest, *_ = [check_data(stage, is_resumed=is_pending) for stage in distinct.values()]
    size, most = len(manifest), max(config.clustering.num_clusters)
    if config.clustering.name.startswith("kmeans") and size < most:
        raise ValueError(f"clustering.num_clusters is {most}, but there are only {size} utterances: lower it")
    if config.labels is not None:
        labelled = read_train_lists(config.data.root, [find_list(config.data.root, config.labels)])
        if set(manifest.paths).isdisjoint(labelled.paths):
            raise ValueError(
                f"labels is {config.labels}, which has no path in common with data.train_lists (such as "
                f"{manifest.paths[0]}): give a list with the same paths"
            )


if __name__ == "__main__":
    sys.exit(main())
