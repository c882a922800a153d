"""Prepare data: `python -m sslsv.prepare_data demo DIR` writes a synthetic corpus to try everything on."""

import argparse
import sys

from sslsv.prepare_data.demo_corpus import DemoOptions, make_demo_corpus


def main(arguments: list[str] | None = None) -> int:
    """Run one preparation; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sslsv.prepare_data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="synthetic speakers, noises and rooms in VoxCeleb's layout")
    demo.add_argument("folder", help="where to write it; becomes data.root")
    defaults = DemoOptions()
    demo.add_argument(
        "--speakers", type=int, default=defaults.speakers, help="training speakers (%(default)s)"
    )
    demo.add_argument(
        "--eval-speakers", type=int, default=defaults.eval_speakers, help="of trials (%(default)s)"
    )
    demo.add_argument(
        "--recordings", type=int, default=defaults.recordings, help="of a speaker (%(default)s)"
    )
    demo.add_argument(
        "--utterances", type=int, default=defaults.utterances, help="of a recording (%(default)s)"
    )
    demo.add_argument(
        "--seed", type=int, default=defaults.seed, help="the same seed, the same bits (%(default)s)"
    )
    given = parser.parse_args(arguments)
    try:
        options = DemoOptions(
            speakers=given.speakers,
            eval_speakers=given.eval_speakers,
            recordings=given.recordings,
            utterances=given.utterances,
            seed=given.seed,
        )
        is_new = make_demo_corpus(given.folder, options)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    state = "is written" if is_new else "is there already, with the same options"
    print(f"{given.folder}: the demo corpus {state}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
