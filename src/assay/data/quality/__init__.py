"""Looking at a data set before anything is trained on it: `check_data` gives a `QualityReport` of plain rows."""

from __future__ import annotations

from assay.data.quality.check import check_data
from assay.data.quality.report import KINDS, QualityReport, QualityRow

__all__ = ["KINDS", "QualityReport", "QualityRow", "check_data"]
