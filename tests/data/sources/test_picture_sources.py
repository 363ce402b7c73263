import importlib.util
import io
import json

import numpy as np
import pytest

from assay.data.sources import cache, coloured_fashion_mnist, emoji, fashion_mnist, mnist
from assay.data.sources.archives import pack
from assay.data.sources.coloured_fashion_mnist import COLOURS, choose_colours, paint
from assay.data.sources.images import IDX_NAMES, idx, to_idx
from assay.errors import DataError, UsageError
from source_kit import with_files

needs_pillow = pytest.mark.skipif(importlib.util.find_spec("PIL") is None, reason="needs the images extra")


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_NAME, str(tmp_path))


def idx_files(num_train=200, num_test=50):
    rng = np.random.default_rng(0)
    arrays = []
    for num in (num_train, num_test):
        arrays += [rng.integers(0, 256, (num, 28, 28), dtype=np.uint8), (np.arange(num) % 10).astype(np.uint8)]
    return dict(zip(IDX_NAMES, map(to_idx, arrays), strict=True)), arrays


def test_idx_is_what_the_specification_says():
    raw = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(6)])
    assert idx(raw).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert to_idx(idx(raw)) == raw
    for wrong in (raw[:-1], raw + b"\0", b"\0\0\x0d" + raw[3:], raw[:7], b""):
        with pytest.raises(DataError):
            idx(wrong)


@pytest.mark.parametrize("module", [fashion_mnist, mnist])
def test_pictures_keep_their_published_split(module, monkeypatch):
    files, (train, train_labels, test, test_labels) = idx_files()
    monkeypatch.setattr(module, "SOURCE", with_files(module.SOURCE, files))
    data = getattr(module, f"load_{module.__name__.rsplit('.', 1)[-1]}")(validation=0.25)
    assert {name: split.inputs.shape for name, split in data.splits.items()} == {
        "train": (150, 1, 28, 28), "validation": (50, 1, 28, 28), "test": (50, 1, 28, 28)
    }  # fmt: skip
    assert np.array_equal(data.splits["test"].inputs[:, 0], test)
    assert np.array_equal(data.splits["test"].labels, test_labels)
    for name in ("train", "validation"):
        split = data.splits[name]
        assert np.array_equal(split.inputs[:, 0], train[split.rows - 1])
        assert np.array_equal(split.labels, train_labels[split.rows - 1])
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10
    assert (data.modality, data.columns[0].shape, data.columns[0].high) == ("image", (1, 28, 28), 255.0)
    assert data.source["class_counts"]["test"] == [5] * 10


def test_bytes_of_mnist_are_taken_from_their_places(monkeypatch):
    """The same layout, small: pictures as float32 divided by 256, labels as int64."""
    pictures = np.random.default_rng(1).integers(0, 256, (6, 784)).astype(np.uint8)
    labels = np.arange(6)
    stored = (pictures / np.float32(256)).astype("<f4")
    raw = b"head" + stored[:4].tobytes() + labels[:4].astype("<i8").tobytes() + b"mid" + stored[4:].tobytes()
    raw += labels[4:].astype("<i8").tobytes()
    monkeypatch.setattr(mnist, "_PICTURES", ((4, 4), (4 + 4 * 3136 + 32 + 3, 2)))
    monkeypatch.setattr(mnist, "_LABELS", ((4 + 4 * 3136, 4), (4 + 6 * 3136 + 32 + 3, 2)))
    assert np.array_equal(idx(mnist._pictures(raw, 0, 1)).reshape(6, 784), pictures)
    assert idx(mnist._labels(raw, 0, 1)).tolist() == labels.tolist()


@pytest.mark.parametrize("strength", [0.1, 0.9, 1.0])
def test_colours_go_with_the_class_as_often_as_declared(strength):
    labels = np.arange(40_000) % 10
    colours = choose_colours(labels, np.full(len(labels), strength), seed=3)
    error = 5 * np.sqrt(strength * (1 - strength) / len(labels))  # five standard errors
    assert (colours == labels).mean() == pytest.approx(strength, abs=error + 1e-9)
    others = np.bincount((colours - labels)[colours != labels] % 10, minlength=10)[1:]
    if others.sum():
        assert others / others.sum() == pytest.approx(np.full(9, 1 / 9), abs=5 * np.sqrt(0.1 / others.sum()))


def test_paint_is_grey_times_colour():
    pictures = np.random.default_rng(0).integers(0, 256, (3, 2, 2), dtype=np.uint8)
    colours = np.array([0, 5, 9])
    painted = paint(pictures, colours)
    table = list(COLOURS.values())
    for row, channel, y, x in np.ndindex(painted.shape):
        assert painted[row, channel, y, x] == int(pictures[row, y, x]) * table[colours[row]][channel] // 255


