"""Coverage-guided fuzzing of everything that reads a user's file or text (`make fuzz`, needs the extra "fuzz").

A target is a small valid folder and the loaders that read it (`targets.py`). What the fuzzer makes up is a list of
edits to that folder: a file replaced or removed, bytes overwritten, a value of its JSON replaced. The loaders then
have to succeed or to raise a `ConceptloomError` of one line. Anything else is a crash, and so are 20 s for one input
and 1 GB of memory. Crashing inputs, logs and what was learned about interesting inputs lie in `build/fuzz`.

    PYTHONPATH=tests python tests/fuzz/harness.py --minutes 30
    PYTHONPATH=tests python tests/fuzz/harness.py settings --replay build/fuzz/settings.crash-...
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

SECONDS_PER_INPUT = 20
MEMORY_MB = 1024
INPUT_BYTES = 2**16
PLACE = Path("build") / "fuzz"

EDITS = 4
WHOLE, VALUE, REMOVED, BYTES = range(4)
"""Kinds of edits."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 10**5, 10**9, 2**31, 2**63, 10**400),
    *(0.5, -0.5, 1e-300, 1e308, float("nan"), float("inf"), "1e999", "@deep@"),
    *(
        "",
        " ",
        "cat",
        "<cat>",
        "a <cat> and a <car>",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "C:\\x",
        "\0",
        "\n",
        "\ud800",
    ),
    *("x" * 5000, "cafe\u0301", "\u202e", [], [[]], [0], [None], ["cat"], [1, 2, 3], {}, {"cat": 1}, [{}]),
)
"""What a value of a JSON file is replaced by; a deep nesting stands where "@deep@" is."""
NAMES = ("", "name", "kind", "_class_name", "auto_map", "quantization_config", "dtype", "x" * 300)
"""What a key is renamed to."""
STATS = ("number_of_executed_units", "rss_before_mb", "peak_rss_mb")
"""What is told of each target; the second is what the libraries take."""


# Edits to a folder ------------------------------------------------------------------------------------------------


def edited(files: Mapping[str, bytes], data: bytes) -> dict[str, bytes]:
    """The files after the edits that `data` spells; an edit that does not apply changes nothing."""
    names, stream = sorted(files), io.BytesIO(data)
    files = dict(files)
    for _ in range(EDITS):
        which, kind = _number(stream, 1), _number(stream, 1) % 4
        name = names[which % len(names)]
        if kind == WHOLE:
            files[name] = _with_checksums(stream.read())
        elif kind == REMOVED:
            files.pop(name, None)
        elif kind == BYTES and name in files:
            at, new = _number(stream, 2), stream.read(_number(stream, 1) % 16)
            files[name] = files[name][:at] + new + files[name][at + len(new) :]
        elif kind == VALUE and name in files:
            files[name] = _with_value(files[name], stream)
        if stream.tell() == len(data):
            break
    return files


