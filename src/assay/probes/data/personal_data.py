"""Personal data in the texts that a system is tested on."""

from __future__ import annotations

import numpy as np

from assay.data.quality.personal import KINDS, find
from assay.registry import EVERY_TASK, probe
from assay.stats import Draws, measured, rate
from assay.values import Array, Measurement


@probe("data", tasks=EVERY_TASK, modalities=("text",))
def personal_data(inputs: Array, draws: Draws) -> list[Measurement]:
    """Share of test texts with personal data, of any kind and of each kind that patterns and checksums can tell.

    Definition: personal_data_share(k) = #{texts with at least one piece of kind k} / N. Kinds: e-mail address, IBAN,
        Chinese identity card, payment card, Chinese mobile number, IPv4 address, phone number. Nothing is errored.
    Shapes: inputs (N,) raw texts; of any other inputs undefined.
    Direction: lower is better; unit share, 0 to 1.
    Limits: names, postal addresses and what is spelt out are not found; a made-up number that passes its checksum is.
        What was found is counted and never quoted.
    Source: checksums of ISO/IEC 7812-1 annex B (Luhn), ISO 13616 (IBAN), GB 11643-1999 (identity card); interval:
        Wilson (1927).

    >>> from assay.stats import make_draws
    >>> from assay.values import texts
    >>> told = texts(["mail ann@example.org", "mail me", "at 10.20.30.40", "no"])
    >>> found = personal_data(told, make_draws(b"key", "split", [np.zeros(4, dtype=int)]))
    >>> [(one.slice, one.value) for one in found if one.value]
    [('', 0.5), ('personal=email', 0.25), ('personal=ip address', 0.25)]
    """
    told = inputs.tolist() if inputs.dtype.kind == "T" else []
    kinds = [{kind for kind, _, _ in find(text)} for text in told]
    found = [_share(np.array([bool(one) for one in kinds], dtype=np.int64), draws, "")]
    for kind in KINDS:
        found.append(_share(np.array([kind in one for one in kinds], dtype=np.int64), draws, f"personal={kind}"))
    return found


def _share(mask: Array, draws: Draws, where: str) -> Measurement:
    if len(mask) != draws.num_rows:  # not texts: nothing was looked at
        return Measurement(
            "", "personal_data_share", None, None, None, draws.level, "none", "share", "lower", where,
            reason="the inputs are not texts",
        )  # fmt: skip
    counts = draws.counts(mask, 2)
    share = rate(counts[:, 1], counts.sum(axis=1), level=draws.level)
    return measured(
        share, "personal_data_share", unit="share", better="lower", slice=where, attempted=len(mask), headline=not where
    )
