"""The open part of a dossier: what anybody may read. It is built, scanned for rows of persons, and read back here."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from assay.digests import canonical, plain
from assay.errors import DossierError, Problem
from assay.evidence.quotes import FEWEST_TEXTS, SHORTEST, SHORTEST_UNSPACED, quoted, rare_words
from assay.evidence.receipts import Receipt
from assay.evidence.strict_json import loads
from assay.policy import Policy, overall
from assay.treatments._counts import MEDIAN, NOT_TOLD, about
from assay.units.text import is_unspaced
from assay.units.told import columns_told
from assay.values import Audit, Data, Dossier, Finding, Measurement, NotApplicable, System

__all__ = [
    "JUDGING",
    "MATRIX_SCHEMA",
    "SCHEMA",
    "build_open",
    "leaks",
    "parse_json",
    "per_person_arrays",
    "read_open",
    "require_nameless",
    "to_json",
]

SCHEMA = "urn:assay:dossier:v1"
MATRIX_SCHEMA = "urn:assay:matrix:v1"
JUDGING = 1  # raised when the same policy and measurements would be judged otherwise
_LONGEST_WORD = 80  # a digest with its prefix; longer words without a space can hide an array
_FEWEST_NUMBERS = 200  # a text with this many numbers, and one per row, is an array written as text
_FEWEST_ROWS = 16
_MOST_CATEGORIES = 100  # more than this, and than half of the training rows, is an identifier, as when data is read
_LARGEST = 2**63
_NEXT = "Leave it out, or seal it"
_FIXED = {  # places whose length the schema, the data's declaration, epochs, the probes or the choice of systems decide
    SCHEMA: re.compile(
        r"|/(system|data|policy|receipt|environment|ledger|not_applicable)(/\d+)?|/system/(model|task|task/classes|task/label_names|decision)"
        r"|/(measurements|findings)(/\d+)?|/data/(columns|group_columns)(/\d+(/categories)?)?|/data/(classes|label_names)"
        r"|/observations/[^/]+(/environment)?|/system/(facts|lineage/\d+/outcome)/curve"
    ),
    MATRIX_SCHEMA: re.compile(
        r"|/(systems|digests|keys|cells|pareto|sentences|verdicts|details|errored)|/cells/[^/]+(/\d+/measurement)?"
    ),
}


def build_open(
    audit: Audit, *, findings: Sequence[Finding], policy: Policy, receipt: Receipt | None, filed: str, num_systems: int
) -> dict[str, Any]:
    """The open part as JSON types. Replicates, and every array, are left out by construction (see `digests.plain`)."""
    return {
        "schema": SCHEMA,
        "filed": filed,
        "verdict": overall(policy, findings),
        "system": _system(audit.system),
        "data": _data(audit.system.data),
        "policy": {
            "name": policy.name,
            "version": policy.version,
            "digest": policy.digest,
            "level": policy.level,
            "about": policy.about,
            "num_systems": num_systems,
            "judging": JUDGING,
        },
        "receipt": plain(receipt),
        "measurements": plain(list(audit.measurements)),
        "not_applicable": plain(list(audit.not_applicable)),
        "findings": plain(list(findings)),
        "observations": {
            split: {
                "digest": one.digest,
                "split_digest": one.split_digest,
                "system_digest": one.system_digest,
                "seconds": one.seconds,
                "joules": plain(one.joules),
                "peak_bytes": one.peak_bytes,
                "environment": plain(one.environment),
                "arrays": sorted(one.arrays),
            }
            for split, one in audit.observations.items()
        },
        "ledger": plain(audit.ledger),
        "environment": plain(audit.environment),
        "energy": plain(audit.energy),
    }


def _system(system: System) -> dict[str, Any]:
    from assay.models.cost import card  # brings torch, which reading needs not

    task, model = system.task, system.model
    return {
        "name": system.name,
        "digest": system.digest,
        "model": {
            "digest": model.digest,
            "num_bytes": model.num_bytes,
            "offers": sorted(model.offers),
            "outputs_are": model.outputs_are,
            "card": card(model, system.data),
        },
        "task": {
            "name": task.name,
            "digest": task.digest,
            "classes": list(task.classes),
            "num_outputs": task.num_outputs,
            "positive": task.positive_index,
            **_label_names(task.label_names),
        },
        "decision": {
            "digest": system.decision.digest,
            "needs_groups": system.decision.needs_groups,
            "rule": plain(system.decision.to_json()),
        },
        "lineage": [_step(plain(step), system.data) for step in system.lineage],
        "facts": plain(system.facts),
        "seed": system.seed,
    }


def _step(step: dict[str, Any], data: Data) -> dict[str, Any]:
    """A step as it is told now: older ones have medians of training rows and exact counts.

    The digest of the system is over both: over the lineage as the owner keeps it, in the system's folder.
    """
    outcome = step["outcome"]
    counts = {"fill_missing": "filled", "redact_personal_data": "redacted"}.get(step["treatment"], "")
    if counts not in outcome:
        return step
    sizes = {name: len(split) for name, split in data.splits.items()} if counts == "filled" else {}
    told = {name: _about_each(found, sizes.get(name)) for name, found in outcome[counts].items()}
    values = {name: one if isinstance(one, str) else MEDIAN for name, one in outcome.get("values", {}).items()}
    return {**step, "outcome": {**outcome, counts: told, **({"values": values} if "values" in outcome else {})}}


def require_nameless(data: Data) -> None:
    """Raises DossierError for columns that no dossier may hold: to be asked before a long audit, not only after it."""
    num_train = len(data.splits.get("train", ()))
    named = [
        Problem(
            f"the categories of {column.name!r} are {len(column.categories)} values of {num_train} training rows",
            "at most 100, or half of the training rows",
            "They would name persons in the open part: leave the column out, and train again",
        )
        for column in (*data.columns, *data.group_columns)
        if len(column.categories) > max(_MOST_CATEGORIES, num_train / 2)
    ]
    if named:
        raise DossierError(named)


def _data(data: Data) -> dict[str, Any]:
    require_nameless(data)
    return {
        "name": data.name,
        "digest": data.digest,
        "columns": plain(list(columns_told(data))),
        "label": data.label,
        "group_columns": plain(list(data.group_columns)),
        "classes": list(data.classes),
        "positive": data.positive,
        **_label_names(data.label_names),
        "splits": {name: {"num_rows": len(split), "digest": split.digest} for name, split in data.splits.items()},
        "source": _source(data),
    }


def _source(data: Data) -> dict[str, Any]:
    """What is known of where the rows come from, and about how many of them lack a cell or repeat a training row.

    What the reader noticed quotes cells with their row numbers, and a median of training rows is the cell of one of
    them, or lies between two: both stay with the owner, and the median with the system, which answers with it.
    """
    found = {name: plain(fact) for name, fact in data.source.items() if name != "problems"}
    known = {name: fact for name, fact in found.items() if isinstance(fact, Mapping)}  # an owner may write anything
    total, repeats = found.get("num_rows"), known.get("duplicates", {})
    whole = total if type(total) is int else sum(map(len, data.splits.values()))
    if "missing" in known:
        found["missing"] = _about_each(known["missing"], whole)
    if "imputed" in known:
        filled = {name: one if isinstance(one, Mapping) else {} for name, one in known["imputed"].items()}
        rows = {name: one.get("rows", NOT_TOLD) for name, one in filled.items()}
        found["imputed"] = {name: {"by": MEDIAN, "rows": num} for name, num in _about_each(rows, whole).items()}
    if "test_rows" in repeats:
        found["duplicates"] = {**_about_each(repeats, repeats["test_rows"]), "test_rows": repeats["test_rows"]}
    return found


def _about_each(counts: Mapping[str, Any], whole: int | None) -> dict[str, Any]:
    """Each count of some of `whole` rows, as anybody may read it; what is no count stays."""
    some = {name: count for name, count in counts.items() if type(count) is int}
    return {**counts, **{name: about(num, of=whole and max(whole, num)) for name, num in some.items()}}


def _label_names(names: Sequence[str]) -> dict[str, list[str]]:
    """Only where several labels may apply, so that other dossiers stay as they were."""
    return {"label_names": list(names)} if names else {}


def to_json(value: Any, what: str) -> bytes:
    """Canonical JSON as stored, with a line end. Raises DossierError for what JSON cannot say, such as NaN."""
    try:
        return canonical(value).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        allowed = "texts, finite numbers, lists and mappings"
        raise DossierError(Problem(f"{what} cannot be written as JSON ({error})", allowed)) from error


def parse_json(data: bytes, what: str) -> Any:
    """JSON from bytes; NaN and repeated keys are refused. Raises DossierError."""
    try:
        return loads(data)
    except (ValueError, RecursionError) as error:
        raise DossierError(Problem(f"{what} is not JSON ({error})")) from error


def read_open(data: bytes, *, path: str, evidence_id: str) -> Dossier:
    """A `Dossier` from the bytes of `open/dossier.json`. Raises DossierError for another or an older schema."""
    table = parse_json(data, "open/dossier.json")
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        found = table.get("schema") if isinstance(table, dict) else type(table).__name__
        raise DossierError(Problem(f"open/dossier.json has schema {found!r}", SCHEMA))
    try:
        return Dossier(
            path=path,
            system_digest=table["system"]["digest"],
            verdict=table["verdict"],
            evidence_id=evidence_id,
            measurements=tuple(Measurement(**one) for one in table.pop("measurements")),
            not_applicable=tuple(NotApplicable(**one) for one in table.pop("not_applicable")),
            findings=tuple(Finding(**one) for one in table.pop("findings")),
            about=table,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DossierError(Problem(f"open/dossier.json does not fit its schema ({error!r})", SCHEMA)) from error


# ------------------------------------------------------------------ nothing with one entry per person


def leaks(tables: Mapping[str, Any], data: Data) -> list[Problem]:
    """Whatever of `open/<name>.json` could tell of one person: an entry a row, a passage of a text, a rare word."""
    num_rows = min((len(split) for split in data.splits.values() if len(split)), default=0)
    found = []
    for name, table in tables.items():
        where = f"open/{name}.json"
        places = per_person_arrays(table, num_rows)
        found += [Problem(f"{where} could hold one entry per person at {one}", next=_NEXT) for one in places]
        if data.modality == "text":
            found += [Problem(f"{where} {what}", allowed, _NEXT) for what, allowed in _told(table, data)]
    return found


def _told(table: Any, data: Data) -> Iterator[tuple[str, str]]:
    """What a table gives away of somebody's text: a passage, or a word that hardly anybody else uses."""
    shortest = SHORTEST_UNSPACED if is_unspaced(data.columns[0].language) else SHORTEST
    rows = [text for split in data.splits.values() for text in split.inputs.tolist()]
    for place in quoted(table, rows, shortest=shortest):
        yield f"quotes a text of the data at {place}", f"fewer than {shortest} letters in a row"
    for place in rare_words(table, rows):
        yield f"names a word of few texts at {place}", f"words that {FEWEST_TEXTS} different texts have"


