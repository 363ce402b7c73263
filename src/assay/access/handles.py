"""What an active probe may do to a system: batched, counted, budgeted, and remembered by digest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from assay import units
from assay.access.allowance import Allowance
from assay.access.entrance import Entrance, entrance_of
from assay.access.gradients import CACHED_NUMBERS, Cotangent, Embedded, embed, pull_back, pull_back_embedded
from assay.access.inversion import Inverted, first_linear, match, solve
from assay.errors import ModelError, Problem
from assay.models.vectors import ByColumn, ByToken, attention_maps, by_token, is_attending
from assay.observe import BATCH, WHITE_BATCH, Ledger, Workspace, halving, module_of, observe, run_model
from assay.values import Array, Column, Groups, Measurement, Split, System, array_digest, digest_of, texts

MOST_KNOWN = 10_000
WORTH_STORING = 1024  # rows: smaller batches are remembered for the run only


def keyed_rng(*parts: str) -> np.random.Generator:
    """The same stream for the same words on any machine."""
    return np.random.Generator(np.random.Philox(int(digest_of(list(parts))[:32], 16)))


@lru_cache(maxsize=2)  # a score of probes ask for it, and of a million rows it is 8 MB
def _order(split_digest: str, num_rows: int) -> Array:
    """Every test row in the keyed order of which samples are prefixes, `(num_rows,)`."""
    return keyed_rng("rows", split_digest).permutation(num_rows)


@dataclass(frozen=True)
class Query:
    """Raw inputs in, answers out; the same inputs are never run twice. With gradient access also gradients.

    A probe that names `query` must work on a black box: it uses answers only. One that names `gradient` is run
    only on systems that offer gradients, and gets the same handle.
    """

    system: System
    workspace: Workspace
    ledger: Ledger
    kind: str = "query"
    allowance: Allowance = field(default_factory=Allowance, compare=False)

    @property
    def _test(self) -> Split:
        return self.system.data.splits["test"]

    @property
    def inputs(self) -> Array:
        """Test rows `(N, ...)`, raw: `(N, F)` of a table, `(N, C, H, W)` pixels, `(N,)` texts."""
        return self._test.inputs

    @property
    def labels(self) -> Array:
        """Test labels `(N,)`."""
        return self._test.labels

    @property
    def groups(self) -> Groups:
        """Sensitive columns of the test rows."""
        return self._test.groups

    @property
    def columns(self) -> tuple[Column, ...]:
        """The feature columns, in the order of the inputs."""
        return self.system.data.columns

    @cached_property
    def background(self) -> Array:
        """At most 100 training rows, the same for every system on this data; for texts the empty text alone."""
        if self.system.data.modality == "text":
            return texts([""])
        train = self.system.data.splits["train"].inputs
        chosen = self.rng("background").choice(len(train), size=min(100, len(train)), replace=False)
        return train[np.sort(chosen)]

    @cached_property
    def known(self) -> Array:
        """At most 10,000 training rows, for quantiles, means and counts of training values that a hundred cannot give.

        Fewer where a row is long: 2^22 numbers in all, though no fewer than 100 rows.
        """
        train = self.system.data.splits["train"].inputs
        most = min(MOST_KNOWN, max(100, (1 << 22) // max(train[:1].size, 1)))
        if len(train) <= most:
            return train
        return train[np.sort(self.rng("known").choice(len(train), size=most, replace=False))]

    @cached_property
    def ground(self) -> units.Ground:
        """What takes the place of masked units: the background, mixed in by column, patch or word."""
        return units.Ground(self.background, units.of(self.columns))

    def rng(self, name: str) -> np.random.Generator:
        """Keyed by the test rows, not by the system: two systems meet the same perturbations."""
        return keyed_rng(name, self._test.digest)

    def rows(self, num: int) -> Array:
        """At most `num` test row indices, sorted, the same for every system on this data; fewer where the budget ends.

        Raises BudgetError where it reaches for hardly any.
        """
        num = self.allowance.of(min(num, len(self._test)))
        return np.sort(_order(self._test.digest, len(self._test))[:num])  # smaller samples nest in larger ones

    def unsampled(self, found: Iterable[Measurement]) -> list[Measurement]:
        """Measurements as they are, which rest on no sample of `rows`: where the budget ends they are not partial."""
        known = list(found)
        self.allowance.whole.update((one.metric, one.slice) for one in known)
        return known

    def logits(self, inputs: Array) -> Array:
        """`(M, ...)` to `(M, K)`; free when the same inputs were asked before, now or in an earlier audit."""
        if inputs.dtype not in (np.uint8, np.float32) and inputs.dtype.kind != "T":
            inputs = np.ascontiguousarray(inputs, dtype=np.float32)
        # Of the model, not the system: what only changes the decision rule is answered from the same passes.
        key = ["query", 2, self.system.model.digest, self.system.task.digest, array_digest(inputs)]
        cache = self.workspace.cache
        cache = cache if len(inputs) >= WORTH_STORING else cache.in_memory()
        stored = cache.get(key)
        if stored is not None:
            return stored[0]["logits"]
        self.ledger.add(self.kind, len(inputs))
        logits = run_model(self.system, inputs)
        cache.put(key, {"logits": logits}, {})
        return logits

    def fresh_logits(self, inputs: Array, *, batch_size: int) -> Array:
        """`(M, ...)` to `(M, K)`, run anew whatever is remembered, in batches of `batch_size`; counts M rows."""
        self.ledger.add(self.kind, len(inputs))
        starts = range(0, max(len(inputs), 1), batch_size)
        return np.concatenate([run_model(self.system, inputs[start : start + batch_size]) for start in starts])

    @property
    def rows_a_batch(self) -> int:
        """Rows that go through the module at once when gradients are asked for."""
        return _rows_a_batch(self.inputs)

    def train_embeddings(self) -> Array:
        """White box: embeddings `(N_train, D)` of the training rows, from a pass that is counted and remembered."""
        want = frozenset({"embeddings"})
        return observe(self.system, "train", want=want, workspace=self.workspace, ledger=self.ledger).arrays[
            "embeddings"
        ]

    def probabilities(self, inputs: Array) -> Array:
        """`(M, F)` to `(M, K)`; for regression the predicted values `(M, 1)`."""
        return self.system.task.probabilities(self.logits(inputs))

    def predictions(self, inputs: Array, groups: Groups) -> Array:
        """`(M, F)` to the system's answers `(M,)`, decision rule included; -1 (or NaN) = errored."""
        return self.system.decision.decide(self.probabilities(inputs), inputs, groups)

    @cached_property
    def numeric(self) -> Array:
        """Bool, broadcasts with an input: columns that a small change makes sense for, `(F,)`; every pixel."""
        return self._per_column([column.kind in ("numeric", "image") for column in self.columns], bool)

    @cached_property
    def low(self) -> Array:
        """Lowest plausible value, `(F,)` or `(1, 1, 1)` for pixels (training split)."""
        return self._per_column([-np.inf if column.low is None else column.low for column in self.columns], np.float32)

    @cached_property
    def high(self) -> Array:
        """Highest plausible value, `(F,)` or `(1, 1, 1)` for pixels (training split)."""
        return self._per_column([np.inf if column.high is None else column.high for column in self.columns], np.float32)

    def _per_column(self, values: list[Any], dtype: Any) -> Array:
        found = np.array(values, dtype=dtype)
        return found.reshape(1, 1, 1) if self.system.data.modality == "image" else found

    def inverted(self, rows: Array, *, steps: int) -> Inverted | None:
        """White box: test rows `(n,)` recovered from one gradient of the weights each; see `assay.access.inversion`.

        Exact where a linear layer comes first, else by `steps` of matching for pixels, else None. Counts every row run.
        """
        module, inputs, labels = module_of(self.system), self.inputs[rows], self.labels[rows]
        is_exact = first_linear(module, inputs) is not None
        is_image = self.system.data.modality == "image"
        ways = {True: 1 + len(rows) + len(self.background), False: 1 + len(rows) * (steps + 1) if is_image else 1}
        self.ledger.add(self.kind, ways[is_exact])
        if is_exact:
            return solve(module, inputs, labels, self.background)
        rng = self.rng("inversion")
        return match(module, inputs, labels, self.background, steps=steps, rng=rng) if is_image else None

    def logits_and_gradients(self, inputs: Array, cotangent: Cotangent) -> tuple[Array, Array]:
        """White box: logits `(M, K)`, and gradients `(M, ...)` of the sum of logits weighted by `cotangent`.

        `cotangent(logits (m, K), positions (m,))` gives the weights `(m, K)`: the derivative of any objective by the
        logits. Zero for categorical columns; counts M rows.
        """
        if not len(inputs):
            num_outputs = self.system.task.num_outputs
            return np.empty((0, num_outputs), dtype=np.float32), np.empty(inputs.shape, dtype=np.float32)
        self.ledger.add(self.kind, len(inputs))
        module = module_of(self.system)
        logits, gradients = halving(
            self.system, _rows_a_batch(inputs), lambda size: pull_back(module, inputs, cotangent, batch_size=size)
        )
        if not self.numeric.all():
            gradients[:, ~self.numeric] = 0
        return logits, gradients

    @cached_property
    def entrance(self) -> Entrance | None:
        """White box: where a network of pictures can be cut behind an affine first layer; None where it cannot."""
        return entrance_of(module_of(self.system), self.inputs) if self.system.data.modality == "image" else None

    def logits_and_inner_gradients(
        self, entrance: Entrance, points: Array, cotangent: Cotangent
    ) -> tuple[Array, Array]:
        """`logits_and_gradients` at `points (M, ...)` behind the entrance: gradients of that shape; counts M rows."""
        self.ledger.add(self.kind, len(points))
        most = _rows_a_batch(self.inputs)
        return halving(self.system, most, lambda size: pull_back(entrance.rest, points, cotangent, batch_size=size))

    @cached_property
    def can_embed(self) -> bool:
        """Whether `embedded` works: texts, and tables whose model can be entered at its encoding."""
        module, kinds = module_of(self.system), {"text": ByToken, "table": ByColumn}
        kind = kinds.get(self.system.data.modality)
        return kind is not None and isinstance(module, kind)

    def embedded(self, inputs: Array) -> Embedded:
        """White box: texts or table rows `(M, ...)` where gradients can be taken of every word or category."""
        return embed(module_of(self.system), inputs)

    @cached_property
    def attends(self) -> bool:
        """White box: whether tokens attend to each other in this model."""
        return self.can_embed and is_attending(module_of(self.system))

    def attention(self, inputs: Array) -> list[Array]:
        """White box: attention of texts `(M,)`, mean of heads, `(m, layers, L, L)` a batch of 64; counts M rows."""
        self.ledger.add(self.kind, len(inputs))
        return attention_maps(module_of(self.system), inputs)

    def spans(self, inputs: Array) -> list[list[tuple[int, int]]]:
        """White box: first character of each token of texts `(M,)` and the one after its last; (0, 0) = added."""
        return by_token(module_of(self.system)).token_spans(inputs)

    def logits_and_embedded_gradients(self, at: Embedded, cotangent: Cotangent) -> tuple[Array, Array]:
        """`logits_and_gradients` at other vectors, `(M, L, D)` or `(M, D)`: gradients of that shape; counts M rows."""
        if not len(at.vectors):
            return np.empty((0, self.system.task.num_outputs), dtype=np.float32), np.empty(at.vectors.shape, np.float32)
        self.ledger.add(self.kind, len(at.vectors))
        module = module_of(self.system)
        most = _rows_a_batch(at.vectors)
        return halving(self.system, most, lambda size: pull_back_embedded(module, at, cotangent, batch_size=size))