def seeds(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """Inputs to begin with: every file as it is."""
    for which, name in enumerate(sorted(files)):
        if len(files[name]) < INPUT_BYTES:
            yield bytes([which, WHOLE]) + files[name]


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Another input: libFuzzer's change of its bytes, or one more edit that applies, which those seldom spell."""
    import atheris

    rng = random.Random(seed)
    if rng.random() < 0.5:
        return atheris.Mutate(data, max_size)
    edit = bytes([rng.randrange(256), rng.choice((VALUE, VALUE, VALUE, REMOVED, BYTES)), *rng.randbytes(4)])
    return (edit + data * (rng.random() < 0.3))[:max_size]


def _number(stream: io.BytesIO, count: int) -> int:
    return int.from_bytes(stream.read(count), "little")


def _with_value(content: bytes, stream: io.BytesIO) -> bytes:
    """JSON, lines of JSON, or a safetensors file's header, with one value replaced, removed, doubled or renamed."""
    place, action = _number(stream, 2), _number(stream, 1)
    start, end = 0, len(content)
    if not content.lstrip().startswith((b"{", b"[")):
        start, end = 8, 8 + int.from_bytes(content[:8], "little")
    text = content[start:end].decode("utf-8", "replace")
    are_lines = len(text.splitlines()) > 1 and text.splitlines()[0].endswith("}")
    try:
        root = [json.loads(line) for line in (text.splitlines() if are_lines else [text])]
    except (ValueError, RecursionError):
        return content
    places = list(_places(root))
    holder, key = places[place % len(places)]
    if action % 4 == 0:
        holder[key] = VALUES[_number(stream, 1) % len(VALUES)]
    elif action % 4 == 1:
        holder[key] = stream.read(_number(stream, 1)).decode(errors="surrogateescape")
    elif action % 4 == 2:
        del holder[key]
    elif isinstance(holder, dict):
        holder[NAMES[_number(stream, 1) % len(NAMES)]] = holder.pop(key)
    else:
        holder.extend([holder[key]] * (_number(stream, 1) % 64))
    text = "\n".join(map(json.dumps, root)).replace('"@deep@"', "[" * 10**5 + "]" * 10**5)
    body = text.replace('"1e999"', "1e999").encode()
    return body if start == 0 else len(body).to_bytes(8, "little") + body + content[end:]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value inside by its holder and key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _with_checksums(content: bytes) -> bytes:
    """A PNG with the checksums its chunks need to be looked into; anything else as it is."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    mended, at = content[:8], 8
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        chunk = content[at:end]
        mended += chunk + zlib.crc32(chunk[4:]).to_bytes(4, "big")
        at = end + 4
    return mended


# Fuzzing ----------------------------------------------------------------------------------------------------------


def run(names: Sequence[str], seconds: float, replayed: Path | None) -> bool:
    """Fuzz targets one after the other, each for its share of the time; whether none crashed."""
    import atheris

    # conceptloom.* is what is looked for; of the others the Python parts tell more about an input.
    with atheris.instrument_imports(include=["conceptloom", "json", "tomllib", "yaml", "PIL"]):
        import targets
    PLACE.mkdir(parents=True, exist_ok=True)
    print(f"{'target':<20} {'executions':>10} {'MB before':>10} {'peak MB':>8}", flush=True)
    found, names = [], names or [*targets.TARGETS]
    for name in names:
        options = [f"-max_total_time={seconds / len(names):.0f}", f"-artifact_prefix={PLACE / name}."]
        log = PLACE / f"{name}.log"
        with tempfile.TemporaryDirectory(dir=_memory_disk()) as scratch:
            code = _in_a_fork(log, partial(fuzz, targets, name, Path(scratch), options, replayed))
        text = log.read_text(encoding="utf-8", errors="replace")
        told = [(re.findall(rf"stat::{stat}: *(\d+)", text) or ["-"])[-1] for stat in STATS]
        print(f"{name:<20} {told[0]:>10} {told[1]:>10} {told[2]:>8}  {log if code else ''}", flush=True)
        found += [name] if code else []
    print(f"crashed: {', '.join(found)}" if found else "no crash, no hang, no memory above 1 GB")
    return not found


def fuzz(targets: Any, name: str, scratch: Path, options: Sequence[str], replayed: Path | None) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    os.environ["CONCEPTLOOM_CACHE"] = str(scratch / "cache")
    target, folder = targets.TARGETS[name], scratch / "given"
    files = target.files()

    def read(given: Mapping[str, bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in given.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        target.read(folder)

    def one_input(data: bytes) -> None:
        given = files
        if target.alone:
            one = sorted(files)[data[0] % len(files)] if data else min(files)
            given = {one: files[one]}
        targets.refused(lambda: read(edited(given, data)))

    # A target that refuses its own files would find nothing.
    for given in [{name: content} for name, content in files.items()] if target.alone else [files]:
        read(given)
    corpus = PLACE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(files)):
        (corpus / f"seed-{number:03d}").write_bytes(seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"stat::rss_before_mb: {before}", file=sys.stderr, flush=True)
    limits = [f"-timeout={SECONDS_PER_INPUT}", f"-rss_limit_mb={MEMORY_MB}", f"-max_len={INPUT_BYTES}"]
    inputs = [str(corpus)] if replayed is None else [str(replayed)]
    atheris.Setup(
        [sys.argv[0], *limits, "-print_final_stats=1", *options, *inputs], one_input, custom_mutator=mutated
    )
    atheris.Fuzz()


def _in_a_fork(log: Path, work: Callable[[], None]) -> int:
    """Do work in a copy of this process, which imported everything already, its output in `log`; the exit code."""
    sys.stdout.flush()
    if os.fork() == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        work()
        sys.exit()
    return os.wait()[1]


def _memory_disk() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> None:
    os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg", OMP_NUM_THREADS="1")
    parser = argparse.ArgumentParser(description="Fuzz everything that reads a user's file or text.")
    parser.add_argument("--minutes", type=float, default=30, help="over all targets together")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a crashing input, of one target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="names of targets.py; else all")
    told = parser.parse_args()
    sys.exit(0 if run(told.targets, told.minutes * 60, told.replay) else 1)


if __name__ == "__main__":
    main()
