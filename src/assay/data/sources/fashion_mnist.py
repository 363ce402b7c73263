"""Fashion-MNIST: 70,000 small grey pictures of clothes in ten classes, from the Debian package of the set."""

from __future__ import annotations

from assay.data.sources.cache import load_files
from assay.data.sources.images import image_data, read_idx
from assay.data.sources.source import Kept, Mirror, Package, Source
from assay.values import Data, Progress, quiet

CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
_INSIDE = "!usr/share/datasets/fashion-mnist"
_PUBLIC = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/b2617bb6d3ffa2e429640350f613e3291e10b141"


def _mirror(name: str, sha256: str, num_bytes: int) -> Mirror:
    return Mirror(f"{_PUBLIC}/data/fashion/{name}.gz", sha256, num_bytes, ((name, "!"),))


SOURCE = Source(
    "fashion_mnist",
    Package(
        "debian",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        30_900_652,
    ),
    (
        Kept(
            "train-images-idx3-ubyte",
            f"{_INSIDE}/train-images-idx3-ubyte.gz!",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            47_040_016,
        ),
        Kept(
            "train-labels-idx1-ubyte",
            f"{_INSIDE}/train-labels-idx1-ubyte.gz!",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            60_008,
        ),
        Kept(
            "t10k-images-idx3-ubyte",
            f"{_INSIDE}/t10k-images-idx3-ubyte.gz!",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            7_840_016,
        ),
        Kept(
            "t10k-labels-idx1-ubyte",
            f"{_INSIDE}/t10k-labels-idx1-ubyte.gz!",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            10_008,
        ),
    ),
    address="https://github.com/zalandoresearch/fashion-mnist",
    licence="MIT",
    citation="Xiao, Rasul, Vollgraf 2017: Fashion-MNIST, arXiv:1708.07747",
    mirrors=(
        _mirror(
            "train-images-idx3-ubyte", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26_421_880
        ),
        _mirror("train-labels-idx1-ubyte", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29_515),
        _mirror(
            "t10k-images-idx3-ubyte", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4_422_102
        ),
        _mirror("t10k-labels-idx1-ubyte", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5_148),
    ),
)


def load_fashion_mnist(
    *, validation: float = 0.1, seed: int = 0, fetch: bool = False, progress: Progress = quiet
) -> Data:
    """Fashion-MNIST with its published split: 60,000 training pictures (a share to validation) and 10,000 of test.

    Inputs `(N, 1, 28, 28)` uint8, 0 black to 255. Ten classes, 6,000 and 1,000 each. No groups.
    Limits: article photographs of one shop, cut and centred; a model that does well here need not on photographs.
    Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747, MIT. Raises DataError when not fetched (then `fetch=True`).
    """
    files = load_files(SOURCE, fetch=fetch, progress=progress)
    return image_data(
        "fashion_mnist",
        read_idx(files),
        classes=CLASSES,
        validation=validation,
        seed=seed,
        source=SOURCE.facts()
        | {"card": {"title": "Fashion-MNIST", "limits": ["article photographs of one shop, cut out and centred"]}},
    )
