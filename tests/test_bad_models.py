"""Models that run out of memory, are left training, or offer no gradient: told, and measured all the same."""

import numpy as np
import pytest
import torch

from assay import engine
from assay.access.gradients import pull_back
from assay.models.adapters.module import ModuleModel
from assay.observe import HALVED, Workspace, loss_gradients
from assay.tasks import Argmax, task_of
from assay.values import System
from support import KnownModel

ERRORS = {
    "numpy": MemoryError("Unable to allocate 3.2 GiB"),
    "torch": torch.OutOfMemoryError("CUDA out of memory"),
    "allocator": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 B"),
}


class Narrow(KnownModel):
    """Has room for so many rows."""

    def __init__(self, room, error, name=""):
        super().__init__()
        self.room, self.error, self.refused = room, error, 0
        self.digest += f"narrow {room} {name}"

    def outputs(self, inputs):
        if len(inputs) > self.room:
            self.refused += 1
            raise self.error
        return super().outputs(inputs)


@pytest.fixture(autouse=True)
def fresh():
    HALVED.clear()
    yield
    HALVED.clear()


def audited(model, data, *probes):
    system = System("narrow", model, data, task_of(data), Argmax())
    return engine.audit(system, probes=list(probes), workspace=Workspace(key=b"key", num_draws=50))


@pytest.mark.parametrize("name", ERRORS)
def test_a_batch_that_does_not_fit_is_halved_and_the_numbers_are_the_same(name, small_data):
    model, num = Narrow(60, ERRORS[name], name), len(small_data.splits["test"])
    found, whole = (audited(one, small_data, "accuracy", "input_noise") for one in (model, KnownModel()))
    assert (
        found.observations["test"].arrays["logits"].tobytes() == whole.observations["test"].arrays["logits"].tobytes()
    )
    assert [one.value for one in found.measurements] == [one.value for one in whole.measurements]
    rows = found.environment["rows a batch"]
    assert num // 2**model.refused == rows <= 60 < num // 2 ** (model.refused - 1)  # asked once too much, not each time
    assert found.observations["test"].environment["rows a batch"] == rows
    assert "rows a batch" not in whole.environment


def test_a_model_without_room_for_one_row_stops_the_audit_with_its_own_error(small_data):
    with pytest.raises(MemoryError, match=r"3\.2 GiB"):
        audited(Narrow(0, ERRORS["numpy"]), small_data, "accuracy")


def test_another_error_is_not_taken_for_a_lack_of_memory(small_data):
    model = Narrow(60, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        audited(model, small_data, "accuracy")
    assert model.refused == 1


def test_a_probe_that_runs_out_of_memory_leaves_the_others(small_data):
    class Late(KnownModel):
        def outputs(self, inputs):
            if self.num_rows >= len(small_data.splits["test"]):
                raise MemoryError("no room")
            return super().outputs(inputs)

    found = audited(Late(), small_data, "accuracy", "input_noise")
    reasons = {one.probe: one.reason for one in found.measurements}
    assert reasons["input_noise"].startswith("the probe stopped: MemoryError: no room")
    assert {one.metric: one.value for one in found.measurements}["accuracy"] is not None


@pytest.mark.slow
def test_what_needs_gradients_says_so(small_data):
    reasons = {one.probe: one.reason for one in audited(KnownModel(), small_data, "all").not_applicable}
    assert "gradient" in reasons["gradient_attack"]
    assert "this system offers meter, query" in reasons["gradient_attack"]


def test_a_module_in_training_mode_answers_as_in_evaluation_and_stays_as_it_was(small_data):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 2)
    )
    module[0].eval()
    module.training = True
    model = ModuleModel(module)
    inputs = small_data.splits["test"].inputs
    first, before = model.outputs(inputs), {name: tensor.clone() for name, tensor in module.state_dict().items()}
    np.testing.assert_array_equal(first, model.outputs(inputs))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert [part.training for part in module.modules()] == [True, False, True, True, True]
    pull_back(module, inputs[:8], lambda logits, _: np.ones_like(logits), batch_size=4)
    loss_gradients(module, inputs[:8], small_data.splits["test"].labels[:8])
    assert [part.training for part in module.modules()] == [True, False, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-5)


def test_what_any_library_says_of_memory_is_understood(small_data):
    class Unlike(Exception):
        """Of no known base, as ONNX Runtime's."""

    told = [
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        Unlike("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 123"),
    ]
    for number, error in enumerate(told):
        found = audited(Narrow(60, error, f"told {number}"), small_data, "accuracy")
        assert found.environment["rows a batch"] <= 60
    with pytest.raises(Unlike, match="shape"):
        audited(Narrow(60, Unlike("wrong shape"), "another"), small_data, "accuracy")


class NarrowModule(torch.nn.Module):
    """A module with room for so many rows, gradients or not."""

    def __init__(self, room):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.room = torch.nn.Linear(4, 2), room

    def forward(self, inputs):
        if len(inputs) > self.room:
            raise RuntimeError("MPS backend out of memory")
        return self.linear(inputs)


def test_gradients_that_do_not_fit_are_taken_of_fewer_rows_and_are_the_same(small_data):
    found = {}
    for room in (10**6, 50):
        HALVED.clear()
        system = System("narrow", ModuleModel(NarrowModule(room)), small_data, task_of(small_data), Argmax())
        names = ["gradient_attack", "gradient_sensitivity", "class_agreement"]
        found[room] = engine.audit(system, probes=names, workspace=Workspace(key=b"k", num_draws=50))
        assert not [one.reason for one in found[room].measurements if "stopped" in one.reason]
    assert found[50].environment["rows a batch"] <= 50
    wide, narrow = ([one.value for one in found[room].measurements] for room in (10**6, 50))
    np.testing.assert_allclose(np.array(narrow, float), np.array(wide, float), rtol=1e-5, atol=1e-6)


def test_a_probe_that_meets_any_error_leaves_the_others(small_data):
    class Picky(KnownModel):
        def outputs(self, inputs):
            if self.num_rows >= len(small_data.splits["test"]):
                raise AssertionError("only rows I know")  # no RuntimeError, no ValueError
            return super().outputs(inputs)

    found = audited(Picky(), small_data, "accuracy", "input_noise")
    reasons = {one.probe: one.reason for one in found.measurements}
    assert reasons["input_noise"] == "the probe stopped: AssertionError: only rows I know"
