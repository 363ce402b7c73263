"""Training on rows that stay with clients: who holds them, what each does, and what becomes of their updates."""

from assay.train.federation.clients import SKEWS, columns_for_clients, parse_skew, split_clients
from assay.train.federation.local_work import LocalSettings, LocalWork, Update, Work
from assay.train.federation.rounds import Algorithm, FederatedSettings, Federation, run_federation

__all__ = [
    "SKEWS",
    "Algorithm",
    "FederatedSettings",
    "Federation",
    "LocalSettings",
    "LocalWork",
    "Update",
    "Work",
    "columns_for_clients",
    "parse_skew",
    "run_federation",
    "split_clients",
]
