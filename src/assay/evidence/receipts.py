"""Proof that the rules were fixed before the data was looked at: a policy's digest, written down with the time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.digests import canonical, digest_of
from assay.errors import DossierError, Problem
from assay.storage import make_folder, read_regular, write_new

__all__ = ["Receipt", "instant", "not_after", "record_plan"]


def instant() -> dict[str, Any]:
    """Now: wall clock, clock since boot, and which boot. Within one boot the order does not depend on the wall clock.

    >>> not_after(instant(), instant())
    True
    """
    boot = b""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return {
        "boot": hashlib.sha256(boot).hexdigest()[:16] if boot else "",
        "boot_ns": time.clock_gettime_ns(clock),
        "wall_ns": time.time_ns(),
    }


def not_after(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether one instant is not after another; by the clock since boot where both are of one boot."""
    field = "boot_ns" if first.get("boot") and first.get("boot") == second.get("boot") else "wall_ns"
    return int(first[field]) <= int(second[field])


@dataclass(frozen=True)
class Receipt:
    """What was fixed, and when. `plan_digest` names probes and options to be run; "" when only the policy was fixed."""

    policy_digest: str
    plan_digest: str
    recorded: Mapping[str, Any]


def record_plan(folder: Path, *, policy_digest: str, plan: Any = None) -> Receipt:
    """Write down a policy's digest (and any JSON-like plan) with the time, before the test split is read.

    The receipt is on disk when this returns. The same policy and plan give the first receipt again, so that a rerun
    from the cache keeps the time at which they were fixed. Limits: it binds an owner who keeps the folder and the
    clock honest; a third party's time stamp would bind more. Raises StorageError, and DossierError for a damaged one.
    """
    receipt = Receipt(policy_digest, "" if plan is None else digest_of(plan), instant())
    make_folder(folder)
    path = Path(folder) / f"plan-{digest_of([receipt.policy_digest, receipt.plan_digest])[:32]}.json"
    if write_new(path, canonical(receipt).encode() + b"\n"):
        return receipt
    try:
        first = Receipt(**json.loads(read_regular(path)))
        whole = not_after(first.recorded, receipt.recorded) or first.recorded["boot"] != receipt.recorded["boot"]
    except (ValueError, TypeError, KeyError) as error:
        raise DossierError(Problem(f"{path} is not a receipt", next="Remove it and audit again")) from error
    if not whole or (first.policy_digest, first.plan_digest) != (receipt.policy_digest, receipt.plan_digest):
        raise DossierError(Problem(f"{path} is not the receipt of this plan", next="Remove it and audit again"))
    return first
