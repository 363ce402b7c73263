"""Weights that only the owner of a key can read where they are stored."""

from __future__ import annotations

from dataclasses import replace

from assay.evidence.keys import weights_key
from assay.registry import treatment
from assay.storage.encrypted import CHUNK, CIPHER
from assay.treatments import _common
from assay.values import System


@treatment("serve", moves=("lower:readable_bytes",))
def encrypt_weights(system: System) -> System:
    r"""Store the weights with AES-256-GCM, in chunks of 64 KiB, each file with a key of its own; no answer changes.

    $c_i = \mathrm{GCM}_{k}(i, p_i, (\text{file}, \text{size}, i))$, and $k$ encrypted by the owner's key: `$ASSAY_KEY`,
    the file named in `$ASSAY_KEY_FILE`, or `weights.key` in the owner's folder, made here when there is none. Loading,
    auditing and serving need the same key; a changed, moved, cut or exchanged chunk is refused. A new owner's key
    leaves the chunks as they are (`assay.models.rotation.rotate_key`). Limits: at rest only: memory, answers and the
    folder that the system came from are as readable as before (remove it yourself); architecture, lineage and training
    facts stay readable; without the key nobody can restore the weights. Raises TreatmentError unless the model is a
    module of a registered architecture; StorageError for a key that cannot be used.

    Source: NIST SP 800-38D; NIST SP 800-57 part 1, section 5.3.5 (keys that encrypt keys); Hoang et al. 2015 (chunks).
    """
    problems = [_common.needs_module(system), _common.needs_architecture(system)]
    _common.refuse("encrypt_weights", system, problems)
    weights_key(is_made=True)  # now, rather than when the result is saved
    num_bytes = _common.module_model(system).num_bytes
    named = _common.grown(
        system,
        treatment="encrypt_weights",
        stage="serve",
        parameters={},
        outcome={"cipher": CIPHER, "chunk_bytes": CHUNK, "bytes": num_bytes},
    )
    return replace(named, facts={**system.facts, "is_encrypted": True})
