"""Draw the matrix of a dossier as a picture: `scripts/make_picture.py DOSSIER OUT.png [LANG]`."""

from __future__ import annotations

import sys
from pathlib import Path

from assay.dossier import load_dossier
from assay.report import matrix_png, read_tables
from assay.storage import write_atomic


def main(folder: str, out: str, lang: str = "en") -> None:
    load_dossier(Path(folder))  # refuses what is not as it was signed
    tables = read_tables(Path(folder))
    if "matrix" not in tables:
        sys.exit(f"{folder} has no matrix: it is not the dossier of a comparison")
    write_atomic(Path(out), matrix_png(tables["matrix"], lang=lang))


if __name__ == "__main__":
    main(*sys.argv[1:])
