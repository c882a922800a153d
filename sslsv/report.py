"""Write the report of a run, sweep or loop, which may be unfinished or still running: `sslsv report RUN`."""

import argparse
import sys

from sslsv.evaluation.arguments import Parser, run_command
from sslsv.runs.folder import RunFolder, below, here
from sslsv.settings import command_name


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = Parser(prog=command_name("report"), description="Write the report of a run, sweep or loop.")
    parser.add_argument("run", help="the folder, such as runs/simclr or tune/vicreg; may be in use")
    return run_command(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Write the report and print its path; raises ValueError or OSError."""
    folder = RunFolder.at(options.run)
    if folder.has("sweep.json"):
        from sslsv.reports.sweep import write_sweep_report as write
    elif folder.has("loop.yml"):
        from sslsv.reports.rounds import write_rounds_report as write
    elif folder.has("config.yml"):
        from sslsv.reports.training import write_report as write
    else:
        raise ValueError(f"{folder.location} is no run, sweep or loop; give a folder such as runs/simclr")
    write(folder)
    print(f"report: {below(here(folder.location), 'report.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
