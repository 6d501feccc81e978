"""The same images in every packing: the same label map, splits, pixels, findings and results."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from hfft.arguments import DataArguments
from hfft.cli import main
from hfft.data.check import check_parts, parts_of
from hfft.data.load import ImageSets, load_image_sets
from hfft.data.probe import probe_images
from hfft.data.readers import archives
from hfft.errors import DataError

Folder = Callable[..., Path]
CLASSES = ("0", "1", "2")
"""Names that a WebDataset's ``.cls`` can hold."""


@pytest.fixture(autouse=True)
def _own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture
def images(image_folder: Folder) -> Path:
    """A folder of class folders; one image lies a folder deeper, one file is hidden."""
    folder = image_folder(classes=CLASSES)
    (folder / "1" / "deeper").mkdir()
    shutil.move(folder / "1" / "000.png", folder / "1" / "deeper" / "000.png")
    (folder / "2" / ".hidden.png").write_bytes((folder / "2" / "001.png").read_bytes())
    return folder


def _files(images: Path) -> list[Path]:
    """In the order in which a folder of class folders is read."""
    found = (file for file in images.rglob("*.png") if not file.name.startswith("."))
    return sorted(found, key=lambda file: (file.relative_to(images).parts[0], str(file.parent), file.name))


def _zip(images: Path, target: Path) -> dict[str, str]:
    with zipfile.ZipFile(target / "packed.zip", "w") as opened:
        for file in reversed(_files(images)):
            opened.write(file, f"pets/{file.relative_to(images)}")
    return {"dataset_name": str(target / "packed.zip")}


def _tar(images: Path, target: Path) -> dict[str, str]:
    with tarfile.open(target / "packed.tar.gz", "w:gz") as opened:
        for file in reversed(_files(images)):
            opened.add(file, f"train/{file.relative_to(images)}")
    return {"dataset_name": str(target / "packed.tar.gz")}


def _csv(images: Path, target: Path) -> dict[str, str]:
    with (images / "list.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file_name", "label"])
        writer.writerows([str(file.relative_to(images)), file.relative_to(images).parts[0]] for file in _files(images))
    return {"dataset_name": str(images / "list.csv")}


def _jsonl(images: Path, target: Path) -> dict[str, str]:
    rows = [{"path": str(file), "kind": file.relative_to(images).parts[0], "split": "train"} for file in _files(images)]
    (target / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"dataset_name": str(target / "list.jsonl"), "label_column_name": "kind"}


