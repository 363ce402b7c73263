"""Pictures as people have them: PNG and JPEG files in folders of classes, or named by a table."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from assay.commands.files import open_file
from assay.commands.sources import open_system
from assay.data import picture_files
from assay.errors import DataError, UsageError
from cli_kit import Run, runner

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def assay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def pictures(folder: Path, num: int = 20, *, colour: bool = False, size: int = 12) -> dict[str, np.ndarray]:
    """Grey or coloured noise, brighter in one class, as PNG files; name to pixels."""
    rng, made = np.random.default_rng(0), {}
    for number in range(num):
        name = f"{('cat', 'dog')[number % 2]}/{number:03}.png"
        shape = (size, size, 3) if colour else (size, size)
        made[name] = rng.integers(0, 100, shape, dtype=np.uint8) + np.uint8(120 * (number % 2))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made[name]).save(folder / name)
    return made


def test_a_folder_of_classes_is_read_pixel_by_pixel(tmp_path: Path) -> None:
    made = pictures(tmp_path / "pets")
    (tmp_path / "pets" / "cat" / "Thumbs.db").write_text("x")
    data, _ = open_file(f"{tmp_path / 'pets'}/", "", [], "")
    assert (data.name, data.classes, data.columns[0].shape) == ("pets", ("cat", "dog"), (1, 12, 12))
    assert "1 files of pets were left out" in data.source["problems"][0]
    names = sorted(made)
    for split in data.splits.values():
        for row, one, label in zip(split.rows.tolist(), split.inputs, split.labels.tolist(), strict=True):
            name = names[row - 1]
            assert (one[0] == made[name]).all()
            assert name.startswith(data.classes[label])


def test_folders_named_as_splits_are_the_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "p" / "train", 20, colour=True)
    pictures(tmp_path / "p" / "test", 6, colour=True)
    data, _ = open_file(str(tmp_path / "p"), "", [], "")
    assert (len(data.splits["test"]), data.columns[0].shape) == (6, (3, 12, 12))


def test_folders_that_look_like_splits_are_never_classes(tmp_path: Path) -> None:
    for name in ("Train", "val", "test"):
        pictures(tmp_path / "p" / name, 10)
    data, _ = open_file(str(tmp_path / "p"), "", [], "")
    assert data.classes == ("cat", "dog")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 10, "validation": 10, "test": 10}
    pictures(tmp_path / "p" / "extra", 4)
    with pytest.raises(DataError, match="holds Train, test, val, named as splits are, among Train, extra, test, val"):
        open_file(str(tmp_path / "p"), "", [], "")
    (tmp_path / "p" / "test").rename(tmp_path / "test")
    with pytest.raises(DataError, match="named as splits are"):
        open_file(str(tmp_path / "p"), "", [], "")
    for name in ("test", "drug"):  # of a trial: classes, as no folders are in them
        pictures(tmp_path / "q" / name, 20)
        for path in sorted((tmp_path / "q" / name).glob("*/*.png")):
            path.rename(tmp_path / "q" / name / path.name)
        for folder in ("cat", "dog"):
            (tmp_path / "q" / name / folder).rmdir()
    assert open_file(str(tmp_path / "q"), "", [], "")[0].classes == ("drug", "test")


def test_what_memory_does_not_hold_is_told_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "pets")
    seen, decoded = [], picture_files._decoded
    monkeypatch.setattr(picture_files, "_decoded", lambda *given: seen.append(given) or decoded(*given))
    monkeypatch.setattr(picture_files, "_most_bytes", lambda: 20 * 144 - 1)
    with pytest.raises(DataError, match=r"(?s)20 pictures of 12 × 12 take 0\.0 GB.*size = \[32, 32\]"):
        open_file(str(tmp_path / "pets"), "", [], "")
    assert len(seen) == 1
    monkeypatch.setattr(picture_files, "MOST_PIXELS", 143)
    with pytest.raises(DataError, match="more than 143 pixels"):
        open_file(str(tmp_path / "pets"), "", [], "")


def test_damage_and_odd_names_are_problems_of_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sorted(pictures(tmp_path, 20))
    (tmp_path / made[1]).write_bytes(b"")
    rows = [*made[:2], "x" * 300 + ".png", "../none.png", *made[4:]]
    table = tmp_path / "t.csv"
    table.write_text("file,kind\n" + "\n".join(f"{name},{made[at][:3]}" for at, name in enumerate(rows)) + "\n")
    (tmp_path / "t.csv.toml").write_text('image = "file"')
    with pytest.raises(
        DataError, match=r"in 3 rows \(2, 3, 4\): 002.png: an empty file, x+.*none.png: there is no such"
    ):
        open_file(str(table), "kind", [], "")

    def damaged(_: object) -> None:
        raise struct.error("required argument is not an integer")  # as Pillow does for some damaged turns

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", damaged)
    with pytest.raises(DataError, match="no whole PNG or JPEG"):
        open_file(str(table), "kind", [], "")


def test_a_table_names_files_groups_and_splits(assay: Run, tmp_path: Path) -> None:
    made = pictures(tmp_path / "all", 48)
    lines = [f"all/{name},{name[:3]},{'ab'[place % 2]},{place}" for place, name in enumerate(sorted(made))]
    table = tmp_path / "labels.csv"
    table.write_text("file,kind,camera,day\n" + "\n".join(lines) + "\n")
    ran = assay("train", "labels.csv", "--label", "kind", "--groups", "camera", "--out", "s")
    assert "column 'file' holds names of pictures" in ran.err
    assert 'A line of it: image = "file"' in ran.err
    (tmp_path / "labels.csv.toml").write_text('image = "file"\ntime = "day"\nsize = [8, 8]\n')
    data, _ = open_file(str(table), "kind", ["camera"], "")
    assert sorted(data.splits["test"].rows.tolist()) == list(range(39, 49))
    (tmp_path / "labels.csv.toml").write_text('image = "file"\nsize = [8, 8]\n')
    ran = assay("train", "labels.csv", "--label", "kind", "--groups", "camera", "--set", "epochs=1", "--out", "s")
    assert (ran.code, ran.err) == (0, "")
    system, _ = open_system(str(tmp_path / "s"), ("", "", "", ""))
    assert (system.data.columns[0].shape, system.data.group_columns[0].categories) == ((1, 8, 8), ("a", "b"))


def test_everything_wrong_with_files_is_said_with_the_way_out(tmp_path: Path) -> None:
    made = pictures(tmp_path / "pets")
    name = sorted(made)[0]
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "pets" / name)
    with pytest.raises(DataError, match=r"(?s)2 sizes: 9 × 7, 12 × 12.*pets\.toml beside it.*size = \[32, 32\]"):
        open_file(str(tmp_path / "pets"), "", [], "")
    (tmp_path / "pets.toml").write_text("size = [6, 6]")
    data, _ = open_file(str(tmp_path / "pets"), "", [], "")
    assert data.columns[0].shape == (1, 6, 6)
    cut = (tmp_path / "pets" / sorted(made)[1]).read_bytes()[:60]
    (tmp_path / "pets" / sorted(made)[1]).write_bytes(cut)
    Image.fromarray(np.zeros((9, 7), np.uint16)).save(tmp_path / "pets" / sorted(made)[2])
    with pytest.raises(
        DataError, match=r"in 2 rows \(2, 3\): 002.png: no whole PNG or JPEG, 004.png: more than 8 bits"
    ):
        open_file(str(tmp_path / "pets"), "", [], "")
    (tmp_path / "pets.toml").write_text('size = "big"\nlabel = "x"')
    with pytest.raises(DataError, match=r"(?s)size is 'big'.*'label' is not known"):
        open_file(str(tmp_path / "pets"), "", [], "")
    with pytest.raises(UsageError, match="whose folders are the classes"):
        open_file(str(tmp_path / "pets"), "kind", [], "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no pictures in folders of classes"):
        open_file(str(tmp_path / "empty"), "", [], "")


def test_a_camera_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    pictures(tmp_path / "pets")
    wide = np.zeros((6, 12), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    for path in sorted((tmp_path / "pets").rglob("*.png")):
        Image.fromarray(wide).save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()
    data, _ = open_file(str(tmp_path / "pets"), "", [], "")
    assert data.columns[0].shape == (1, 12, 6)
