"""A new owner's key for weights at rest, without encrypting them again."""

from __future__ import annotations

from pathlib import Path

from assay.errors import ModelError, Problem, StorageError
from assay.models.store import SUMS, read_sums, sums_text
from assay.storage import digest_file, read_verified, staged_folder, write_atomic
from assay.storage.encrypted import is_encrypted, rewrap

DOSSIER = "open"  # a folder beside `system` in a dossier


def rotate_key(folder: str | Path, *, old: bytes, new: bytes) -> tuple[str, ...]:
    """Put every encrypted file of a system folder under a new owner's key, at once or not at all; which they were.

    Each file keeps its own key and all its chunks, byte for byte; its header and SHA256SUMS are written anew. The
    system's digest stays. Limits: who has the old key and a copy of the old files can read them as before; encrypt the
    system anew where that is feared. Raises ModelError for a folder that is no system, has nothing encrypted, or lies
    in a signed dossier, whose signature covers the headers; StorageError where `old` does not open a file, or one is
    not what SHA256SUMS says: new sums must not make damage look whole.

    Source: NIST SP 800-57 part 1, section 5.3.4 (cryptoperiods) and 5.3.5.
    """
    folder = Path(folder)
    if (folder.parent / DOSSIER).is_dir():
        what = f"{folder} lies in a signed dossier, and its signature would not hold any more"
        raise ModelError(Problem(what, "a system folder", "Rotate the system's own folder, and audit it again"))
    sums = read_sums(folder)
    names = tuple(sorted(name for name in sums if is_encrypted(folder / name)))
    if not names:
        raise ModelError(Problem(f"{folder} holds nothing that is encrypted", next="Treat it with encrypt_weights"))
    damaged = [name for name in sums if digest_file(folder / name) != sums[name]]
    if damaged:
        raise StorageError(Problem(f"{folder / damaged[0]} is damaged or was changed", next="Restore it from a copy"))
    with staged_folder(folder) as staged:
        found = dict(sums)
        for name in sums:
            if name in names:
                found[name] = rewrap(folder / name, staged / name, old=old, new=new)
            else:
                write_atomic(staged / name, read_verified(folder / name, sums[name]))
        write_atomic(staged / SUMS, sums_text(found))
    return names