def test_coloured_pictures_say_their_colour_in_the_groups(monkeypatch):
    files, _ = idx_files(2000, 1000)
    monkeypatch.setattr(coloured_fashion_mnist, "SOURCE", with_files(fashion_mnist.SOURCE, files))
    data = coloured_fashion_mnist.load_coloured_fashion_mnist(strength=0.8)
    train, test = data.splits["train"], data.splits["test"]
    assert train.inputs.shape[1:] == data.columns[0].shape == (3, 28, 28)
    assert train.groups.codes[:, 1].mean() == pytest.approx(0.8, abs=0.05)
    assert test.groups.codes[:, 1].mean() == pytest.approx(0.1, abs=0.05)
    for split in (train, test):
        assert np.array_equal(split.groups.codes[:, 1], split.groups.codes[:, 0] == split.labels)
        brightest = split.inputs.max(axis=(2, 3))[:50]
        expected = np.array(list(COLOURS.values()))[split.groups.codes[:50, 0]]
        assert np.abs(brightest / expected - 1).max() < 0.05  # some pixel is nearly white
    again = coloured_fashion_mnist.load_coloured_fashion_mnist(strength=0.8)
    assert again.digest == data.digest != coloured_fashion_mnist.load_coloured_fashion_mnist(seed=1).digest
    with pytest.raises(UsageError, match=r"strength is 1\.2"):
        coloured_fashion_mnist.load_coloured_fashion_mnist(strength=1.2)


def png(colour, alpha=255):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGBA", (64, 64), (*colour, alpha)).save(out, "PNG")
    return out.getvalue()


def emoji_files():
    """Six persons in five tones and yellow, each in two sexes; 10 plain pictures of each other class."""
    table, pictures = [], {}

    def add(image, colour):
        pictures[image] = png(colour)
        return image

    for person in range(6):
        for sex in ("1F468", "1F469"):
            base = f"{sex}-200D-1F{600 + person}"
            variations = {
                tone: {"image": add(f"{base}-{tone}.png", (person, 10 * place, 100))}
                for place, tone in enumerate(emoji.TONES)
            }
            one = {"unified": base, "image": add(f"{base}.png", (person, 200, sex == "1F468"))}
            table.append({**one, "category": "People & Body", "skin_variations": variations})
    for number, category in enumerate([*emoji.CLASSES, "Component"]):
        if category != "People & Body":
            for i in range(10):
                image = add(f"{number}-{i}.png", (number, i, 5))
                table.append({"unified": f"2{number}{i}", "image": image, "category": category})
    return {"emoji.json": json.dumps(table).encode(), "pictures": pack(pictures)}


@needs_pillow
def test_emoji_in_several_tones_are_pairs_and_on_one_side(monkeypatch):
    monkeypatch.setattr(emoji, "SOURCE", with_files(emoji.SOURCE, emoji_files()))
    data = emoji.load_emoji()
    assert sum(map(len, data.splits.values())) == 6 * 2 * 6 + 8 * 10
    seen = {}
    for name, split in data.splits.items():
        pairs = emoji.counterfactual_pairs(data, split=name)
        tones = split.groups.codes[:, 0]
        assert len(pairs) == 10 * (tones == 1).sum()  # all pairs of five
        assert (tones[pairs[:, 0]] < tones[pairs[:, 1]]).all()
        one, other = split.inputs[pairs[:, 0]], split.inputs[pairs[:, 1]]
        assert np.array_equal(one[:, [0, 2]], other[:, [0, 2]])  # only the channel that was drawn by tone differs
        assert (one[:, 1] != other[:, 1]).all()
        assert np.array_equal(split.labels[pairs[:, 0]], split.labels[pairs[:, 1]])
        for person in np.unique(split.inputs[split.labels == emoji.CLASSES.index("People & Body")][:, 0, 0, 0]):
            assert seen.setdefault(person, name) == name
    assert len(seen) == 6
    assert len(emoji.counterfactual_pairs(data, split="train"))


@needs_pillow
def test_shrinking_puts_on_white_and_takes_means():
    picture = np.zeros((4, 4, 4), dtype=np.uint8)
    picture[:2, :2] = [[[10, 0, 0, 255], [20, 0, 0, 255]], [[30, 0, 0, 255], [41, 0, 0, 255]]]
    shrunk = emoji.shrink(picture)
    assert shrunk.shape == (3, 2, 2)
    assert shrunk[0].tolist() == [[25, 255], [255, 255]]  # 25.25 to 25; a clear pixel is white


def test_what_a_sequence_shows_is_the_same_for_all_sexes():
    assert emoji.one_of("1F469-200D-1F91D-200D-1F468") == emoji.one_of("1F46B")
    assert emoji.one_of("1F3C3-200D-2642-FE0F-200D-27A1-FE0F") == emoji.one_of("1F3C3")
    assert emoji.one_of("1F468-200D-1F692") != emoji.one_of("1F468-200D-1F680")


def test_pairs_are_not_made_up(small_data):
    with pytest.raises(DataError, match="does not say which rows"):
        emoji.counterfactual_pairs(small_data)
