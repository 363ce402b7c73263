"""Several labels a row, served: the names that apply, and every probability."""

import numpy as np
import pytest

from assay.serve.admission import admit
from serve_kit import GOOD, calling, file_tiny, tiny_system
from support import several


@pytest.fixture(scope="module")
def served(small_data, signer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_HOME", str(folder / "home"))
        return admit(file_tiny(tiny_system(several(small_data)), folder / "tiny", signer), allow_failed=True)


def test_the_labels_that_apply_are_named_by_both_protocols(served):
    with calling(served) as caller:
        answer = caller.predict(GOOD, {**GOOD, "age": 85.0, "hours": 95}).json()
        assert answer["labels"] == ["first", "second", "coin"]
        chances = np.array(answer["probabilities"])
        assert chances.shape == (2, 3)
        for names, row in zip(answer["predictions"], chances, strict=True):
            assert names == [name for name, one in zip(answer["labels"], row, strict=True) if one > 0.5]
        outputs = caller.get(f"/v2/models/{served.name}").json()["outputs"]
        assert [(one["name"], one["shape"]) for one in outputs] == [
            ("probabilities", [-1, 3]),
            ("predictions", [-1, 3]),
        ]
        explained = caller.post("/v1/explain", {"instances": [GOOD], "class": "second"})
        assert explained.status_code == 200
        assert explained.json()["explained"] == ["second"]
        refused = caller.post("/v1/explain", {"instances": [GOOD]})
        assert refused.status_code in (400, 422)
        assert "first, second, coin" in refused.text
