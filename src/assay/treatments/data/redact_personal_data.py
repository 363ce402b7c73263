"""Personal data in texts is replaced by its kind, in every split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from assay.data.quality.personal import redact
from assay.registry import EVERY_TASK, treatment
from assay.treatments import _common, _counts
from assay.treatments.data import _rows
from assay.values import Split, System, texts


@treatment("data", moves=("lower:personal_data_share",), tasks=EVERY_TASK)
def redact_personal_data(system: System) -> System:
    """Replace e-mail addresses, phone, card, IBAN, identity-card numbers and IP addresses by <EMAIL>, ...; train again.

    Every split is redacted by fixed patterns and checksums (see `assay.data.quality.personal`), nothing is fitted; a
    text without any stays as it is. The outcome says about how many pieces of each kind a split had, and holds none.
    Limits: names, postal addresses and anything spelt out stay; what the old system has learned is still in the old
    system. Where test texts changed, the new system cannot be compared row by row with the one before, and texts that
    it is asked about later are not redacted. Raises TreatmentError without recipe, or for inputs that are not texts.

    Source: Pilán et al. 2022, The text anonymization benchmark, Computational Linguistics 48(4), section 3 (direct
    identifiers, by pattern); checksums of ISO/IEC 7812-1, ISO 13616 and GB 11643-1999.
    """
    kind = system.data.modality
    problems = [*_rows.needs(system), _common.unless(kind == "text", f"its inputs are {kind}s", "texts")]
    _common.refuse("redact_personal_data", system, problems)
    done = {name: _redacted(split) for name, split in system.data.splits.items()}
    splits = {name: split for name, (split, _) in done.items()}
    outcome = {"redacted": {name: _about(counts) for name, (_, counts) in done.items()}}
    return _rows.again(system, splits, treatment="redact_personal_data", parameters={}, outcome=outcome)


def _about(counts: Mapping[str, int]) -> dict[str, int | str]:
    return {kind: _counts.about(number) for kind, number in counts.items()}


def _redacted(split: Split) -> tuple[Split, Mapping[str, int]]:
    total: dict[str, int] = {}
    changed: list[str] = []
    for text in split.inputs.tolist():
        clean, counts = redact(text)
        changed.append(clean)
        for kind, number in counts.items():
            total[kind] = total.get(kind, 0) + number
    return (replace(split, inputs=texts(changed)) if total else split), dict(sorted(total.items()))