def per_person_arrays(open_json: Any, num_rows: int) -> list[str]:
    """Places in JSON that could hold one entry per row, when the smallest split has `num_rows` rows; empty = none.

    Found are: lists and mappings of at least `num_rows` entries, a metric with a slice per row, and texts or integers
    long enough to hide a row each. Lists of measurements, findings and effects are looked at metric by metric, and what
    the schema fixes (columns, categories) is left alone. Limits: it finds arrays, not what aggregates give away, such
    as a statistic of one person in a small slice; under 16 rows it looks as if there were 16.

    >>> per_person_arrays({"correct": [1, 0, 1, 1] * 10}, 40)
    ['/correct: 40 entries']
    """
    fixed = _FIXED.get(str(open_json.get("schema"))) if isinstance(open_json, Mapping) else None
    return list(_places(open_json, max(num_rows, _FEWEST_ROWS), "", fixed)) if num_rows else []


def _places(value: Any, num_rows: int, path: str, fixed: re.Pattern[str] | None) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) >= max(num_rows, _LONGEST_WORD) and not re.search(r"\s", value):
            yield f"{path or '/'}: one word of {len(value)} characters"
        elif len(re.findall(r"\d+(?:\.\d+)?", value)) >= max(num_rows, _FEWEST_NUMBERS):
            yield f"{path or '/'}: a text with a number per row"
    elif isinstance(value, int) and abs(value) >= _LARGEST:
        yield f"{path or '/'}: an integer of {value.bit_length()} bits"
    elif isinstance(value, (Mapping, list, tuple)):
        items = list(value.items() if isinstance(value, Mapping) else enumerate(value))
        series = [_series(one) for _, one in items]
        if not isinstance(value, Mapping) and all(series):
            yield from _slices(value, series, num_rows, path)
        elif len(items) >= num_rows and not (fixed and fixed.fullmatch(path)):
            yield f"{path or '/'}: {len(items)} entries"
        for key, item in items:
            yield from _places(item, num_rows, f"{path}/{key}", fixed)


