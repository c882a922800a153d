"""Write a synthetic corpus in VoxCeleb's layout, to try everything on without a download."""

import argparse

from sslsv.prepare_data.demo_corpus import DemoOptions, make_demo_corpus


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `prepare_data demo` takes."""
    defaults = DemoOptions()
    parser.add_argument("folder", help="where to write it; becomes data.root")
    parser.add_argument(
        "--speakers", type=int, default=defaults.speakers, help="training speakers (%(default)s)"
    )
    parser.add_argument(
        "--eval-speakers", type=int, default=defaults.eval_speakers, help="of trials (%(default)s)"
    )
    parser.add_argument(
        "--recordings", type=int, default=defaults.recordings, help="of a speaker (%(default)s)"
    )
    parser.add_argument(
        "--utterances", type=int, default=defaults.utterances, help="of a recording (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="the same seed, the same bits (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the corpus, unless the same one is there already."""
    chosen = DemoOptions(
        speakers=options.speakers,
        eval_speakers=options.eval_speakers,
        recordings=options.recordings,
        utterances=options.utterances,
        seed=options.seed,
    )
    is_new = make_demo_corpus(options.folder, chosen)
    state = "is written" if is_new else "is there already, with the same options"
    print(f"{options.folder}: the demo corpus {state}.")
    return 0
