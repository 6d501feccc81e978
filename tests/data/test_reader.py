"""What people really have on their disks: the right images and classes, or one line that says what is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tarfile
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.load import Found, find_splits, load_image_sets
from hfft.errors import DataError


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (12, 10, 3), dtype=np.uint8))


def folders(root: Path, classes: Sequence[str] = ("cat", "dog"), count: int = 4, ending: str = ".png") -> Path:
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(100 * kind + number).save(root / name / f"p{number}{ending}")
    return root


def counts(found: Found) -> dict[str, dict[str | None, int]]:
    return {split: dict(Counter(named.names)) for split, named in found.splits.items()}


def every_way(root: Path) -> list[dict[str, dict[str | None, int]]]:
    """The images per split and class: of the folder, of a zip of it, and of a tar of it."""
    shutil.make_archive(str(root.parent / "packed"), "zip", root)
    shutil.make_archive(str(root.parent / "packed"), "gztar", root)
    places = (root, root.parent / "packed.zip", root.parent / "packed.tar.gz")
    return [counts(find_splits(DataArguments(dataset_name=str(place)))) for place in places]


def test_splits_under_other_names(tmp_path: Path) -> None:
    folders(tmp_path / "x" / "Training")
    folders(tmp_path / "x" / "Testing", count=2)
    right = {"train": {"cat": 4, "dog": 4}, "test": {"cat": 2, "dog": 2}}
    assert every_way(tmp_path / "x") == [right] * 3
    with pytest.raises(DataError, match=r"Training, Testing look like splits.*--dataset_name"):
        load_image_sets(DataArguments(train_dir=str(tmp_path / "x")), 0)


def test_names_of_files_decide_nothing(tmp_path: Path) -> None:
    root = folders(tmp_path / "x")
    for name in ("cat", "dog"):
        picture(7).save(root / name / "train_7.png")
        picture(8).save(root / name / "test_8.png")
    assert every_way(root) == [{"train": {"cat": 6, "dog": 6}}] * 3


def test_stray_and_hidden_files_change_nothing(tmp_path: Path) -> None:
    root = folders(tmp_path / "x")
    picture(99).save(root / "stray.png")
    for name in (".ipynb_checkpoints", "@eaDir"):
        (root / "cat" / name).mkdir()
        picture(98).save(root / "cat" / name / "p0.png")
    assert every_way(root) == [{"train": {"cat": 4, "dog": 4}}] * 3
    note = find_splits(DataArguments(train_dir=str(root))).notes[0]
    assert "1 in no class folder (stray.png)" in note
    assert "2 hidden" in note


def test_one_folder_around_the_class_folders(tmp_path: Path) -> None:
    folders(tmp_path / "x" / "photos" / "photos")
    assert every_way(tmp_path / "x") == [{"train": {"cat": 4, "dog": 4}}] * 3
    sets = [
        load_image_sets(DataArguments(train_dir=str(tmp_path / name)), 0) for name in ("x", "packed.zip", "x/photos")
    ]
    assert {(each.labels, len(each.train)) for each in sets} == {(("cat", "dog"), 6)}


def test_other_endings_count(tmp_path: Path) -> None:
    root = folders(tmp_path / "x")
    picture(5).save(root / "cat" / "a.jfif", "JPEG")
    (root / "dog" / "b.heic").write_bytes(b"heic")
    assert every_way(root) == [{"train": {"cat": 5, "dog": 4}}] * 3
    assert "1 .heic (dog/b.heic)" in find_splits(DataArguments(train_dir=str(root))).notes[0]
    (root / "fox").mkdir()
    (root / "fox" / "c.heic").write_bytes(b"heic")
    with pytest.raises(DataError, match=r"class 'fox' has no images \(its files: 1 \.heic"):
        find_splits(DataArguments(train_dir=str(root)))


def test_a_folder_is_walked_once(tmp_path: Path) -> None:
    root = folders(tmp_path / "x")
    os.symlink(root / "cat", root / "cat" / "loop")
    os.symlink(root, root / "dog" / "up")
    os.symlink(folders(tmp_path / "y", ("fox",)) / "fox", root / "fox")
    os.mkfifo(root / "cat" / "pipe.png")
    found = find_splits(DataArguments(train_dir=str(root)))
    assert counts(found) == {"train": {"cat": 4, "dog": 4, "fox": 4}}
    assert "2 folders that were read already" in found.notes[0]
    assert "1 that are not files (cat/pipe.png)" in found.notes[0]


def test_links_and_climbing_names_in_archives_are_left_out(tmp_path: Path) -> None:
    root = folders(tmp_path / "x")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as opened:
        opened.add(root, ".")
        for name, kind in (("cat/soft.png", tarfile.SYMTYPE), ("cat/hard.png", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            opened.addfile(info)
        data = (root / "cat" / "p0.png").read_bytes()
        info = tarfile.TarInfo("../evil/1.png")
        info.size = len(data)
        opened.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for file in root.rglob("*.png"):
            packed.write(file, file.relative_to(root))
        link = zipfile.ZipInfo("cat/soft.png")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/hostname")
        packed.writestr("..\\evil\\1.png", data)
    for place, links in (("x.tar.gz", 2), ("x.zip", 1)):
        found = find_splits(DataArguments(dataset_name=str(tmp_path / place)))
        assert counts(found) == {"train": {"cat": 4, "dog": 4}}
        assert f"{links} links" in found.notes[0]
        assert "1 that lead outside" in found.notes[0]


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    train, validation = folders(tmp_path / "a", (one, "tea")), folders(tmp_path / "b", (other, "tea"), 2)
    sets = load_image_sets(DataArguments(train_dir=str(train), validation_dir=str(validation)), 0)
    assert sets.labels == (one, "tea")
    assert np.bincount(sets.validation.labels).tolist() == [2, 2]
    folders(tmp_path / "c", ("Tea", one), 2)
    with pytest.raises(DataError, match=r"'Tea'.*is it 'tea'"):
        load_image_sets(DataArguments(train_dir=str(train), validation_dir=str(tmp_path / "c")), 0)


# Tables -----------------------------------------------------------------------------------------------


def rows(classes: Sequence[str] = ("cat", "dog"), text: str = "{0}/p{1}.png,{0}") -> list[str]:
    return [text.format(name, number) for name in classes for number in range(4)]


RIGHT: dict[str | None, int] = {"cat": 4, "dog": 4}
TABLES: list[tuple[str, str, str, str]] = [
    ("comma.csv", "image,label", "\n".join(rows()), "utf-8"),
    ("semicolon.csv", "image;label", "\n".join(rows()).replace(",", ";"), "utf-8"),
    ("tabs.TSV", "image\tlabel", "\n".join(rows()).replace(",", "\t"), "utf-8"),
    ("commas.tsv", "image,label", "\n".join(rows()), "utf-8"),
    ("bom.csv", "image,label", "\n".join(rows()), "utf-8-sig"),
    ("utf16.csv", "image,label", "\n".join(rows()), "utf-16"),
    ("utf16le.csv", "image,label", "\n".join(rows()), "utf-16-le"),
    ("utf16be.csv", "image,label", "\n".join(rows()), "utf-16-be"),
    ("latin.csv", "image,label,note", "\n".join(row + ",caf\u00e9" for row in rows()), "latin-1"),
    ("case.csv", "Image,Label", "\n".join(rows()), "utf-8"),
    ("windows.csv", "image,label", "\n".join(rows()).replace("/", "\\"), "utf-8"),
    ("spaces.csv", "image , label", "\n".join(rows(text=" {0}/p{1}.png , {0} ")), "utf-8"),
    ("crlf.csv", "image,label", "\r\n".join(rows()), "utf-8"),
    ("trailing.csv", "image,label,", "\n".join(row + "," for row in rows()), "utf-8"),
    ("semicolons by Excel.csv", "sep=;\r\nimage;label", "\r\n".join(rows()).replace(",", ";"), "utf-8"),
    ("measured.csv", "image,species,size", "\n".join(row + ",1.5" for row in rows()), "utf-8"),
]


@pytest.mark.parametrize(("name", "header", "body", "encoding"), TABLES, ids=[case[0] for case in TABLES])
def test_tables_as_programs_write_them(tmp_path: Path, name: str, header: str, body: str, encoding: str) -> None:
    root = folders(tmp_path / "x")
    (root / name).write_bytes(f"{header}\n{body}\n".encode(encoding))
    data = DataArguments(dataset_name=str(root / name))
    assert counts(find_splits(data)) == {"train": RIGHT}
    sets = load_image_sets(data, 0)
    assert {sets.train.image(row).size for row in range(len(sets.train))} == {(10, 12)}
    unusual = name[:5] in ("semic", "comma", "utf16", "latin") and name != "comma.csv"
    assert len(find_splits(data).notes) == 1 + unusual, "which columns are read is always said"


@pytest.mark.parametrize("file", ["data.csv", "metadata.csv"])
def test_text_stays_text(tmp_path: Path, file: str) -> None:
    names = ("001", "002", "None", "nan")
    root = folders(tmp_path / "x", names)
    column = "file_name" if file == "metadata.csv" else "image"
    (root / file).write_text(f"{column},label\n" + "\n".join(rows(names)))
    for place in (root / file, root):
        sets = load_image_sets(DataArguments(dataset_name=str(place)), 0)
        assert sets.labels == names
        assert len(sets.train) + len(sets.validation) == 16


def test_an_empty_cell_has_no_label(tmp_path: Path) -> None:
    root = folders(tmp_path / "x", ("0", "1"))
    (root / "x.csv").write_text("image,label\n0/p0.png,\n" + "\n".join(rows(("0", "1"))[1:]))
    found = find_splits(DataArguments(dataset_name=str(root / "x.csv")))
    assert counts(found) == {"train": {None: 1, "0": 3, "1": 4}}
    with pytest.raises(DataError, match=r"0/p0\.png has no label"):
        load_image_sets(DataArguments(dataset_name=str(root / "x.csv")), 0)


@pytest.mark.parametrize("file", ["x.csv", "x.zip"])
def test_errors_about_images_name_the_file_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    root = folders(tmp_path, ("0",))
    if file == "x.zip":
        shutil.make_archive(str(root / "x"), "zip", root, "0")
    else:
        (root / file).write_text("image,label\n" + "\n".join(rows(("0",))))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"^{re.escape(file)}: all images are of one class"):
        load_image_sets(DataArguments(dataset_name=file), 0)


@pytest.mark.parametrize(("labels", "hinted"), [("1234", True), ("1123", True), ("1112", False), ("123d", False)])
def test_numbers_that_each_have_one_image_are_perhaps_to_be_estimated(
    tmp_path: Path, labels: str, hinted: bool
) -> None:
    root = folders(tmp_path, ("0",))
    lines = [f"0/p{number}.png,{label}" for number, label in enumerate(labels)]
    (root / "x.csv").write_text("image,label\n" + "\n".join(lines))
    with pytest.raises(DataError, match="has a single image") as refused:
        load_image_sets(DataArguments(dataset_name=str(root / "x.csv")), 0)
    assert ("--task regression" in str(refused.value)) == hinted


def test_a_column_of_splits(tmp_path: Path) -> None:
    root = folders(tmp_path / "x")
    splits = ["Train", "train ", "test", "", "train", "Train", "test ", "holdout"]
    lines = [f"{row},{split}" for row, split in zip(rows(), splits, strict=True)]
    (root / "x.csv").write_text("image,label,Split\n" + "\n".join(lines))
    found = find_splits(DataArguments(dataset_name=str(root / "x.csv")))
    assert counts(found) == {"train": {"cat": 2, "dog": 2}, "test": {"cat": 1, "dog": 1}}
    assert "1 row of x.csv without a split" in found.notes[0]
    assert "the split holdout" in found.notes[2]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [("x.csv", "image,label\n", "it has no rows"), ("x.csv", "", "it is empty"), ("x.jsonl", "", "it is empty")],
)
def test_tables_without_rows(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}: {words}; write a"):
        find_splits(DataArguments(dataset_name=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,label,label\na,b,c", "two of its columns are called 'label'"),
        ("image,label\ncat/p0.png,cat,dog", "line 2 has 3 cells"),
        ("image,label\nhttps://example.org/a.png,cat", "is an address"),
        ("picture,label\na.png,cat", "no column of paths"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        find_splits(DataArguments(dataset_name=str(tmp_path / "x.csv")))


BROKEN = [
    ("x.jsonl", '{"image": "a.png"}\n\n{"image":\n', "line 3 is not JSON .*; mend it"),
    ("x.json", '{"image": "a.png", "label": [}', "cannot be loaded .*; mend the file, or write it anew"),
    ("x.parquet", "nothing", "cannot be loaded .*; mend the file, or write it anew"),
]


@pytest.mark.parametrize(("name", "text", "words"), BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_table_is_one_line_that_says_to_mend_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["check", str(tmp_path / name)]) == 1
    assert re.fullmatch(f"hfft: error: [^\n]*{name}: {words}\n", capfd.readouterr().err)


@pytest.mark.parametrize(
    ("label", "words"),
    [({"a": 1}, "holds records")],
)
def test_labels_that_are_none(tmp_path: Path, label: Any, words: str) -> None:
    root = folders(tmp_path / "x")
    (root / "x.jsonl").write_text("\n".join(json.dumps({"image": f"cat/p{n}.png", "label": label}) for n in range(4)))
    for wanted in (None, "label"):
        with pytest.raises(DataError, match=f"the column 'label' {words if label != 0.5 else 'holds ' + words}"):
            find_splits(DataArguments(dataset_name=str(root / "x.jsonl"), label_column_name=wanted))


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_stored_bytes_and_numbers_with_gaps(tmp_path: Path, kind: str) -> None:
    def stored(number: int) -> Any:
        stream = io.BytesIO()
        picture(number).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None} if kind == "struct" else stream.getvalue()

    labels = [float("nan"), *[0.0, 1.0] * 4]
    table = datasets.Dataset.from_dict({"image": [stored(number) for number in range(9)], "label": labels})
    table.to_parquet(str(tmp_path / "x.parquet"))
    found = find_splits(DataArguments(dataset_name=str(tmp_path / "x.parquet")))
    assert counts(found) == {"train": {None: 1, "0": 4, "1": 4}}
    assert found.splits["train"].images.image(3).size == (10, 12)


@pytest.mark.parametrize("held", [0, 1])
def test_paths_in_a_parquet_of_images_lie_beside_it(tmp_path: Path, held: int) -> None:
    """Whatever the folder of whoever reads it, and where others of its images are in it."""
    root = folders(tmp_path / "x")
    files = [row.partition(",")[0] for row in rows()]
    images = [
        {"bytes": (root / files[0]).read_bytes() if row < held else None, "path": each}
        for row, each in enumerate(files)
    ]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    table = pa.table({"image": images, "label": [each[:3] for each in files]})
    pq.write_table(table.cast(features.arrow_schema), root / "x.parquet")
    found = find_splits(DataArguments(dataset_name=str(root / "x.parquet"))).splits["train"].images
    assert [found.image(row).size for row in range(8)] == [(10, 12)] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
@pytest.mark.parametrize("flag", ["train_dir", "validation_dir", "dataset_name", "table"])
def test_a_folder_whose_name_is_not_utf_8_is_named(tmp_path: Path, flag: str) -> None:
    good, odd = folders(tmp_path / "x"), folders(tmp_path / os.fsdecode(b"f\xe4lle"))
    (odd / "x.csv").write_text("\n".join(["image,label", *rows()]))
    given: dict[str, Any] = {
        "validation_dir": {"train_dir": str(good), flag: str(odd)},
        "table": {"dataset_name": str(odd / "x.csv")},
    }
    with pytest.raises(DataError, match=r"f\\xe4lle': its name is not UTF-8; rename it"):
        find_splits(DataArguments(**given.get(flag, {flag: str(odd)})))


def test_metadata_without_folders_and_captions_beside_them(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for split, count in (("train", 3), ("test", 1)):
        (flat / split).mkdir(parents=True)
        lines = ["file_name,label"]
        for number in range(2 * count):
            picture(number).save(flat / split / f"{number}.png")
            lines.append(f"{number}.png,{'ab'[number % 2]}")
        (flat / split / "metadata.csv").write_text("\n".join(lines))
    assert counts(find_splits(DataArguments(dataset_name=str(flat)))) == {
        "train": {"a": 3, "b": 3},
        "test": {"a": 1, "b": 1},
    }
    root = folders(tmp_path / "x")
    (root / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows()))
    found = find_splits(DataArguments(dataset_name=str(root)))
    assert counts(found) == {"train": RIGHT}
    assert any("Not read: metadata.csv" in note for note in found.notes)


def test_check_prints_and_records_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path / "x", count=12)
    picture(99).save(root / "stray.png")
    assert main(["check", str(root), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["result"]
    assert printed["images"] == {"train": 24}
    assert "2 classes (cat, dog)" in printed["notes"][0]
    assert main(["check", str(root)]) == 0
    assert printed["notes"][0] in capsys.readouterr().out


def test_metadata_files_may_differ_in_columns_that_are_not_read(tmp_path: Path) -> None:
    for split, weights in (("train", "1.5 2 3 4"), ("validation", "1 2 3 4"), ("test", "a b c d")):
        place = tmp_path / "set" / split
        place.mkdir(parents=True)
        lines = ["file_name,label,weight"]
        for number, weight in enumerate(weights.split()):
            picture(number).save(place / f"{number}.png")
            lines.append(f"{number}.png,{('cat', 'dog')[number % 2]},{weight}")
        (place / "metadata.csv").write_text("\n".join(lines))
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path / "set")), 0)
    assert sets.labels == ("cat", "dog")
    assert sets.test is not None
    assert [len(each) for each in (sets.train, sets.validation, sets.test)] == [4, 4, 4]


def flat_folder(root: Path, places: Sequence[str], table: Mapping[str, str]) -> DataArguments:
    """A folder of images and tables."""
    for number, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(root / place)
    for name, text in table.items():
        (root / name).write_text(text)
    return DataArguments(dataset_name=str(root))


def test_the_column_of_splits_counts_in_metadata_as_in_any_table(tmp_path: Path) -> None:
    """Test images would be trained on."""
    lines = [f"{number}.png,{'ab'[number % 2]},{('train', 'Test')[number > 3]}" for number in range(8)]
    table = {"metadata.csv": "\n".join(["file_name,label,split", *lines, "8.png,a,"])}
    found = find_splits(flat_folder(tmp_path / "x", [f"{number}.png" for number in range(9)], table))
    assert counts(found) == {"train": {"a": 2, "b": 2}, "test": {"a": 2, "b": 2}}
    assert "Left out: 1 row of metadata.csv without a split" in found.notes


def test_metadata_of_splits_and_of_other_folders_is_refused(tmp_path: Path) -> None:
    text = "file_name,label\n0.png,a\n1.png,b\n"
    places = [f"{folder}/{number}.png" for folder in ("train", "test", "more") for number in range(2)]
    table = {f"{folder}/metadata.csv": text for folder in ("train", "test", "more")}
    with pytest.raises(DataError, match=r"folders that say a split \(test, train\), others do not \(more/0.png\)"):
        find_splits(flat_folder(tmp_path / "x", places, table))


def test_metadata_that_holds_its_images(tmp_path: Path) -> None:
    content = [io.BytesIO() for _ in range(4)]
    for number, stream in enumerate(content):
        picture(number).save(stream, "PNG")
    values = [{"bytes": stream.getvalue(), "path": None} for stream in content]
    for name, feature in (("plain", None), ("image", datasets.Image(decode=False))):
        table = datasets.Dataset.from_dict({"image": values, "label": list("abab")})
        table = table if feature is None else table.cast_column("image", feature)
        (tmp_path / name).mkdir()
        table.to_parquet(str(tmp_path / name / "metadata.parquet"))
        found = find_splits(DataArguments(dataset_name=str(tmp_path / name)))
        assert counts(found) == {"train": {"a": 2, "b": 2}}
        assert found.splits["train"].images.image(3).size == (10, 12)


def test_metadata_without_the_column_that_is_asked_for(tmp_path: Path) -> None:
    data = flat_folder(tmp_path / "x", ["0.png"], {"metadata.csv": "file_name,label\n0.png,a\n"})
    with pytest.raises(DataError, match="there is no column 'picture' as --image_column_name says"):
        find_splits(replace(data, image_column_name="picture"))


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    for text in ('image,"label\n', 'image,label\n"0.png,a\n'):
        data = flat_folder(tmp_path, ["0.png"], {"x.csv": text + "0.png,a\n" * 20_000})
        with pytest.raises(DataError, match=r"cannot be read as a table \(.*\); is a quote not closed"):
            find_splits(replace(data, dataset_name=str(tmp_path / "x.csv")))


def test_lists_within_lists_are_no_labels(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"image": "0.png", "label": [["a"], []]}) + "\n" for _ in range(3))
    data = flat_folder(tmp_path, ["0.png"], {"x.jsonl": lines, "x.csv": 'image,label\n0.png,"[[], {}]"\n'})
    for name, odd in (("x.jsonl", r"\['a'\]"), ("x.csv", r"\[\]")):
        with pytest.raises(DataError, match=f"holds {odd} within a list; a label is text or a number"):
            find_splits(replace(data, dataset_name=str(tmp_path / name)))


def test_group_names_are_text_however_their_column_is_asked_for(tmp_path: Path) -> None:
    lines = [f"{number}.png,{'ab'[number % 2]},{('1.1', '1.10')[number > 3]}" for number in range(8)]
    table = {"x.csv": "\n".join(["image,label,Patient", *lines])}
    data = flat_folder(tmp_path, [f"{number}.png" for number in range(8)], table)
    found = find_splits(replace(data, dataset_name=str(tmp_path / "x.csv"), group_column="patient"))
    groups = found.splits["train"].images.groups
    assert groups is not None
    assert set(groups) == {"1.1", "1.10"}
