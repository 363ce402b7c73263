"""`assay verify`: signature, digests, and every passive number again. Offline."""

from __future__ import annotations

from pathlib import Path

from assay.commands.console import Console
from assay.dossier import verify_dossier
from assay.errors import Problem, UsageError
from assay.evidence.verify import SIGNATURE, SIGNER
from assay.storage import read_regular


def run(dossier: Path, key: Path | None, console: Console) -> None:
    """Print what was verified, part by part. Exit 0 when everything holds, 1 when anything does not.

    Raises UsageError for a folder that holds nothing of a dossier.
    """
    if not any((dossier / name).exists() for name in (SIGNATURE, SIGNER, "open")):
        what = f"{dossier} holds no dossier" if dossier.is_dir() else f"{dossier} is not a folder"
        raise UsageError(Problem(what, "the folder of a dossier", "Make one with: assay audit SYSTEM --out dossier"))
    trusted = None if key is None else read_regular(key)
    recompute = None
    if (dossier / "sealed").is_dir():
        from assay.evidence.sealed import recompute as measure_again

        recompute = measure_again
    found = verify_dossier(dossier, public_key=trusted, recompute=recompute)
    for part, state in found.parts.items():
        console.say(f"{part + ':':<11} {state}")
    console.say(str(found))
    document = {"ok": found.ok, "intact": found.intact, "parts": found.parts, "problems": found.problems}
    who = {"signer": found.signer, "is_pinned": found.is_pinned, "evidence_id": found.evidence_id}
    console.finish(document | who, code=0 if found.ok else 1)
