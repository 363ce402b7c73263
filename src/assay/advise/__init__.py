"""What to do about a verdict: treatments that moved it here, and the cheapest system that still passes."""

from assay.advise.slim import Attempt, Slimmed, slim
from assay.advise.suggest import Advice, Suggestion, suggest

__all__ = ["Advice", "Attempt", "Slimmed", "Suggestion", "slim", "suggest"]
