"""All weights can be read where they are stored, unless they are encrypted; unknown sizes stay unknown."""

from dataclasses import replace

from assay import engine
from assay.models import Architecture
from assay.models.adapters.module import ModuleModel
from assay.models.mlp import MLP
from assay.probes.security.weights_at_rest import readable
from assay.treatments.serve.encrypt_weights import encrypt_weights


def test_encrypting_moves_what_it_says(known_system, workspace):
    module = MLP(known_system.data.columns, hidden=[4])
    model = ModuleModel(module, architecture=Architecture("mlp", {"hidden": [4]}))
    system = replace(known_system, model=model)
    found = []
    for one in (system, encrypt_weights(system)):
        audit = engine.audit(one, probes=["weights_at_rest"], workspace=workspace)
        found.append(audit.find("readable_bytes").value)
    assert found == [model.num_bytes, 0.0]


def test_what_is_not_known_is_not_zero():
    unknown = readable(None, {})
    assert unknown.value is None
    assert unknown.reason
    assert readable(None, {"is_encrypted": True}).value == 0
    assert readable(5, {"is_encrypted": "yes"}).value == 5