def _rows_a_batch(inputs: Array) -> int:
    """Rows that go through a module at once when gradients are asked for."""
    most = BATCH if inputs.ndim == 2 else WHITE_BATCH
    return int(np.clip(CACHED_NUMBERS // max(1, inputs[:1].size), min(32, most), most))


@dataclass(frozen=True)
class Reference:
    """One reference model: the same recipe and treatments, a random half of the training split, its own seed."""

    system: System
    members: Array  # (N_train,) bool: the rows it was trained on
    logits: Callable[[str], Array]  # of a split's rows (N, K), read when asked for: millions are many
    seed: int

    @property
    def train_logits(self) -> Array:
        """`(N_train, K)`."""
        return self.logits("train")

    @property
    def test_logits(self) -> Array:
        """`(N_test, K)`: of test rows in the form of the training rows, as all of `Retrain` has them."""
        return self.logits(self.system.data.non_members)


@dataclass(frozen=True)
class Canaries:
    """What one training said of m made-up rows, each included by an own fair coin."""

    labels: Array  # (m,) drawn at random
    included: Array  # (m,) bool
    logits: Array  # (m, K) of the model trained with the included ones
    facts: Mapping[str, Any]  # of that training: epsilon and delta where it claims them


@dataclass(frozen=True)
class Released:
    """What each of T steps of one private training released in the directions of m canaries, seen from inside."""

    sums: Array  # (T, m) noised sums times the expected batch size, over the clipping norm: a canary adds at most 1
    included: Array  # (m,) bool: the canaries among the rows, each by an own fair coin
    batch_sizes: Array  # (T,) rows drawn
    times_drawn: Array  # (N,) steps that drew each row, canaries among them
    facts: Mapping[str, Any]  # of that training: its claims


@dataclass(frozen=True)
class Retrain:
    """Reference models in complementary pairs: every training row is in exactly half of them.

    Its test rows have the form of the training rows: generalised where those are, as they are anywhere else.
    """

    system: System
    references: tuple[Reference, ...]
    target_train_logits: Array
    target_test_logits: Array
    with_canaries: Callable[[], Canaries] | None = None  # one more training, made when it is asked for
    from_inside: Callable[[], Released | None] | None = None  # one more, whose steps are seen

    @property
    def canaries(self) -> Canaries:
        """Made-up rows, half of them by coins among the rows of one more training of the recipe."""
        if self.with_canaries is None:
            raise ModelError(Problem(f"{self.system.name} has no recipe to train with canaries"))
        return self.with_canaries()

    @property
    def released(self) -> Released | None:
        """What the steps of one more training released; None where the recipe's steps are not shown."""
        return None if self.from_inside is None else self.from_inside()

    @property
    def train_labels(self) -> Array:
        """`(N_train,)`."""
        return self.system.data.splits["train"].labels

    @property
    def train_rows(self) -> Array:
        """Row numbers in the source `(N_train,)`: copies of a row, changed or not, have its number."""
        return self.system.data.splits["train"].rows

    @property
    def test_labels(self) -> Array:
        """`(N_test,)`."""
        return self._non_members.labels

    @property
    def train_groups(self) -> Groups:
        """Sensitive columns of the training rows."""
        return self.system.data.splits["train"].groups

    @property
    def test_groups(self) -> Groups:
        """Sensitive columns of the test rows."""
        return self._non_members.groups

    @property
    def _non_members(self) -> Split:
        return self.system.data.splits[self.system.data.non_members]

    def rng(self, name: str) -> np.random.Generator:
        """Keyed by the test rows as they are, not by the system."""
        return keyed_rng(name, self.system.data.splits["test"].digest)
