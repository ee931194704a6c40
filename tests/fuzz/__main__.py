"""`make fuzz`: bad input for every parser, coverage-guided, each in a process of its own, for so long.

    python -m tests.fuzz --seconds 60 [--target NAME] [--folder .fuzz]

Prints a table and one line of JSON, and ends with 1 if anything was found. Every input that broke a promise is kept
below FOLDER and printed in base64, to become a file in `tests/fuzz/regressions`.
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.fuzz.targets import targets

GRACE_SECONDS = 60.0
PRINTED_BYTES_LIMIT = 3_000
console = Console(stderr=True)

_PROGRESS = re.compile(rb"^#(\d+)\s.*?\bcov: (\d+)(?: ft: (\d+))?", re.MULTILINE)
_ENDED = re.compile(rb"ERROR: libFuzzer: ([a-z -]+)")


def main() -> int:
    """Run every target that was asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="bad input for every parser")
    parser.add_argument("--seconds", type=float, default=60, help="how long each target is fuzzed")
    parser.add_argument("--target", action="append", choices=[*targets()], help="only this one; may be repeated")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help="where corpus and findings are kept")
    options = parser.parse_args()
    figures = []
    for name in options.target or targets():
        console.print(f"[dim]{name} …[/dim]")
        figures.append(_run(name, options.seconds, options.folder.resolve() / name.replace(":", "-")))
    _show(figures)
    machine = {"python": platform.python_version(), "processor": _processor(), "seconds_each": options.seconds}
    sys.stdout.buffer.write(orjson.dumps({"machine": machine, "targets": figures}) + b"\n")
    return 1 if any(each["findings"] for each in figures) else 0


def _run(name: str, seconds: float, folder: Path) -> Mapping[str, Any]:
    """Fuzz one target; a process that an input killed has found something, too."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "figures.json"
    kept.unlink(missing_ok=True)
    for old in (folder / "findings").glob("*"):
        old.unlink()
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.fuzz.child", name, str(seconds), str(folder)]
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            status = child.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
    said = (folder / "log").read_bytes()
    figures: dict[str, Any] = {"target": name}
    if kept.exists():
        figures |= orjson.loads(kept.read_bytes())
    figures.setdefault("findings", [])
    if progress := _PROGRESS.findall(said):
        executions, edges, features = progress[-1]
        figures |= {"executions": int(executions), "edges": int(edges), "features": int(features or 0)}
    if status != 0:
        ended = _ENDED.search(said)
        inputs = [
            path.name for path in (folder / "findings").glob("*-*-*") if re.search(r"-(crash|timeout|oom)-", path.name)
        ]
        where = ended[1].decode() if ended else f"ended with status {status}, see {folder / 'log'}"
        figures["findings"].append({"where": where, "input": inputs[0] if inputs else ""})
    for each in figures["findings"]:
        _print_input(name, each, folder / "findings")
    return figures


def _print_input(name: str, finding: Mapping[str, str], folder: Path) -> None:
    console.print(f"[red]{name}: {finding['where']}[/red]", soft_wrap=True)
    path = folder / finding["input"]
    if finding["input"] and path.is_file():
        data = path.read_bytes()
        shown = base64.b64encode(data).decode() if len(data) <= PRINTED_BYTES_LIMIT else f"{len(data)} bytes"
        console.print(f"  {path}\n  {shown}", soft_wrap=True, highlight=False)


def _show(figures: Sequence[Mapping[str, Any]]) -> None:
    table = Table("target", "engine", title="fuzzing")
    for column in ("inputs", "acts", "refusals", "ended by limits", "edges", "features", "slowest s", "found"):
        table.add_column(column, justify="right")
    for each in figures:
        counts = [
            each.get(key, "") for key in ("executions", "acts", "refusals", "ended_by_limits", "edges", "features")
        ]
        shown = [f"{count:,}" if isinstance(count, int) else "" for count in counts]
        slowest = f"{each.get('slowest_cpu_seconds', 0):.3f}"
        table.add_row(each["target"], each.get("engine", ""), *shown, slowest, str(len(each["findings"])))
    console.print(table)


def _processor() -> str:
    with Path("/proc/cpuinfo").open() if os.path.exists("/proc/cpuinfo") else Path(os.devnull).open() as facts:  # noqa: PTH110
        model = re.search(r"(?m)^model name\s*:\s*(.+)$", facts.read())
    return f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
