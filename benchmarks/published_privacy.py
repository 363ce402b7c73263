"""Epsilons that others printed, recomputed: ours | RDP | printed; and our epsilon's tightness and speed.

    python -m benchmarks.published_privacy

Part 1: the rows of TensorFlow Privacy's tutorial table and of Opacus' MNIST page, at delta 1e-5. Part 2: 20 settings
(noise multiplier, sample rate, steps): ours over the optimistic curve of privacy loss distributions (the truth lies
between that and ours: at least 1, at most 1.01), CPU seconds (at most 0.1), and Opacus' PRV accountant in the same run.
Printed numbers stand for sampled batches (Poisson); what the tutorials ran shuffled, which no row covers.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.rdp import RdpAccountant

from assay.treatments.train._accountant import epsilon_of

DELTA = 1e-5
ROWS = 60_000
PRINTED = (  # source, noise multiplier, sample rate, epochs, epsilon as printed
    ("TF-Privacy tutorials/README.md @047e1ee", 1.12, 256 / ROWS, 60, 2.92),
    ("TF-Privacy tutorials/README.md @047e1ee", 0.6, 256 / ROWS, 30, 9.74),
    ("TF-Privacy tutorials/README.md @047e1ee", 1.2, 256 / ROWS, 10, 1.20),
    ("TF-Privacy later table (also Opacus)", 1.1, 256 / ROWS, 60, 3.01),
    ("Opacus examples/mnist_README.md @0698adf", 0.7, 0.004, 45, 7.10),
    ("Opacus examples/mnist_README.md @0698adf", 1.1, 0.004, 60, 3.01),
    ("Opacus examples/mnist_README.md @0698adf", 1.3, 0.004, 15, 1.19),
)
SETTINGS = [
    (noise, rate, steps)
    for noise, rate in ((0.7, 0.004), (0.8, 0.01), (1.1, 0.00427), (1.3, 0.02), (2.0, 0.05), (4.0, 0.1), (1.0, 0.03))
    for steps in (100, 600, 3000)
][:20]


def rdp(noise: float, rate: float, steps: int) -> float:
    """Epsilon by Renyi differential privacy, dp-accounting's orders."""
    event = dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise))
    return float(RdpAccountant().compose(dp_event.SelfComposedDpEvent(event, steps)).get_epsilon(DELTA))


def optimistic(setting: tuple[float, float, int], near: float) -> float:
    """Never above the truth: every loss rounded down, which costs at most steps * interval, 0.3 % of `near` here."""
    noise, rate, steps = setting
    one = pld.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        value_discretization_interval=0.003 * near / steps,
        pessimistic_estimate=False,
        use_connect_dots=False,
    )
    return float(one.self_compose(steps).get_epsilon_for_delta(DELTA))


def prv(noise: float, rate: float, steps: int) -> float:
    """Opacus' PRV accountant at its default accuracy."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    return float(accountant.get_epsilon(DELTA))


def timed(call: Callable[[float, float, int], float], setting: tuple[float, float, int]) -> tuple[float, float]:
    """Its answer and its CPU seconds."""
    began = time.process_time()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        found = call(*setting)
    return found, time.process_time() - began


def ours(noise: float, rate: float, steps: int) -> float:
    """Without what is remembered from an earlier call."""
    epsilon_of.cache_clear()
    return epsilon_of(noise, rate, steps, delta=DELTA)


def main() -> None:
    """Print both parts."""
    print(f"{'source':42s} {'noise':>5s} {'rate':>8s} {'steps':>6s}   ours    RDP  printed  printed/ours")
    for source, noise, rate, epochs, printed in PRINTED:
        setting = (noise, rate, int(epochs / rate))
        mine, renyi = ours(*setting), rdp(*setting)
        print(
            f"{source:42s} {noise:5.2f} {rate:8.5f} {setting[2]:6d}  {mine:5.2f}  {renyi:5.2f}    {printed:5.2f}"
            f"  {printed / mine:5.2f}"
        )
    ours(1.0, 0.01, 10)  # imports are not timed
    found = []
    print(f"\n{'noise':>5s} {'rate':>8s} {'steps':>6s}   ours  ours/optimistic  ours/PRV   CPU s   PRV CPU s")
    for setting in SETTINGS:
        (mine, seconds), (peer, peer_seconds) = timed(ours, setting), timed(prv, setting)
        low = optimistic(setting, mine)
        found.append((mine / low, seconds, peer_seconds))
        print(
            f"{setting[0]:5.2f} {setting[1]:8.5f} {setting[2]:6d}  {mine:5.3f}  {mine / low:15.5f}  {mine / peer:8.4f}"
            f"  {seconds:6.3f}  {peer_seconds:10.3f}"
        )
    ratio, seconds, peer_seconds = np.array(found).T
    print(f"{len(SETTINGS)} settings: ours / optimistic {ratio.min():.5f} to {ratio.max():.5f}")
    print(
        f"CPU seconds: ours {np.median(seconds):.3f} (at most {seconds.max():.3f}); PRV {np.median(peer_seconds):.3f}"
    )
    print(f"PRV / ours, median of ratios {np.median(peer_seconds / seconds):.1f}")


if __name__ == "__main__":
    main()
