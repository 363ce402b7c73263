"""Epsilon against published values, two other accountants, and the curve that can only be too small."""

from __future__ import annotations

import pytest

from assay.errors import TreatmentError
from assay.treatments.train._accountant import epsilon_of, noise_for

accounting = pytest.importorskip("dp_accounting")
MNIST = (1.1, 256 / 60_000, 60 * 60_000 // 256)  # 60 epochs in batches of 256: TF-Privacy's tutorial prints 3.01


def rdp(noise: float, rate: float, steps: int, delta: float) -> float:
    from dp_accounting.rdp import RdpAccountant

    event = accounting.PoissonSampledDpEvent(rate, accounting.GaussianDpEvent(noise))
    return float(RdpAccountant().compose(event, steps).get_epsilon(delta))


def optimistic(noise: float, rate: float, steps: int, delta: float, interval: float) -> float:
    """Never above the truth, and less than steps * interval below it."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    one = pld.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        pessimistic_estimate=False,
        use_connect_dots=False,
        value_discretization_interval=interval,
    )
    return float(one.self_compose(steps).get_epsilon_for_delta(delta))


def test_the_run_of_the_tutorial() -> None:
    """Printed 3.01; RDP 2.60; distributions 2.39 on a coarse grid, else 2.382, as Opacus PRV has it."""
    assert epsilon_of(*MNIST, delta=1e-5) == pytest.approx(2.382, abs=1e-3)
    assert epsilon_of(*MNIST, delta=1e-5, grid=0.235) == pytest.approx(2.390, abs=1.5e-3)
    assert rdp(*MNIST, 1e-5) == pytest.approx(2.597, abs=5e-4)


@pytest.mark.parametrize(
    ("noise", "rate", "steps", "delta"),
    [
        pytest.param(1.1, 0.01, 60, 1e-5, marks=pytest.mark.slow),
        (2.0, 0.1, 100, 1e-5),
        (4.0, 1.0, 10, 1e-5),
        pytest.param(1.3, 0.5, 1, 1e-7, marks=pytest.mark.slow),
        (80.0, 0.25, 160, 1e-5),
    ],
)
def test_never_below_the_truth_and_within_one_percent(noise: float, rate: float, steps: int, delta: float) -> None:
    interval = min(1e-4, 0.004 * rate / noise)
    ours, floor = epsilon_of(noise, rate, steps, delta=delta), optimistic(noise, rate, steps, delta, interval)
    assert floor <= ours <= 1.01 * (floor + steps * interval)
    assert ours <= rdp(noise, rate, steps, delta)


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.1, 0.004, 14000), (0.9, 0.01, 3000), (1.28, 0.035, 430)])
def test_within_one_percent_of_opacus(noise: float, rate: float, steps: int) -> None:
    prv = pytest.importorskip("opacus.accountants.prv").PRVAccountant()
    prv.history = [(noise, rate, steps)]
    assert epsilon_of(noise, rate, steps, delta=1e-5) == pytest.approx(prv.get_epsilon(1e-5), rel=0.01)


def test_one_full_gaussian_is_the_closed_form() -> None:
    """Without sampling, composition of k Gaussians is one Gaussian: delta(eps) is known (Balle and Wang 2018)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    noise, steps, delta = 5.0, 9, 1e-5
    mu = steps**0.5 / noise

    def excess(epsilon: float) -> float:
        first, second = norm.cdf(mu / 2 - epsilon / mu), norm.logcdf(-mu / 2 - epsilon / mu)
        return float(first - pow(2.718281828459045, epsilon + second)) - delta

    assert epsilon_of(noise, 1.0, steps, delta=delta) == pytest.approx(brentq(excess, 0.01, 20), rel=2e-3)


@pytest.mark.parametrize("epsilon", [0.1, *(pytest.param(one, marks=pytest.mark.slow) for one in (3.0, 8.0))])
def test_noise_is_enough_and_not_wasted(epsilon: float) -> None:
    rate, steps = 0.05, 200
    noise = noise_for(epsilon, rate, steps, delta=1e-5)
    assert 0.98 * epsilon <= epsilon_of(noise, rate, steps, delta=1e-5) <= epsilon
    assert epsilon_of(noise * 0.99, rate, steps, delta=1e-5) > epsilon


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(2.0, 1.0, 10), (1.0, 0.5, 2)])
def test_looking_along_a_line_finds_what_halving_finds(epsilon: float, rate: float, steps: int) -> None:
    """The places are those that halving in logarithms comes to: the noise of every earlier run stays what it was."""
    low, high = (4.0, 8.0) if steps == 10 else (2.0, 4.0)
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        enough = epsilon_of(middle, rate, steps, delta=1e-5, grid=0.25) <= epsilon
        low, high = (low, middle) if enough else (middle, high)
    assert noise_for(epsilon, rate, steps, delta=1e-5) == pytest.approx(high, abs=1e-3, rel=0)
    assert high <= noise_for(epsilon, rate, steps, delta=1e-5)


def test_an_impossible_epsilon_is_refused() -> None:
    with pytest.raises(TreatmentError, match="more noise than helps"):
        noise_for(1e-5, 1.0, 10_000, delta=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "rate", "epochs", "printed"),
    [
        (0.7, 0.004, 45, 7.10),  # Opacus, examples/mnist_README.md @0698adf
        (1.1, 0.004, 60, 3.01),
        (1.3, 0.004, 15, 1.19),
        (1.12, 256 / 60_000, 60, 2.92),  # TensorFlow Privacy, tutorials/README.md @047e1ee
        (0.6, 256 / 60_000, 30, 9.74),
        (1.2, 256 / 60_000, 10, 1.20),
    ],
)
def test_printed_tables_are_above_what_distributions_prove(
    noise: float, rate: float, epochs: int, printed: float
) -> None:
    """Printed 1.26 to 1.51 times ours; Renyi accounting lies between."""
    steps = int(epochs / rate)
    ours = epsilon_of(noise, rate, steps, delta=1e-5)
    assert ours < rdp(noise, rate, steps, 1e-5) < printed
    assert 1.2 < printed / ours < 1.6
