"""The figures of each part of docs/benchmarks.md, read from what its script printed: for its table and its chart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["ours", "peer", "limit"]
Values = tuple[tuple[str, float, Kind], ...]
PAIRED = {"shap Kernel, default": "10", "shap Permutation": "2"}  # Shapley peers, and times fewer rows asked of ours


@dataclass(frozen=True)
class Figure:
    """One row of the table: what was done, in which unit, ours beside others, and what was asked."""

    what: str
    unit: str
    values: Values
    goal: str = ""


def figures(name: str, text: str) -> list[Figure]:
    """All figures of the part of that name; none for parts that compare numbers of papers.

    >>> figures("published_privacy", "CPU seconds: ours 0.057 (at most 0.119); PRV 0.074")[0].values
    (('ours', 0.057, 'ours'), ('PRV', 0.074, 'peer'))
    """
    return list(READERS[name](text)) if name in READERS else []


def _number(told: str) -> float:
    return float(told.replace(",", ""))


def _group_metrics(text: str) -> Iterator[Figure]:
    number = r"\s+([\d.,]+)"
    for what, ours, _, limit, peer in re.findall(
        rf"^(\d.*?draws.*?)  {number}{number}{number}\s+([\d.,]+|-)  ", text, re.M
    ):
        values: list[tuple[str, float, Kind]] = [("ours", _number(ours), "ours"), ("limit", _number(limit), "limit")]
        if peer != "-":
            values.insert(1, ("fairlearn", _number(peer), "peer"))
        yield Figure(
            f"every interval, {what.strip()}", "CPU ms", tuple(values), "at most 3 × the limit, 1/1000 of the peer"
        )


def _shapley(text: str) -> Iterator[Figure]:
    for part in re.split(r"\n(?=equality)", text):
        named = re.search(r"^(.*?), F = (\d+)", part, re.M)
        table = re.findall(r"^(\S.*?)\s{2,}([\d,]+)\s+([\d.]+)\s+([\d.]+)\s+[\d.]+\s+\d+%", part, re.M)
        rows = {way: (_number(num), float(cpu), float(limit)) for way, num, cpu, limit in table}
        for peer, share in PAIRED.items():
            found = re.search(rf"^{re.escape(peer)}\s+(ours, .*?): ", part, re.M)
            if named and found and peer in rows:
                mine = rows[found[1]]
                what = f"{named[1]}, {named[2]} columns, as near as {peer}"
                values: Values = (("ours", mine[0], "ours"), (peer, rows[peer][0], "peer"))
                yield Figure(what, "model rows", values, f"at most 1/{share} of the peer")
                cpu: Values = (
                    ("ours", mine[1], "ours"),
                    (peer, rows[peer][1], "peer"),
                    ("our rows in one bare call", mine[2], "limit"),
                )
                yield Figure(what, "CPU s", cpu, "at most 1.3 × the limit, median over budgets")


def _gradient_suite(text: str) -> Iterator[Figure]:
    number = r"([\d.]+)"
    line = rf"ours {number}\s+captum tuned \(.*?\) {number}\s+captum default {number}\s+limit {number}"
    for model, num, *told in re.findall(rf"^(.+?): (\d+) inputs.*\n\s+{line}", text, re.M):
        ours, tuned, default, limit = (float(one) for one in told)
        values: Values = (
            ("ours", ours, "ours"),
            ("captum tuned", tuned, "peer"),
            ("captum default", default, "peer"),
            ("bare passes", limit, "limit"),
        )
        yield Figure(f"{model}, {num} inputs", "CPU s", values, "half of captum tuned, 1.25 × the limit")


def _slices(text: str) -> Iterator[Figure]:
    lines = re.findall(r"^\s*([\d,]+) rows x (\d+)\s{2,}(.+?)\s{2,}([\d.]+) s", text, re.M)
    for num in dict.fromkeys(line[0] for line in lines):
        values: list[tuple[str, float, Kind]] = []
        for rows, _, way, seconds in lines:
            if rows == num:
                kind: Kind = "ours" if way.startswith("ours") else "limit" if way.startswith("limit") else "peer"
                values.append((way.removeprefix("limit, "), float(seconds), kind))
        yield Figure(f"worst slices, {num} rows × 20 columns", "CPU s", tuple(values), "seconds at a million rows")


def _thresholds(text: str) -> Iterator[Figure]:
    if found := re.search(r"median CPU: ours ([\d.]+) ms, fairlearn ([\d.]+) ms, one sort per group ([\d.]+) ms", text):
        ours, peer, limit = (float(one) for one in found.groups())
        values: Values = (
            ("ours", ours, "ours"),
            ("fairlearn ThresholdOptimizer", peer, "peer"),
            ("one sort a group", limit, "limit"),
        )
        yield Figure("thresholds by group", "CPU ms", values, "at most 1/10 of the peer")
    fits = re.findall(r"^(fairlearn|our \w+), (\d+ fits?)\s+CPU\s+([\d.]+) s", text, re.M)
    if fits:
        named: tuple[tuple[str, float, Kind], ...] = tuple(
            (f"{way}, {num}", float(cpu), "ours" if way.startswith("our") else "peer") for way, num, cpu in fits
        )
        yield Figure("equalized odds at the same gap", "CPU s", named, "at most 1/10 of the peer")


def _robust_accuracy(text: str) -> Iterator[Figure]:
    for part in re.split(r"\n(?=\w+ network)", text):
        head = re.match(r"(\w+) network \w+, (\w+), radius ([\d.]+), (\d+) test rows", part.strip())
        lines = re.findall(
            r"^\s+(ours|AutoAttack|recorded)\s+([\d.]+) %\s+([\d.]+|nan) s.*?([\d.]+|nan) x limit", part, re.M
        )
        values: list[tuple[str, float, Kind]] = []
        for way, _, cpu, times in lines:
            if cpu != "nan":
                values.append((way, float(cpu), "ours" if way == "ours" else "peer"))
                if way == "ours":
                    values.append(("bare passes", float(cpu) / float(times), "limit"))
        if head and values:
            what = f"{head[1]} network, {head[2]} {head[3]}, {head[4]} rows"
            yield Figure(what, "CPU s", tuple(values), "at most 1/3 of AutoAttack, never a higher accuracy")


def _membership(text: str) -> Iterator[Figure]:
    wanted = {("ours: ratio", "4"): "ours", ("LiRA online, own variance", "32"): "peer",
              ("LiRA online, shared variance", "32"): "peer", ("loss threshold", "0"): "peer"}  # fmt: skip
    values: list[tuple[str, float, Kind]] = []
    for way, num, share in re.findall(r"^(\S.*?)\s{2,}(\d+)\s+[\d.]+ ± [\d.]+\s+([\d.]+) ±", text, re.M):
        if (way, num) in wanted:
            kind: Kind = "ours" if wanted[way, num] == "ours" else "peer"
            values.append((f"{way}, {num} trainings", float(share), kind))
    if values:
        yield Figure(
            "members found at 1 % false alarms",
            "% (higher is better)",
            tuple(values),
            "LiRA-32 with at most 4 trainings",
        )


def _published_privacy(text: str) -> Iterator[Figure]:
    if found := re.search(r"CPU seconds: ours ([\d.]+).*?; PRV ([\d.]+)", text):
        values: Values = (
            ("ours", float(found[1]), "ours"),
            ("PRV", float(found[2]), "peer"),
        )
        yield Figure("epsilon of one training", "CPU s", values, "at most 0.1 s, 1.01 × the optimistic curve")


def _serving(text: str) -> Iterator[Figure]:
    lines = re.findall(r"^(\w+)\s+(bare model, 1 rows a call|ours, .*?|plain, .*?)\s{2,}(\d+)\s", text, re.M)
    for model in dict.fromkeys(line[0] for line in lines):
        values: list[tuple[str, float, Kind]] = []
        for which, way, micro in lines:
            if which == model:
                kind: Kind = "ours" if way.startswith("ours") else "limit" if way.startswith("bare") else "peer"
                values.append((way, float(micro), kind))
        yield Figure(f"one request, {model}", "CPU µs", tuple(values))


def _dp_step(text: str) -> Iterator[Figure]:
    number = r"\s+([\d.,]+|refused)"
    for model, _, ours, hooks, ghost in re.findall(
        rf"^(\w+)\s+[\d,]+\s+\S+\s+([\d.]+)\s+([\d.]+){number}{number}\s", text, re.M
    ):
        values: list[tuple[str, float, Kind]] = [("ours", float(ours), "ours")]
        for way, told in (("Opacus hooks", hooks), ("Opacus ghost", ghost)):
            if told != "refused":
                values.append((way, _number(told), "peer"))
        values.append(("a plain step", 1.0, "limit"))
        yield Figure(f"private step, {model}", "× a plain step", tuple(values), "at most 1.25 linear, 1.5 others")


def _federated(text: str) -> Iterator[Figure]:
    for model, ours, peer in re.findall(
        r"^(\S.*?)\s{2,}\d+\s+\S+\s+\S+\s+[\d.]+\s+([\d.]+) \(.*?\)\s+([\d.]+) \(", text, re.M
    ):
        values: Values = (
            ("ours", float(ours), "ours"), ("textbook", float(peer), "peer"), ("bare training", 1.0, "limit"),
        )  # fmt: skip
        yield Figure(f"federated rounds, {model}", "× the bare training", values, "at most 1.2")


def _pruning(text: str) -> Iterator[Figure]:
    for part in re.split(r"\n(?=\S[^\n]*parameters to)", text):
        found = re.findall(
            r"^  (before|ours, taylor|peer, taylor|never larger)\s.*?(\d+) us x\s*[\d.]+\s+\S+/\s*\S+$", part, re.M
        )
        kinds: dict[str, tuple[str, Kind]] = {
            "before": ("before", "peer"), "ours, taylor": ("ours", "ours"),
            "peer, taylor": ("Torch-Pruning", "peer"), "never larger": ("never larger", "limit"),
        }  # fmt: skip
        if found:
            values = tuple((kinds[way][0], float(micro), kinds[way][1]) for way, micro in found)
            yield Figure(
                f"half of all units, {part.strip().split(':')[0]}, 64 rows", "CPU µs", values, "0.8 of proportional"
            )


def _int8(text: str) -> Iterator[Figure]:
    lines = text.split("\n")
    at = next((place for place, line in enumerate(lines) if line.startswith("model ")), None)
    if at is None:
        return
    ways = re.findall(r"(?<=\s)(?:ORT \w+|ours int8|its module|torchao|torch)(?=\s)", lines[at].split("torch /")[0])
    for line in lines[at + 1 :]:
        found = re.match(rf"(\S+)\s+(\d+)((?:\s+(?:[\d,]+|-)){{{len(ways)}}})", line)
        if found:
            told = dict(zip(ways, found[3].split(), strict=True))
            values: list[tuple[str, float, Kind]] = [
                ("ours" if way == "ours int8" else way, _number(one), "ours" if way == "ours int8" else "peer")
                for way, one in told.items()
                if one != "-" and way != "its module"
            ]
            yield Figure(f"{found[1]}, {found[2]} rows", "CPU µs", tuple(values), "the best peer, 1/3 of torch")


def _train_speed(text: str) -> Iterator[Figure]:
    for part in re.split(r"\n(?=\S)", text):
        found = re.findall(r"^  (ours \w+|plain DataLoader|Lightning|bare \w+)\s+([\d.,e+]+)$", part, re.M)
        values: Values = tuple(
            (way, _number(told), "ours" if way.startswith("ours") else "limit" if way.startswith("bare") else "peer")
            for way, told in found
        )
        if values:
            yield Figure(part.split(":")[0], "examples a second (higher is better)", values)


def _whole_audit(text: str) -> Iterator[Figure]:
    tools = re.search(r"the tools together\s+([\d.]+) CPU s", text)
    ours = re.search(r"ours, [\d,]+ measurements\s+([\d.]+) CPU s", text)
    limit = re.search(r"limit calls.*?\s([\d.]+) CPU s", text)
    if tools and ours and limit:
        values: Values = (
            ("ours", float(ours[1]), "ours"), ("the tools, one by one", float(tools[1]), "peer"),
            ("bare passes and trainings", float(limit[1]), "limit"),
        )  # fmt: skip
        yield Figure("a whole audit of Adult", "CPU s", values, "at most 1/5 of the tools, 1.25 × the limit")


def _explain_media(text: str) -> Iterator[Figure]:
    for part in re.split(r"\n(?=\S[^\n]*inputs; ours less)", text):
        head = re.search(r"^(\S.*?), (\d+) inputs; ours less", part, re.M)
        lines = re.findall(r"^(\S.*?)\s{2,}[\d,]+\s+([\d.]+)\s+[\d.]+\s+(?:-?[\d.]+)\s+(?:-?[\d.]+)", part, re.M)
        limit = re.search(r"limit: our rows inside the model ([\d.]+)", part)
        lines = [line for line in lines if line[0] not in ("method", "random order")]
        if head and lines:
            values: list[tuple[str, float, Kind]] = [
                (way, float(cpu), "ours" if way.startswith("ours") else "peer") for way, cpu in lines
            ]
            if limit:
                values.append(("our rows inside the model", float(limit[1]), "limit"))
            yield Figure(head[1], "CPU s an input", tuple(values), "1/10 of the peer at equal deletion and insertion")


def _whole_matrix(text: str) -> Iterator[Figure]:
    number = r"([\d.]+) CPU s"
    for part in re.split(r"\n(?=\w+: \d+ systems)", text):
        head = re.search(r"^(\w+): (\d+) systems x (\d+) dimensions", part, re.M)
        found = [re.search(rf"^\s+{name}\s+{number}", part, re.M) for name in ("ours", "tools", "floor")]
        if head and all(found):
            ours, tools, floor = (float(one[1]) for one in found if one)
            values: Values = (
                ("ours", ours, "ours"),
                ("the tools, one by one", tools, "peer"),
                ("passes and trainings", floor, "limit"),
            )
            what = f"matrix of {head[2]} systems × {head[3]} dimensions, {head[1]}"
            yield Figure(what, "CPU s", values, "at most 1/5 of the tools, 1.5 × the limit")


READERS: dict[str, Callable[[str], Iterator[Figure]]] = {
    "group_metrics": _group_metrics,
    "shapley": _shapley,
    "explain_media": _explain_media,
    "gradient_suite": _gradient_suite,
    "slices": _slices,
    "thresholds": _thresholds,
    "robust_accuracy": _robust_accuracy,
    "membership": _membership,
    "published_privacy": _published_privacy,
    "serving": _serving,
    "train_speed": _train_speed,
    "dp_step": _dp_step,
    "federated": _federated,
    "pruning": _pruning,
    "int8": _int8,
    "whole_audit": _whole_audit,
    "whole_matrix": _whole_matrix,
}
