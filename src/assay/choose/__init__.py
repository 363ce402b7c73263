"""Choosing a model for given data: the cheapest that is not significantly worse than the best."""

from assay.choose.candidates import Candidate, candidates_for
from assay.choose.search import Budget, Choice, Target, choose

__all__ = ["Budget", "Candidate", "Choice", "Target", "candidates_for", "choose"]
