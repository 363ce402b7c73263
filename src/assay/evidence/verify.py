"""Verify a dossier offline: signature first, then the digest of every file, then that its parts agree."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.digests import canonical
from assay.errors import AssayError, DossierError, Problem, StorageError
from assay.evidence.openpart import JUDGING, parse_json, per_person_arrays, read_open, receipt_of
from assay.evidence.receipts import not_after
from assay.evidence.signing import key_id, open_envelope
from assay.policy import judge, overall, parse_policy
from assay.storage import digest_file, read_regular, read_verified
from assay.values import Dossier, Measurement

__all__ = ["PARTS", "SIGNATURE", "SIGNER", "Verification", "list_files", "verify_dossier"]

SIGNATURE = "statement.dsse.json"
SIGNER = "signer.pub"
PARTS = ("signature", "open", "system", "sealed", "findings", "plan", "numbers")
_CLOSE = 1e-9  # relative: another machine may add in another order


@dataclass(frozen=True)
class Verification:
    """What was verified. `intact`: every byte is what was signed; `ok`: intact, and everything else agrees too."""

    ok: bool
    intact: bool
    problems: tuple[Problem, ...]
    parts: Mapping[str, str]  # part → what is known about it
    signer: str = ""  # key id
    is_pinned: bool = False  # the key was given by the reader, not taken from the dossier
    evidence_id: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # name → SHA-256, as signed

    def __str__(self) -> str:
        if not self.intact:
            return "Not verified: " + " ".join(str(problem) for problem in self.problems)
        who = "the key you named" if self.is_pinned else "not pinned: name the key you trust to prove who signed"
        more = "" if self.ok else " But: " + " ".join(str(problem) for problem in self.problems)
        return f"Integrity proven; signer is key {self.signer[:16]} ({who}).{more}"


Recompute = Callable[[Path], Sequence[Measurement]]


def verify_dossier(
    folder: Path, *, public_key: bytes | None = None, recompute: Recompute | None = None, not_before: str = ""
) -> Verification:
    """Verify a dossier without a network; every problem is told, with the part it lies in.

    `public_key`: PEM of the signer you trust; without it integrity is proven, but not who signed. `recompute(folder)`
    measures again from the sealed part; every number it gives must be in the open part, and equal. `not_before` (ISO
    time): refuse an older dossier put in a newer one's place. A sealed part that is absent as a whole is no problem.
    Limits: a signature proves who says so and that nothing changed since, not that the signer measured honestly.
    """
    folder = Path(folder)
    parts = dict.fromkeys(PARTS, "not verified")
    try:
        content, signer = _signed(folder, public_key)
    except AssayError as error:
        problems = tuple(Problem(f"signature: {one.what}", one.allowed, one.next) for one in error.problems)
        return Verification(False, False, problems, parts | {"signature": "damaged or missing"})
    parts |= {"signature": "verified", "numbers": "not measured again: nothing to measure with was given"}
    files: dict[str, str] = {one["name"]: one["digest"]["sha256"] for one in content["subject"]}
    bytewise = _files(folder, files, parts)
    agree: list[Problem] = []
    if not bytewise:
        agree = _contents(folder, content, files, parts)
        if recompute is not None:
            agree += _numbers(folder, recompute, parts)
    if not_before and str(content["predicate"].get("filed", "")) < not_before:
        filed = content["predicate"].get("filed")
        agree.append(Problem(f"signature: the dossier was filed {filed}", f"{not_before} or later", "Get the new one"))
    evidence_id = hashlib.sha256(canonical(content).encode()).hexdigest()
    problems = (*bytewise, *agree)
    return Verification(not problems, not bytewise, problems, parts, signer, public_key is not None, evidence_id, files)


def list_files(folder: Path) -> tuple[list[str], tuple[Problem, ...]]:
    """Names of all regular files below a folder, sorted; links, special files and empty folders are problems."""
    names, problems = [], []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            shown = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                problems.append(Problem(f"{_part(shown)}: {shown} is a link or a special file", "regular files"))
            elif path.is_file():
                names.append(shown)
            elif not os.listdir(path):
                problems.append(Problem(f"{_part(shown)}: {shown} is an empty folder that was not signed"))
    return sorted(names), tuple(problems)


def _part(name: str) -> str:
    first = name.split("/", maxsplit=1)[0]
    return first if first in ("open", "system", "sealed") else "signature" if name in (SIGNATURE, SIGNER) else "extra"


def _signed(folder: Path, public_key: bytes | None) -> tuple[dict[str, Any], str]:
    if not folder.is_dir() or folder.is_symlink():
        raise DossierError(Problem(f"{folder} is not a folder", "a dossier's folder"))
    pem = read_regular(folder / SIGNER) if public_key is None else public_key
    content = open_envelope(read_regular(folder / SIGNATURE), public_pem=pem)
    try:
        names = [one["name"] for one in content["subject"]]
        whole = all(isinstance(one["digest"]["sha256"], str) for one in content["subject"])
        whole = whole and all(isinstance(name, str) for name in names) and isinstance(content["predicate"], dict)
    except (KeyError, TypeError) as error:
        raise DossierError(Problem("the statement names no files", "in-toto subjects with sha256")) from error
    if not whole or len(set(names)) != len(names) or not {"open/dossier.json", "open/policy.toml", SIGNER} <= {*names}:
        raise DossierError(Problem("the statement does not name the files of a dossier, once each"))
    return content, key_id(pem)


def _files(folder: Path, files: Mapping[str, str], parts: dict[str, str]) -> list[Problem]:
    """Compare what is on disk with what was signed, by name and by digest."""
    listed, odd = list_files(folder)
    problems = list(odd)
    found = {name: _digest_or_none(folder / name) for name in listed if name != SIGNATURE}
    gone = [name for name in files if name not in found]
    if not (folder / "sealed").exists():
        gone = [name for name in gone if _part(name) != "sealed"]
    extra = [name for name in found if name not in files]
    moved = {name: [other for other in extra if found[other] == files[name]] for name in gone}
    for name in gone:
        new = f": it is now called {moved[name][0]}" if moved[name] else ""
        problems.append(Problem(f"{_part(name)}: {name} is missing{new}", next="Restore the dossier from a copy"))
    known = {other for others in moved.values() for other in others}
    problems += [Problem(f"{_part(name)}: {name} was not signed") for name in extra if name not in known]
    for name, digest in found.items():
        if name in files and digest != files[name]:
            allowed = f"SHA-256 {files[name]}"
            problems.append(Problem(f"{_part(name)}: {name} was changed", allowed, "Restore the dossier from a copy"))
    for part in ("open", "system", "sealed"):
        names = [name for name in files if _part(name) == part]
        bad = any(problem.what.startswith(f"{part}:") for problem in problems)
        there = (folder / part).exists()
        absent = "absent: its digests are signed" if names else "absent"
        parts[part] = "damaged" if bad else f"verified, {len(names)} files" if there else absent
    if any(problem.what.startswith("signature:") for problem in problems):
        parts["signature"] = "damaged"
    return problems


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest_file(path)
    except StorageError:
        return None


def _contents(
    folder: Path, content: Mapping[str, Any], files: Mapping[str, str], parts: dict[str, str]
) -> list[Problem]:
    """Whether statement, open part, policy, findings and plan say the same; read from bytes that were verified."""
    problems = []
    try:
        data = read_verified(folder / "open" / "dossier.json", files["open/dossier.json"])
        dossier = read_open(data, path=str(folder), evidence_id="")
        problems += _one_story(content["predicate"], dossier)
        problems += _judged(read_verified(folder / "open/policy.toml", files["open/policy.toml"]), dossier, parts)
        problems += _planned(dossier, parts)
        num_rows = min((split["num_rows"] for split in dossier.about["data"]["splits"].values()), default=0)
        for name in sorted(files):
            if name.startswith("open/") and name.endswith(".json"):
                table = parse_json(read_verified(folder / name, files[name]), name)
                places = per_person_arrays(table, num_rows)
                problems += [Problem(f"open: {name} could hold one entry per person at {one}") for one in places]
    except AssayError as error:
        problems += error.problems
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(Problem(f"open: open/dossier.json does not fit its schema ({error!r})"))
    return problems


def _one_story(predicate: Mapping[str, Any], dossier: Dossier) -> list[Problem]:
    about = dossier.about
    pairs = {
        "system": (predicate["system"]["digest"], dossier.system_digest),
        "data": (predicate["data"]["digest"], about["data"]["digest"]),
        "policy": (predicate["policy"]["digest"], about["policy"]["digest"]),
        "verdict": (predicate["verdict"], dossier.verdict),
        "time": (predicate["filed"], about["filed"]),
    }
    return [
        Problem(f"open: {name} differs from the signed statement") for name, (one, two) in pairs.items() if one != two
    ]


def _judged(text: bytes, dossier: Dossier, parts: dict[str, str]) -> list[Problem]:
    """Judge again: the findings must follow from the measurements and the policy."""
    policy, about = parse_policy(text), dossier.about["policy"]
    if policy.digest != about["digest"]:
        return [Problem("open: open/policy.toml is not the policy that the findings name")]
    if about["judging"] != JUDGING:
        parts["findings"] = f"not judged again: filed under judging {about['judging']}, this is {JUDGING}"
        return []
    again = judge(policy, dossier.measurements, dossier.not_applicable, num_systems=about["num_systems"])
    if again != dossier.findings or overall(policy, again) != dossier.verdict:
        parts["findings"] = "do not follow"
        return [Problem("open: the findings do not follow from the measurements and the policy")]
    parts["findings"] = f"verified, {len(again)} judged again"
    return []


def _planned(dossier: Dossier, parts: dict[str, str]) -> list[Problem]:
    """Whether the policy was fixed before the test split was first read."""
    receipt = receipt_of(dossier.about)
    if receipt is None:
        parts["plan"] = "absent: nothing shows when the policy was fixed"
        return []
    if receipt.policy_digest != dossier.about["policy"]["digest"]:
        return [Problem("plan: the receipt is for another policy")]
    read = [one["environment"].get("instant") for one in dossier.about["observations"].values()]
    if not read or None in read:
        parts["plan"] = "recorded; when the test split was read is not known"
        return []
    if not all(not_after(receipt.recorded, one) for one in read):
        parts["plan"] = "recorded after the test split was read"
        return [
            Problem(
                "plan: policy and plan were fixed after the test split was read", next="Record the plan, then audit"
            )
        ]
    parts["plan"] = "verified: fixed before the test split was read"
    return []


def _numbers(folder: Path, recompute: Recompute, parts: dict[str, str]) -> list[Problem]:
    """Every number that can be had again from the sealed part must be in the open part, and equal."""
    if not (folder / "sealed").is_dir():
        parts["numbers"] = "not measured again: the sealed part is absent"
        return []
    data = read_regular(folder / "open" / "dossier.json")
    shown = {one.key: one for one in read_open(data, path=str(folder), evidence_id="").measurements}
    try:
        problems, again = list[Problem](), tuple(recompute(folder))
    except AssayError as error:
        parts["numbers"] = "cannot be measured again"
        return [Problem(f"sealed: {one.what}", one.allowed, one.next) for one in error.problems]
    for one in again:
        name = ".".join(part for part in one.key if part)
        other = shown.get(one.key) or next((old for key, old in shown.items() if _is_older(key, one.key)), None)
        if other is None:
            problems.append(Problem(f"open: {name} can be measured from the sealed part, but is not shown"))
        elif not _same(one, other):
            problems.append(Problem(f"open: {name} is {other.value} [{other.low}, {other.high}]", f"{one.value}"))
    parts["numbers"] = "differ" if problems else f"verified, {len(again)} of {len(shown)} measured again"
    return problems


def _is_older(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    """Whether a slice is named as before: older dossiers name the smallest and the largest number of a range too."""
    told, now = ([part.partition("=") for part in key[2].split(" & ")] for key in (old, new))
    ends = [(one[2].partition(".."), two[2].partition("..")) for one, two in zip(told, now, strict=False)]
    alike = all(a[1] == b[1] and b[0] in ("", a[0]) and b[2] in ("", a[2]) for a, b in ends)
    return old[:2] == new[:2] and [one[0] for one in told] == [one[0] for one in now] and ".." in new[2] and alike


def _same(one: Measurement, other: Measurement) -> bool:
    counts = (one.attempted, one.scored, one.errored) == (other.attempted, other.scored, other.errored)
    pairs = ((one.value, other.value), (one.low, other.low), (one.high, other.high))
    return counts and all(
        a is b or (a is not None and b is not None and math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE))
        for a, b in pairs
    )
