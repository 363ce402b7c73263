"""Six published signs of side effects, tested on our own systems, into docs/findings.md.

    python -m benchmarks.findings [--seeds 5] [--jobs 1] [--only dp,int8] [--data FOLDER] [--out FILE.json] [--write]

Each case trains a system and its treated twin with each seed and measures both on the same test rows. Interval of the
mean effect over S seeds: mean -+ t * sqrt(rows + seeds / S), rows the variance of the mean effect over 400 resamples of
the test rows (the same for all seeds and both twins) and of two rows more on which the twins are taken to differ, as
in the matrix: that none differs on n rows does not show that none ever does. seeds is the variance over seeds, t with
Welch and Satterthwaite's degrees of freedom. Verdict: reproduced where the interval lies on the side that was
published, "not so here" on the other, else not settled; for "about neutral": inside the margin, outside, else not
settled. `--jobs` is how many seeds are worked on at once, each on one thread. With `--data` (see packed.py) no package
is needed to read the data.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from scipy import special  # noqa: E402

from assay import registry  # noqa: E402
from benchmarks.finding_cases import CASES, CLAIMS, Claim, Effects  # noqa: E402

LEVEL = 0.95
PAGE = Path(__file__).resolve().parents[1] / "docs" / "findings.md"
WORDS = {1: "reproduced", -1: "not so here", 0: "not settled"}


@dataclass(frozen=True)
class Result:
    """One case over all seeds."""

    case: str
    effect: str
    before: float
    after: float
    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    verdict: str
    seconds: float


def combined(
    points: Sequence[float], draws: np.ndarray[Any, Any], level: float = LEVEL, *, floor: float = 0.0
) -> tuple[float, float, float]:
    """Mean over seeds of effects `(S,)` with resamples of rows `(S, B)`, and both ends of its interval.

    `floor` is a standard error of rows that is added: resamples of rows that never differ have none.

    >>> [round(end, 3) for end in combined([1.0, 1.2, 0.8], np.zeros((3, 10)))]
    [1.0, 0.503, 1.497]
    """
    mean, num = float(np.mean(points)), len(points)
    rows = float(np.var(np.mean(draws, axis=0))) + floor**2
    seeds = float(np.var(points, ddof=1)) / num
    whole = rows + seeds
    freedom = whole**2 / (seeds**2 / (num - 1)) if seeds > 0 else math.inf
    width = float(special.stdtrit(min(freedom, 1e9), (1 + level) / 2)) * math.sqrt(whole)
    return mean, mean - width, mean + width


def verdict(low: float, high: float, claim: Claim) -> str:
    """What the interval says of the claim."""
    if claim.margin is not None:
        inside = -claim.margin < low and high < claim.margin
        outside = low > claim.margin or high < -claim.margin
        return WORDS[int(inside) - int(outside)]
    side = 1 if low > 0 else -1 if high < 0 else 0
    return WORDS[side * claim.sign]


def work(job: tuple[str, int, str | None]) -> tuple[str, int, Effects, float]:
    """One case with one seed."""
    name, seed, folder = job
    torch.set_num_threads(1)
    registry.load()
    began = time.process_time()
    found = CASES[name].run(seed, Path(folder) if folder else None)
    print(f"{name}, seed {seed}: {time.process_time() - began:.0f} CPU s", file=sys.stderr, flush=True)
    return name, seed, found, time.process_time() - began


def measure(names: Sequence[str], given: argparse.Namespace) -> list[tuple[str, int, Effects, float]]:
    """Every case with every seed, seed by seed; the dear ones first, so that no worker waits at the end.

    With `--within`, what is not done after so many seconds is left out: a case then has the seeds that are done.
    """
    order, ends = sorted(names, key=lambda name: -CASES[name].weight), time.monotonic() + given.within
    jobs = [(name, seed, given.data) for seed in range(given.seeds) for name in order]
    if given.jobs < 2:
        return [work(job) for job in jobs if time.monotonic() < ends]
    with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
        running, done = pool.imap_unordered(work, jobs, chunksize=1), []
        try:
            for _ in jobs:
                done.append(running.next(timeout=max(0.0, min(ends - time.monotonic(), 1e6))))
        except multiprocessing.TimeoutError:
            print(f"{len(done)} of {len(jobs)} done in time", file=sys.stderr)
        return done


def results(done: Sequence[tuple[str, int, Effects, float]]) -> list[Result]:
    """All effects of all cases, with intervals and verdicts."""
    found = []
    for name in CASES:
        mine = sorted((one for one in done if one[0] == name), key=lambda one: one[1])
        if len(mine) < 2:  # one seed has no spread
            continue
        claim, seconds = CLAIMS[CASES[name].claim], sum(one[3] for one in mine)
        for effect in mine[0][2]:
            told = [one[2][effect] for one in mine]
            points = [one.after - one.before for one in told]
            level = 1 - (1 - LEVEL) / claim.family if effect.startswith("class ") else LEVEL
            floor = max(one.floor for one in told)
            value, low, high = combined(points, np.stack([one.draws for one in told]), level, floor=floor)
            before, after = (float(np.mean([getattr(one, end) for one in told])) for end in ("before", "after"))
            is_judged = any(fnmatch.fnmatchcase(effect, pattern) for pattern in CASES[name].judged)
            said = verdict(low, high, claim) if is_judged else ""
            found.append(Result(name, effect, before, after, value, low, high, tuple(points), said, seconds))
    return found


def summary(claim: Claim, mine: Sequence[Result]) -> str:
    """The verdict of a claim from its judged effects."""
    said = [one.verdict for one in mine if one.verdict]
    if claim.any_counts:  # it says that some change, not which
        num = sum(one.low > 0 or one.high < 0 for one in mine if one.verdict)
        return f"**{'reproduced' if num else 'not settled'}**: {num} of {len(said)} changed"
    counts = {word: said.count(word) for word in WORDS.values() if word in said}
    if len(counts) == 1:
        return f"**{said[0]}**" + (f" in all {len(said)}" if len(said) > 1 else "")
    return "**mixed**: " + ", ".join(f"{word} in {num}" for word, num in counts.items()) + f" of {len(said)}"


def page(found: Sequence[Result]) -> str:
    """docs/findings.md: the verdicts first, then each claim with its cases."""
    counts = sorted({len(one.by_seed) for one in found})
    lines = [
        "# Published signs, on our own systems\n",
        f"Made by `python -m benchmarks.findings --write` ({' to '.join(map(str, counts))} seeds a case, "
        f"{sum_seconds(found):,.0f} CPU seconds). Every interval is of 95 % (where classes are counted, for all of "
        "them together) and covers test rows and seeds. "
        "Effects are treated minus untreated, means over seeds, both twins of the same seed and on the same test "
        'rows. A judged row has its verdict at the end; rows without one are shown beside it. "Not so here" is of this '
        "case alone, whose protocol is never quite the paper's: it does not contradict what the paper found.\n",
        "| published | here |\n|---|---|",
    ]
    told = {key: [one for one in found if CASES[one.case].claim == key] for key in CLAIMS}
    told = {key: mine for key, mine in told.items() if mine}
    lines += [f"| {CLAIMS[key].title} | {summary(CLAIMS[key], mine)} |" for key, mine in told.items()]
    lines.append(
        '\nWhat this does not show: other data, other sizes of network, other strengths of a treatment; "not settled" '
        "is no evidence against a claim. Several effects are judged at 95 % each, without correction over the page, "
        "except where classes are counted.\n"
    )
    for key, mine in told.items():
        claim = CLAIMS[key]
        lines += [f"## {claim.title}\n", f"{claim.says} Source: {claim.source}\n", f"Here: {summary(claim, mine)}.\n"]
        for name, case in CASES.items():
            rows = [one for one in mine if one.case == name]
            if rows:
                lines += [f"{case.protocol} Seeds: {len(rows[0].by_seed)}.\n", *table(rows)]
    return "\n".join(lines)


def sum_seconds(found: Sequence[Result]) -> float:
    """CPU seconds of all cases."""
    return sum({one.case: one.seconds for one in found}.values())


def table(rows: Sequence[Result]) -> list[str]:
    """One case as a table."""
    head = ["| effect on | before | after | change | verdict |", "|---|---:|---:|---:|---|"]
    body = [
        f"| {one.effect} | {one.before:.4f} | {one.after:.4f} | {one.value:+.4f} [{one.low:+.4f}, {one.high:+.4f}] | "
        f"{one.verdict or '–'} |"
        for one in rows
    ]
    return [*head, *body, ""]


def arguments() -> argparse.Namespace:
    """What was asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--within", type=float, default=math.inf, help="seconds after which no more seeds are waited for"
    )
    parser.add_argument("--only", default=",".join(CASES), help=f"of {', '.join(CASES)}; or claims {', '.join(CLAIMS)}")
    parser.add_argument("--data")
    parser.add_argument("--out", type=Path, help="results as JSON")
    parser.add_argument("--beside", type=Path, nargs="+", help="results of an earlier --out, for cases not run now")
    parser.add_argument("--page", type=Path, help="the page to this file instead")
    parser.add_argument("--write", action="store_true", help="write docs/findings.md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what was asked for."""
    given = arguments()
    asked = given.only.split(",")
    names = [name for name, case in CASES.items() if name in asked or case.claim in asked]
    found = results(measure(names, given)) if names else []
    known = {one.case for one in found}
    for file in given.beside or []:  # earlier results of other cases
        earlier = [Result(**one) for one in json.loads(file.read_text("utf-8"))["results"]]
        found += [one for one in earlier if one.case not in known]
        known |= {one.case for one in earlier}
    told: Mapping[str, Any] = {"seeds": given.seeds, "results": [asdict(one) for one in found]}
    if given.out:
        given.out.write_text(json.dumps(told, indent=1), "utf-8")
    text = page(found)
    if given.write or given.page:
        (given.page or PAGE).write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
