"""Probabilities that pass for logits, and scores that pass for probabilities, are told; sound models are left alone."""

import numpy as np
import pytest

from assay import engine
from assay.observe import Workspace
from assay.tasks import Argmax, task_of
from assay.values import System
from support import KnownModel


class Answers(KnownModel):
    def __init__(self, outputs_are, make):
        super().__init__()
        self.outputs_are, self.make = outputs_are, make
        self.digest += outputs_are + str(id(make))

    def outputs(self, inputs):
        return self.make(super().outputs(inputs).astype(np.float64)).astype(np.float32)


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


CASES = {
    "logits": ("logits", lambda z: z, 0.0, ""),
    "log-probabilities": ("logits", lambda z: np.log(softmax(z)), 0.0, ""),
    "softmax taken for logits": ("logits", softmax, 1.0, "outputs_are='probabilities'"),
    "softmax in 16 bits": ("logits", lambda z: softmax(z).astype(np.float16), 1.0, "outputs_are='probabilities'"),
    "one sigmoid taken for a logit": ("logits", lambda z: softmax(z)[:, 1:], 1.0, "outputs_are='probabilities'"),
    "one logit": ("logits", lambda z: z[:, 1:] - z[:, :1], None, ""),
    "probabilities": ("probabilities", softmax, 0.0, ""),
    "one probability": ("probabilities", lambda z: softmax(z)[:, 1:], 0.0, ""),
    "labels, one column a class": ("logits", lambda z: np.eye(2)[z.argmax(axis=1)], 1.0, "labels, of which no prob"),
    "labels, one column": ("logits", lambda z: z.argmax(axis=1)[:, None], 1.0, "labels, of which no probability"),
    "labels for probabilities": ("probabilities", lambda z: np.eye(2)[z.argmax(axis=1)], 0.0, "labels, of which"),
    "one label for a probability": ("probabilities", lambda z: z.argmax(axis=1)[:, None], 0.0, "labels, of which"),
    "scores taken for probabilities": ("probabilities", lambda z: 0.7 * softmax(z), 1.0, "do not sum to 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_numbers_look_like(name, small_data):
    declared, make, expected, said = CASES[name]
    system = System(name, Answers(declared, make), small_data, task_of(small_data), Argmax())
    audit = engine.audit(system, probes=["output_form"], workspace=Workspace(key=b"key", num_draws=50))
    (found,) = audit.measurements
    if expected is None:
        assert found.value < 0.5
    else:
        assert found.value == expected
    assert said in found.reason
    assert bool(said) == bool(found.reason)
    assert found.low <= found.value <= found.high
