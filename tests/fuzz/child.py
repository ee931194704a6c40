"""The process that fuzzes one target: `python -m tests.fuzz.child TARGET SECONDS FOLDER`, started by `make fuzz`.

Below FOLDER it keeps `corpus` (inputs that reached something new), `findings` (an input for each way in which a promise
was broken) and `figures.json`. With `atheris` the inputs follow the coverage; without it, and for archives, they are
made from the sound ones by damage alone. Each archive is read in a process of its own with the limits of production:
that one may die, and then nothing of its document was taken.
"""

from __future__ import annotations

import hashlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from types import ModuleType

import orjson

MEMORY_BYTES = 3 << 30
INPUT_BYTES_LIMIT = 1 << 16
SECONDS_OF_ONE_INPUT = 15
ARCHIVE_SECONDS_LIMIT = 30.0
FIGURES_EVERY_SECONDS = 1.0
INSTRUMENTED = ["connectors", "schemas", "asm_daemon.decisions", "asm_daemon.mllp", "asm_daemon.problems",
                "asm_daemon.rules", "asm_daemon.web.bodies", "asm_daemon.web.thinning", "hl7", "csv"]  # fmt: skip
_ENDED_BY_LIMITS, _BROKEN, _SOUND = 65, 70, 0


@dataclass
class Figures:
    """What was done so far; written to `figures.json` about once a second."""

    engine: str
    executions: int = 0
    acts: int = 0
    refusals: int = 0
    ended_by_limits: int = 0
    slowest_cpu_seconds: float = 0.0
    slowest_bytes: int = 0
    largest_resident_mb: int = 0
    findings: list[dict[str, str]] = field(default_factory=list)


class Watch:
    """Feeds one target, counts, and keeps an input for each new way in which it fails."""

    def __init__(self, name: str, folder: Path, engine: str) -> None:
        from tests.fuzz import oracle, targets

        oracle.keyring()  # its files cannot be made in a process that may write none
        self._check = oracle.check
        self._check_results = oracle.check_results
        self.target = targets.targets()[name]
        self.figures = Figures(engine)
        self._folder = folder
        self._written = 0.0

    def feed(self, data: bytes) -> None:
        """One input; whatever it breaks is kept, and fuzzing goes on."""
        self.figures.executions += 1
        try:
            checked = self._check(self.target, data)
        except Exception as error:  # noqa: BLE001 - finding these is the purpose
            self._keep(data, error)
        else:
            self.figures.acts += checked.acts
            self.figures.refusals += checked.unreadable
            self._time(checked.cpu_seconds, len(data))
        self.write()

    def feed_archive(self, data: bytes) -> None:
        """One ZIP file, in a process with the limits of `connectors.__main__`."""
        self.figures.executions += 1
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            self._in_child(writing, data)
        os.close(writing)
        answer = _read_all(reading, child)
        _, status, used = os.wait4(child, 0)
        self._time(used.ru_utime + used.ru_stime, len(data))
        self.figures.largest_resident_mb = max(self.figures.largest_resident_mb, used.ru_maxrss >> 10)
        code = os.waitstatus_to_exitcode(status)
        if answer is None:
            self._keep(data, TimeoutError("an archive took longer than its time"))
        elif code == _BROKEN:
            self._keep(data, RuntimeError(answer.decode()))
        elif code == _SOUND:
            acts, refusals = map(int, answer.split())
            self.figures.acts += acts
            self.figures.refusals += refusals
        else:
            self.figures.ended_by_limits += 1
        self.write()

    def _in_child(self, writing: int, data: bytes) -> None:
        from connectors.__main__ import limit_resources, silence_standard_error

        code = _ENDED_BY_LIMITS
        try:
            silence_standard_error()
            limit_resources()
            results = list(self.target.read(data))
        except BaseException:  # noqa: BLE001 - as `connectors.__main__` does
            os._exit(code)
        try:
            self._check_results(results)
            acts = sum(hasattr(each, "kind") for each in results)
            os.write(writing, b"%d %d" % (acts, len(results) - acts))
            code = _SOUND
        except MemoryError:
            pass
        except BaseException as error:  # noqa: BLE001
            os.write(writing, _where(error)[:400].encode())
            code = _BROKEN
        os._exit(code)

    def _time(self, cpu_seconds: float, size: int) -> None:
        if cpu_seconds > self.figures.slowest_cpu_seconds:
            self.figures.slowest_cpu_seconds, self.figures.slowest_bytes = round(cpu_seconds, 4), size

    def _keep(self, data: bytes, error: BaseException) -> None:
        where = str(error) if isinstance(error, RuntimeError | TimeoutError) else _where(error)
        if any(each["where"] == where for each in self.figures.findings):
            return
        name = f"{self.target.name.replace(':', '-')}-{hashlib.sha256(data).hexdigest()[:12]}"
        (self._folder / "findings" / name).write_bytes(data)
        self.figures.findings.append({"where": where, "input": name})
        self.write(now=True)

    def write(self, *, now: bool = False) -> None:
        if now or time.monotonic() - self._written > FIGURES_EVERY_SECONDS:
            self._written = time.monotonic()
            own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            self.figures.largest_resident_mb = max(self.figures.largest_resident_mb, own)
            (self._folder / "figures.json").write_bytes(orjson.dumps(asdict(self.figures)))