def _dataset(images: Path) -> datasets.Dataset:
    rows = {"image": [str(file) for file in _files(images)]}
    labels = [int(file.relative_to(images).parts[0]) for file in _files(images)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    return datasets.Dataset.from_dict({**rows, "label": labels}, features)


def _parquet(images: Path, target: Path) -> dict[str, str]:
    _dataset(images).to_parquet(str(target / "packed.parquet"))
    return {"dataset_name": str(target / "packed.parquet")}


def _paths_in_parquet(images: Path, target: Path) -> dict[str, str]:
    labels = [file.relative_to(images).parts[0] for file in _files(images)]
    rows = {"image_path": [str(file.relative_to(images)) for file in _files(images)], "label": labels}
    datasets.Dataset.from_dict(rows).to_parquet(str(images / "paths.parquet"))
    return {"dataset_name": str(images / "paths.parquet")}


def _on_disk(images: Path, target: Path) -> dict[str, str]:
    datasets.DatasetDict(train=_dataset(images)).save_to_disk(str(target / "saved"))
    return {"dataset_name": str(target / "saved")}


def _add(opened: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    opened.addfile(info, io.BytesIO(content))


def _webdataset(images: Path, target: Path) -> dict[str, str]:
    (target / "shards").mkdir()
    (target / "shards" / "._train-0.tar").write_bytes(b"\0\5\x16\7")  # as macOS puts there on another system's disk
    for shard in range(2):
        with tarfile.open(target / "shards" / f"train-{shard}.tar", "w") as opened:
            for number, file in list(enumerate(_files(images)))[shard * 13 : shard * 13 + 13]:
                _add(opened, f"{number:04d}.png", file.read_bytes())
                _add(opened, f"{number:04d}.cls", file.relative_to(images).parts[0].encode())
    return {"dataset_name": str(target / "shards")}


def _stream(images: Path, target: Path) -> dict[str, str]:
    (target / "hub").mkdir()
    _dataset(images).to_parquet(str(target / "hub" / "train.parquet"))
    most = {"max_train_samples": "1000", "max_eval_samples": "1000"}
    return {"dataset_name": str(target / "hub"), "streaming": "true", **most}


PACKINGS = [_zip, _tar, _csv, _jsonl, _parquet, _paths_in_parquet, _on_disk, _webdataset, _stream]


def _arguments(flags: dict[str, str]) -> DataArguments:
    given = {name: int(value) if value.isdigit() else value for name, value in flags.items()}
    if "streaming" in given:
        given["streaming"] = True
    return DataArguments(**given)  # type: ignore[arg-type]


def _content(sets: ImageSets) -> dict[str, list[tuple[int, bytes]]]:
    """Label and digest of the pixels of every image, in order, by split."""
    found = {}
    for part in parts_of(sets):
        digests = [look.content for look in probe_images(part.images)]
        found[part.split] = list(zip(part.images.labels.tolist(), digests, strict=True))
    return found


@pytest.mark.parametrize("pack", PACKINGS, ids=lambda pack: pack.__name__.strip("_"))
def test_every_packing_gives_the_same_images_labels_and_findings(
    images: Path, tmp_path: Path, pack: Callable[[Path, Path], dict[str, str]]
) -> None:
    shutil.copy(images / "0" / "003.png", images / "2" / "wrong.png")
    (images / "0" / "003.png").rename(images / "0" / "first.png")
    plain = load_image_sets(DataArguments(train_dir=str(images)), 3)
    packed = load_image_sets(_arguments(pack(images, tmp_path)), 3)
    assert packed.labels == plain.labels == CLASSES
    assert _content(packed) == _content(plain)
    kinds = [
        [(finding.kind, finding.what) for finding in check_parts(parts_of(sets), lambda looks, total: looks)]
        for sets in (plain, packed)
    ]
    assert kinds[0] == kinds[1]
    assert "conflict" in {kind for kind, _ in kinds[0]}


def test_every_packing_trains_to_the_same_weights_and_figures(images: Path, pretrained: Folder, tmp_path: Path) -> None:
    def train(name: str, flags: dict[str, str]) -> tuple[Any, ...]:
        given = [word for key, value in flags.items() for word in (f"--{key}", value)]
        given += ["--model_name_or_path", model, "--output_dir", str(tmp_path / "out" / name), "--figures", "false"]
        given += ["--num_train_epochs", "1", "--baselines", "none", "--disable_tqdm", "true"]
        assert main(["finetune", *given]) == 0
        record = json.loads((tmp_path / "out" / name / "hfft.json").read_text())
        return record["files"], record["metrics"], record["per_class"], record["data"]["sha256"]

    model = str(pretrained("resnet"))
    plain = train("plain", {"train_dir": str(images)})
    for pack in PACKINGS:
        place = tmp_path / pack.__name__
        place.mkdir()
        assert train(pack.__name__, pack(images, place)) == plain, pack.__name__


def test_class_folders_with_texts_beside_their_images_are_no_webdataset(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        for file in _files(images):
            name = file.relative_to(images)
            _add(opened, str(name), file.read_bytes())
            _add(opened, str(name.with_suffix(".txt")), b"a picture")
            _add(opened, str(name.with_suffix(".json")), b"{}")
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path / "x.tar")), 3)
    assert sets.labels == CLASSES
    assert _content(sets) == _content(load_image_sets(DataArguments(train_dir=str(images)), 3))


def test_a_stream_of_class_folders_has_their_classes_or_is_refused(images: Path, tmp_path: Path) -> None:
    def streamed(place: Path) -> ImageSets:
        most = {"max_train_samples": 1000, "max_eval_samples": 1000, "train_val_split": 0.25}
        return load_image_sets(DataArguments(dataset_name=str(place), streaming=True, **most), 0)  # type: ignore[arg-type]

    plain = [file for file in _files(images) if file.parent.parent == images]
    for file in plain:
        for part in ("day", "night"):
            target = tmp_path / "nested" / file.parent.name / part
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            (tmp_path / "plain" / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / "plain" / file.parent.name)
    assert streamed(tmp_path / "plain").labels == CLASSES
    with pytest.raises(DataError, match=r"innermost folder .* leave --streaming out"):
        streamed(tmp_path / "nested")
    shutil.copy(plain[0], tmp_path / "nested" / "0" / "top.png")
    with pytest.raises(DataError, match="leave --streaming out"):
        streamed(tmp_path / "nested")


def test_a_compressed_archive_is_read_once_from_its_beginning(images: Path, tmp_path: Path) -> None:
    """To go back is to unpack it again, for every image of an archive in the order of a disk."""
    path = Path(_tar(images, tmp_path)["dataset_name"])
    with tarfile.open(path) as opened:
        order = [member.name for member in opened]
    rows = tuple(("", name, name) for name in sorted(order))
    found = list(archives._read_members(str(path), rows, (0, 0)))
    assert [row["image"]["path"] for row in found] == order
    assert [rows[row["row"]][1] for row in found] == order


@pytest.mark.parametrize("mode", ["", "gz", "xz"])
def test_a_tar_that_is_damaged_in_its_middle_does_not_end_there(images: Path, tmp_path: Path, mode: str) -> None:
    """For `tarfile` a damaged header is the end: all classes behind it would be missing."""
    plain = tmp_path / "plain.tar"
    with tarfile.open(plain, "w") as opened:
        for file in _files(images):
            opened.add(file, file.relative_to(images))
    with tarfile.open(plain) as opened:
        damaged = opened.getmember("2/000.png").offset
    content = bytearray(plain.read_bytes())
    content[damaged + 150] ^= 0xFF  # in the header's checksum
    packed = tmp_path / f"packed.tar{'.' * bool(mode)}{mode}"
    packed.write_bytes(gzip.compress(content) if mode == "gz" else lzma.compress(content) if mode else content)
    with pytest.raises(DataError, match=r"cannot be read \(a header in its middle is damaged\)"):
        load_image_sets(DataArguments(dataset_name=str(packed)), seed=0)


