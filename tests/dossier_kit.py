"""A small audit, made by hand, and its dossier: everything real but the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy.stats import binomtest

from assay.dossier import Extras, file_dossier, sealed_observation
from assay.evidence.receipts import Receipt, instant
from assay.evidence.signing import Signer
from assay.policy import Policy, judge, parse_policy
from assay.tasks import Argmax, task_of
from assay.values import Audit, Data, Dossier, Measurement, NotApplicable, Observation, Split, Step, System
from support import COLUMNS, GROUP_COLUMNS, KnownModel, make_split

NUM_ROWS = 60
SIGNER = Signer.of(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
POLICY = """name = "small"
version = "1"
[clause.c]
cite = "Clause C"
[[rule]]
id = "hits"
metric = "hit_rate"
at_least = 0.05
clauses = ["c"]
[[rule]]
id = "other"
metric = "never_measured"
at_most = 1
required = false
"""


def policy() -> Policy:
    return parse_policy(POLICY.encode())


def measure_hits(labels: Any, predictions: Any) -> tuple[Measurement, ...]:
    """The one passive probe of these tests; replicates are stand-ins of the right shape."""
    hits, total = int((labels == predictions).sum()), len(labels)
    low, high = map(float, binomtest(hits, total).proportion_ci(0.95, "exact"))
    name, draws = "hit_rate", np.random.default_rng(1).normal(hits / total, 0.1, 50)
    one = Measurement(name, name, hits / total, low, high, 0.95, "Clopper-Pearson", "share", "higher", "", total, total)
    return (replace(one, dimension="utility", headline=True, replicates=draws),)


def system() -> System:
    splits: dict[str, Split] = {"train": make_split(NUM_ROWS + 20, 1, 1), "test": make_split(NUM_ROWS, 2, 101)}
    data = Data(
        "small", COLUMNS, "label", GROUP_COLUMNS, splits, ("no", "yes"), "yes", {"licence": "CC0-1.0", "card": "made"}
    )
    lineage = (Step("identity", "model", {"amount": 0.5}, "0" * 64, {"moved": True}),)
    return System("known", KnownModel(), data, task_of(data), Argmax(), lineage=lineage, facts={"seconds": 0.5})


def audit(own: System | None = None, *, read_at: dict[str, Any] | None = None) -> Audit:
    own = own or system()
    split = own.data.splits["test"]
    logits = own.task.logits(own.model.outputs(split.inputs), "logits")
    predictions = logits.argmax(axis=1)
    observation = Observation(
        own.digest,
        "test",
        split.digest,
        {"logits": logits, "predictions": predictions},
        0.25,
        {"joules": 1.5},
        10**6,
        {"python": "3", "instant": read_at or instant()},
    )
    return Audit(
        system=own,
        measurements=measure_hits(split.labels, predictions),
        not_applicable=(NotApplicable("gradient_attack", "it needs gradient access", "security"),),
        observations={"test": observation},
        ledger={"test pass": len(split)},
        environment={"python": "3"},
        energy={"joules": 2.0},
        policy_digest=policy().digest,
    )


def save(own: System, folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"\x00\x01weights of " + own.name.encode())


def extras(**more: Any) -> Extras:
    receipt = Receipt(policy().digest, "", {**instant(), "boot_ns": 1, "wall_ns": 1})
    return Extras(**{"receipt": receipt, "save_system": save, "tables": {"notes": {"by": "owner"}}, **more})


def make(folder: Path, audited: Audit | None = None, **more: Any) -> Dossier:
    audited = audited or audit()
    findings = judge(policy(), audited.measurements, audited.not_applicable)
    return file_dossier(
        audited, findings=findings, policy=policy(), folder=folder, signer=SIGNER, extras=extras(**more)
    )


def recompute(folder: Path) -> Sequence[Measurement]:
    labels = system().data.splits["test"].labels
    return measure_hits(labels, sealed_observation(folder).arrays["predictions"])
