"""Write the page of a sweep from the files of its folder."""

import csv
import io

from sslsv.reports.page import page, section, table
from sslsv.runs.folder import RunFolder


def write_sweep_report(folder: RunFolder) -> None:
    """Write report.html from results.csv; it may be written anew at any time."""
    text = folder.read("results.csv").decode() if folder.has("results.csv") else ""
    header, *rows = [*csv.reader(io.StringIO(text)), []][:-1] or [[]]
    folder.write("report.html", page(f"Sweep {folder.name}", section("Trials", table(header, rows))).encode())
