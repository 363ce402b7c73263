"""The dossier: a signed folder that says what was measured, on what, and how it was judged.

    statement.dsse.json     signature over the digest of every other file
    signer.pub              the public key; whether to trust it is the reader's decision
    open/dossier.json       measurements, findings, digests: for anybody
    open/policy.toml        the rules, as they were
    open/<name>.json        further tables, such as the matrix of a comparison
    system/                 the system itself
    sealed/                 observations and replicates: one row per person, stays with the owner

It appears whole or not at all, and a former one stays until then.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from assay.digests import Array, canonical
from assay.errors import DossierError, Problem
from assay.evidence.openpart import build_open, leaks, per_person_arrays, read_open, to_json
from assay.evidence.predicate import predicate
from assay.evidence.receipts import Receipt
from assay.evidence.signing import Signer, sign_statement, statement
from assay.evidence.verify import SIGNATURE, SIGNER, Verification, list_files, verify_dossier
from assay.policy import Policy, judge
from assay.storage import Content, digest_file, make_folder, read_regular, read_verified, recover_folder, staged_folder
from assay.storage.packed import pack
from assay.values import Audit, Dossier, Finding, Observation, System

__all__ = [
    "Extras",
    "Verification",
    "file_dossier",
    "load_dossier",
    "per_person_arrays",
    "sealed_observation",
    "verify_dossier",
]

_NAME = re.compile(r"(open|system|sealed)(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){1,6}")


@dataclass(frozen=True)
class Extras:
    """What else goes into a dossier. `tables` become `open/<name>.json`; `files` map names to bytes or pieces."""

    receipt: Receipt | None = None
    save_system: Callable[[System, Path], object] | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Content] = field(default_factory=dict)
    sealed: bool = True
    num_systems: int = 1  # judged side by side, as told to `policy.judge`


def file_dossier(
    audit: Audit,
    *,
    findings: Sequence[Finding],
    policy: Policy,
    folder: Path,
    signer: Signer,
    extras: Extras | None = None,
) -> Dossier:
    """Write and sign a dossier of an audit; a former one in `folder` is replaced in one step.

    Raises DossierError when the parts do not belong together, or when anything open could hold one entry per person;
    StorageError when it cannot be written. In both cases what was there before is untouched.
    """
    extras = extras or Extras()
    _belongs(audit, findings, policy, extras)
    filed = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    main = build_open(
        audit,
        findings=findings,
        policy=policy,
        receipt=extras.receipt,
        filed=filed,
        num_systems=extras.num_systems,
    )
    shown = _open_files(main, policy, extras, audit)
    files: dict[str, Content] = {**shown, **(_sealed_files(audit) if extras.sealed else {})}
    _named([*files, *extras.files])  # before anything is written: a name decides where
    files |= extras.files
    with staged_folder(folder) as temp:
        for name, data in {**files, SIGNER: signer.public_pem}.items():
            _write(temp / name, data)
        if extras.save_system is not None:
            make_folder(temp / "system")
            extras.save_system(audit.system, temp / "system")
        found, problems = list_files(temp)
        if problems:
            raise DossierError(problems)
        _named([name for name in found if name != SIGNER])
        subjects = {name: digest_file(temp / name) for name in found}
        content = statement(subjects, predicate(audit, findings, policy=policy, filed=filed))
        _write(temp / SIGNATURE, sign_statement(content, signer=signer))
    evidence_id = hashlib.sha256(canonical(content).encode()).hexdigest()
    filed_one = read_open(shown["open/dossier.json"], path=str(folder), evidence_id=evidence_id)
    return replace(filed_one, measurements=audit.measurements)


def load_dossier(folder: Path, *, verify: bool = True, sealed: bool = False) -> Dossier:
    """A dossier from its folder; with `verify` only when every byte is what was signed.

    `sealed` also reads the replicates, for paired comparisons. `verify=False` is for looking at a damaged one.
    Raises DossierError with every problem found, or StorageError.
    """
    folder = Path(folder)
    if not folder.exists():
        recover_folder(folder)
    if verify:
        verification = _intact(folder)
        evidence_id, digests = verification.evidence_id, verification.files
    else:
        evidence_id, digests = "", {}
    found = read_open(_bytes(folder, "open/dossier.json", digests), path=str(folder), evidence_id=evidence_id)
    if not sealed:
        return found
    arrays = _tensors(folder, "sealed/replicates.safetensors", digests)
    measurements = [replace(one, replicates=arrays.get(str(index))) for index, one in enumerate(found.measurements)]
    return replace(found, measurements=tuple(measurements))


def sealed_observation(folder: Path, *, split: str = "test") -> Observation:
    """The recorded pass in the sealed part, after verifying. Raises DossierError when it is absent or damaged."""
    folder = Path(folder)
    files = _intact(folder).files
    about = read_open(_bytes(folder, "open/dossier.json", files), path=str(folder), evidence_id="").about
    facts = about["observations"].get(split)
    if facts is None:
        raise DossierError(
            Problem(f"the dossier has no observation of the {split} split", ", ".join(about["observations"]))
        )
    return Observation(
        system_digest=facts["system_digest"],
        split=split,
        split_digest=facts["split_digest"],
        arrays=_tensors(folder, f"sealed/observation-{split}.safetensors", files),
        seconds=facts["seconds"],
        joules=facts["joules"],
        peak_bytes=facts["peak_bytes"],
        environment=facts["environment"],
    )


# ------------------------------------------------------------------ pieces


def _belongs(audit: Audit, findings: Sequence[Finding], policy: Policy, extras: Extras) -> None:
    problems = []
    if audit.policy_digest not in ("", policy.digest):
        problems.append(
            Problem("the audit was planned under another policy", f"policy {audit.policy_digest[:16]}", "Audit again")
        )
    if extras.receipt is not None and extras.receipt.policy_digest != policy.digest:
        problems.append(Problem("the receipt is for another policy", f"policy {policy.digest[:16]}"))
    if judge(policy, audit.measurements, audit.not_applicable, num_systems=extras.num_systems) != tuple(findings):
        what = "the findings do not follow from the policy and the measurements of this audit"
        problems.append(Problem(what, "what policy.judge gives for them, with the same num_systems"))
    if problems:
        raise DossierError(problems)


def _named(names: Sequence[str]) -> None:
    """Every name is plain, within the layout, and there once. Raises DossierError."""
    bad = [name for name in names if not _NAME.fullmatch(name)]
    problems = [Problem(f"{name!r} cannot be a file of a dossier", _NAME.pattern) for name in bad]
    problems += [Problem(f"{name!r} is given twice") for name in sorted({one for one in names if names.count(one) > 1})]
    if problems:
        raise DossierError(problems)


def _open_files(main: Mapping[str, Any], policy: Policy, extras: Extras, audit: Audit) -> dict[str, bytes]:
    tables = {"dossier": main, **{name: table for name, table in extras.tables.items() if name != "dossier"}}
    problems = leaks(tables, audit.system.data)
    if problems:
        raise DossierError(problems)
    files = {f"open/{name}.json": to_json(table, f"open/{name}.json") for name, table in tables.items()}
    return files | {"open/policy.toml": policy.text.encode()}


def _sealed_files(audit: Audit) -> dict[str, Content]:
    files: dict[str, Content] = {
        f"sealed/observation-{split}.safetensors": pack(observation.arrays)
        for split, observation in audit.observations.items()
    }
    replicates = {
        str(index): one.replicates for index, one in enumerate(audit.measurements) if one.replicates is not None
    }
    return files | {"sealed/replicates.safetensors": pack(replicates)}


def _intact(folder: Path) -> Verification:
    verification = verify_dossier(folder)
    if not verification.intact:
        raise DossierError(verification.problems)
    return verification


def _bytes(folder: Path, name: str, digests: Mapping[str, str]) -> bytes:
    """The bytes that were signed, even if the file changed since it was verified; any bytes when not verifying."""
    return read_verified(folder / name, digests[name]) if name in digests else read_regular(folder / name)


def _tensors(folder: Path, name: str, digests: Mapping[str, str]) -> dict[str, Array]:
    if not (folder / name).is_file():
        raise DossierError(Problem(f"{name} is not there: the sealed part is absent", next="Ask its owner"))
    try:
        return dict(load_tensors(_bytes(folder, name, digests)))
    except SafetensorError as error:
        raise DossierError(Problem(f"{name} cannot be read ({error})", "safetensors")) from error


def _write(path: Path, data: Content) -> None:
    """Plain writing: the folder is not visible yet, and is fsynced as a whole before it is."""
    sealed = path.parent.name == "sealed"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if sealed else 0o777)
    with path.open("wb") as file:
        for piece in [data] if isinstance(data, bytes) else data:
            file.write(piece)
    if sealed:
        path.chmod(0o600)