def _read_all(reading: int, child: int) -> bytes | None:
    """The whole answer; None, and the end of the child, if it does not come in time."""
    answer, until = b"", time.monotonic() + ARCHIVE_SECONDS_LIMIT
    try:
        while select.select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
            chunk = os.read(reading, 4096)
            if not chunk:
                return answer
            answer += chunk
        os.kill(child, signal.SIGKILL)
        return None
    finally:
        os.close(reading)


def _where(error: BaseException) -> str:
    """The kind of failure and its place: texts of exceptions may hold the input."""
    from tests.fuzz.oracle import Finding

    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = f" {error}" if isinstance(error, Finding) else ""
    return f"{type(error).__name__}{said} at {Path(frame.filename).name}:{frame.lineno}"


def main(arguments: Sequence[str]) -> int:
    """Fuzz until the time is over."""
    name, seconds, folder = arguments[0], float(arguments[1]), Path(arguments[2])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for each in ("corpus", "findings"):
        (folder / each).mkdir(parents=True, exist_ok=True)
    guided = not name.endswith(":archive") and find_spec("atheris") is not None
    if guided:
        import atheris

        return _guided(atheris, name, seconds, folder)
    return _blind(Watch(name, folder, "limited process" if name.endswith(":archive") else "damage"), seconds)


def _guided(atheris: ModuleType, name: str, seconds: float, folder: Path) -> int:
    """Follow the coverage. The engine ends the process itself: after the time, or at an input that killed it."""
    with atheris.instrument_imports(include=INSTRUMENTED):
        watch = Watch(name, folder, "coverage")
    from tests.fuzz.mutate import damaged

    seeds = watch.target.seeds()
    for number, seed in enumerate(seeds):
        (folder / "corpus" / f"seed-{number}").write_bytes(seed[:INPUT_BYTES_LIMIT])
    words = folder / "dictionary"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in _words(watch)))
    options = [
        "fuzz", str(folder / "corpus"), f"-dict={words}",
        f"-max_total_time={max(1, int(seconds))}",
        f"-timeout={SECONDS_OF_ONE_INPUT}", f"-max_len={INPUT_BYTES_LIMIT}", "-rss_limit_mb=2500",
        f"-artifact_prefix={folder / 'findings'}/{name.replace(':', '-')}-",
        "-print_final_stats=1", "-use_value_profile=1",
    ]  # fmt: skip
    random = Random(0)  # noqa: S311 - the engine seeds its own choice

    def mutate(data: bytes, size_limit: int, seed: int) -> bytes:
        """Half of the inputs by the engine's own steps, half by those that know of values and members."""
        random.seed(seed)
        if random.random() < 0.5:
            return bytes(atheris.Mutate(data, size_limit))
        return damaged(random, data, seeds, watch.target.dictionary)[:size_limit]

    atheris.Setup(options, watch.feed, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def _words(watch: Watch) -> list[bytes]:
    from tests.fuzz.mutate import TOKENS

    return [word for word in (*TOKENS, *watch.target.dictionary) if 0 < len(word) <= 60]


def _blind(watch: Watch, seconds: float) -> int:
    from tests.fuzz.mutate import mutants

    target, until, number = watch.target, time.monotonic() + seconds, 0
    feed = watch.feed_archive if target.archives else watch.feed
    seeds = target.seeds()
    while time.monotonic() < until:
        number += 1
        for data in mutants(number, 20, seeds, target.dictionary, archives=target.archives):
            feed(data)
            if time.monotonic() >= until:
                break
    watch.write(now=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