def test_a_damaged_xz_is_one_line(images: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar.xz"
    with tarfile.open(packed, "w:xz") as opened:
        for file in _files(images):  # without their times, so that the damage hits the same bits each time
            member = tarfile.TarInfo(str(file.relative_to(images)))
            member.size = file.stat().st_size
            with file.open("rb") as stream:
                opened.addfile(member, stream)
    content = bytearray(packed.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    packed.write_bytes(content)
    with pytest.raises(DataError, match=r"packed.tar.xz: cannot be read \(Corrupt input data\)"):
        load_image_sets(DataArguments(dataset_name=str(packed)), seed=0)


def test_names_in_a_zip_of_macos_are_utf_8(images: Path, tmp_path: Path) -> None:
    """They are, without the flag that says so."""
    packed, flag = tmp_path / "packed.zip", 0x08  # in the upper byte of two
    with zipfile.ZipFile(packed, "w") as opened:
        for file in _files(images):
            opened.write(file, f"\u00e4pfel {file.relative_to(images)}")
    content = bytearray(packed.read_bytes())
    for signature, place in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + place] &= ~flag
    packed.write_bytes(content)
    sets = load_image_sets(DataArguments(dataset_name=str(packed)), seed=0)
    assert sets.labels == tuple(f"\u00e4pfel {name}" for name in CLASSES)
    assert sets.train.image(0).mode == "RGB"


def test_a_name_in_a_tar_that_is_not_utf_8_is_named(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as opened:
        opened.add(images, "\u00e4pfel")
    with pytest.raises(DataError, match=r"the name b'\\xe4pfel' in it is not UTF-8; rename it"):
        load_image_sets(DataArguments(dataset_name=str(tmp_path / "packed.tar")), seed=0)


def test_splits_inside_an_archive_are_splits(image_folder: Folder, tmp_path: Path) -> None:
    parts = {"train": image_folder("a"), "valid": image_folder("b", per_class=2, seed=1)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        for split, folder in parts.items():
            for file in folder.rglob("*.png"):
                opened.write(file, f"top/{split}/{file.relative_to(folder)}")
    sets = load_image_sets(DataArguments(dataset_name=str(tmp_path / "x.zip")), 0)
    assert (len(sets.train), len(sets.validation)) == (24, 6)
    assert sets.train.files[0] == "blue/000.png"


def _truncated_zip(folder: Path) -> Path:
    (folder / "x.zip").write_bytes(b"PK\x03\x04 and then nothing")
    return folder / "x.zip"


def _truncated_tar(folder: Path) -> Path:
    (folder / "x.tar.gz").write_bytes(b"\x1f\x8b\x08 and then nothing")
    return folder / "x.tar.gz"


def _no_images(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as opened:
        opened.writestr("cat/readme.txt", "none")
    return folder / "x.zip"


def _flat(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "x.zip", "w") as opened:
        opened.writestr("1.png", b"x")
    return folder / "x.zip"


def _written(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return write


BAD: list[tuple[str, Callable[[Path], Path], str]] = [
    ("truncated zip", _truncated_zip, "cannot be read"),
    ("truncated tar", _truncated_tar, "cannot be read"),
    ("no images", _no_images, "no images"),
    ("no class folders", _flat, "folder of its own"),
    ("no path column", _written("x.csv", "a,label\n1,2\n"), "--image_column_name"),
    ("empty table", _written("x.csv", ""), "x.csv"),
    ("no path in a row", _written("x.csv", "path,label\na.png,2\n,3\n"), "nothing in the column"),
    ("broken json", _written("x.jsonl", "{"), "x.jsonl"),
    ("broken parquet", _written("x.parquet", "PAR1"), "x.parquet"),
    ("other file", _written("x.rar", "rar"), "not known"),
]


@pytest.mark.parametrize(("make", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], words: str
) -> None:
    assert main(["check", str(make(tmp_path))]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hfft: error: ")
    assert words in error


def test_streaming_needs_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--dataset_name", "x/y", "--streaming", "true", "--output_dir", str(tmp_path)]) == 2
    assert "--max_train_samples" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["cls", "txt"])
def test_names_of_classes_in_shards_are_texts(images: Path, tmp_path: Path, suffix: str) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as opened:
        for number, file in enumerate(_files(images)):
            _add(opened, f"{number:04d}.png", file.read_bytes())
            _add(opened, f"{number:04d}.{suffix}", f"class {file.relative_to(images).parts[0]}".encode())
    data = DataArguments(dataset_name=str(tmp_path / "train-0.tar"))
    if suffix == "txt":
        assert load_image_sets(data, 0).labels == ("class 0", "class 1", "class 2")
    else:
        with pytest.raises(DataError, match=r"a \.cls in its shards holds no number \(.*class 0.*\); write names of"):
            load_image_sets(data, 0)