def _slices(records: Sequence[Any], series: Sequence[tuple[str, ...]], num_rows: int, path: str) -> Iterator[str]:
    """A metric with a slice per row: exactly as many slices as rows, or that many slices of one row each."""
    single = Counter(name for name, one in zip(series, records, strict=True) if one.get("attempted", 0) <= 1)
    for name, count in Counter(series).items():
        if count == num_rows or single[name] >= num_rows:
            yield f"{path}: {count} slices of {'.'.join(filter(None, name))}"


def _series(one: Any) -> tuple[str, ...]:
    """What a record (measurement, finding, effect) is a series of; empty for anything else."""
    if not isinstance(one, Mapping) or not ("metric" in one or isinstance(one.get("key"), (list, tuple))):
        return ()
    key = [str(part) for part in one.get("key", ())][:2]
    return ("metric", str(one.get("rule", "")), str(one.get("probe", "")), str(one.get("metric", "")), *key)


def receipt_of(about: Mapping[str, Any]) -> Receipt | None:
    """The receipt in an open part, or None. Raises DossierError when it is not one."""
    table = about.get("receipt")
    try:
        return None if table is None else Receipt(**table)
    except TypeError as error:
        allowed = ", ".join(field.name for field in dataclasses.fields(Receipt))
        raise DossierError(Problem("the plan's receipt is damaged", allowed)) from error
