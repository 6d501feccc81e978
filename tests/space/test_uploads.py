"""Uploads of people who mean well, and of those who do not."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from bad_uploads import BAD_IMAGES, BAD_ZIPS, make_zip, png, two_classes
from PIL import Image

from hfft.errors import DataError
from hfft.space.uploads import Limits, Uploaded, add, class_name, open_upload, place, remove, sent, unpack

LIMITS = Limits(megabytes=2, images=40, classes=5, pixels=1_000_000)


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_named_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    data, reason = BAD_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        open_upload(path, LIMITS)
    assert name in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_unusual_images_are_read(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((9, 9), 30_000, np.uint16))
    grey.save(tmp_path / "deep.png")
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "alpha.png")
    frames = [Image.new("RGB", (9, 9), (shade, 0, 0)) for shade in (250, 0)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    for path in tmp_path.iterdir():
        assert open_upload(path, LIMITS).mode == "RGB"
    assert open_upload(tmp_path / "turned.jpg", LIMITS).size == (10, 20)
    assert open_upload(tmp_path / "moving.gif", LIMITS).getpixel((0, 0))[0] > 200  # type: ignore[index]


@pytest.mark.parametrize("prefix", ["", "pets/", "pets\\train\\"])
def test_a_zip_of_class_folders_is_unpacked(prefix: str, tmp_path: Path) -> None:
    found = unpack(make_zip(tmp_path / "z.zip", two_classes(prefix)), tmp_path / "out", LIMITS)
    assert found.of("train") == {"a": 3, "b": 3}
    assert sorted(path.parent.name for path in (tmp_path / "out" / "train").glob("*/*")) == ["a"] * 3 + ["b"] * 3


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damage", ["in a member", "in the table of contents"])
def test_a_damaged_zip_is_refused_in_plain_words(method: int, damage: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", method) as archive:
        for name, data in two_classes().items():
            archive.writestr(name, data)
    content = bytearray((tmp_path / "z.zip").read_bytes())
    if damage == "in a member":
        start = 30 + len("a/0.png")  # behind the local header
        content[start + 5 : start + 25] = b"\xff" * 20
    else:  # the table is said to begin where the file has not yet begun
        content[-6:-2] = struct.pack("<I", 2**31)
    (tmp_path / "z.zip").write_bytes(content)
    with pytest.raises(DataError, match="not a zip that can be read"):
        unpack(tmp_path / "z.zip", tmp_path / "out", LIMITS)


def test_a_zip_of_macos_keeps_the_names_of_its_classes(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", {name.replace("a/", "Äpfel/"): data for name, data in two_classes().items()})
    content, marked, plain = path.read_bytes(), b"\x00\x08\x08\x00", b"\x00\x00\x08\x00"  # its flags, and the method
    assert content.count(marked) == 6
    path.write_bytes(content.replace(marked, plain))
    assert unpack(path, tmp_path / "out", LIMITS).of("train") == {"b": 3, "Äpfel": 3}


@pytest.mark.parametrize(
    ("members", "counts"),
    [
        (two_classes("train/") | {f"test/{k}/9.png": png((9, 9, ord(k))) for k in "ab"}, {"train": 3, "test": 1}),
        (two_classes("x/Training/") | {f"x/Val/{k}/9.png": png((9, 9, ord(k))) for k in "ab"}, {"validation": 1}),
        (two_classes("train/"), {"train": 3, "test": 0}),
    ],
)
def test_splits_at_the_top_are_splits(members: dict[str, bytes], counts: dict[str, int], tmp_path: Path) -> None:
    found = unpack(make_zip(tmp_path / "z.zip", members), tmp_path / "out", LIMITS)
    for split, count in counts.items():
        assert found.of(split) == ({"a": count, "b": count} if count else {})
        assert len(list((tmp_path / "out" / split).glob("*/*"))) == 2 * count


def test_folders_below_a_class_belong_to_it(tmp_path: Path) -> None:
    members = {
        f"mine/{folder}/{number}.png": png((place, number, 0))
        for place, folder in enumerate(("cats/indoor", "dogs/indoor", "dogs/outdoor"))
        for number in range(3)
    }
    found = unpack(make_zip(tmp_path / "z.zip", members), tmp_path / "out", LIMITS)
    assert found.of("train") == {"cats": 3, "dogs": 6}


def test_a_test_image_that_is_trained_on_is_left_out_and_said(tmp_path: Path) -> None:
    twins = {f"test/{name}": data for name, data in two_classes().items()}
    members = two_classes("train/") | twins | {"test/a/9.png": png((9, 9, 9))}
    found = unpack(make_zip(tmp_path / "z.zip", members), tmp_path / "out", LIMITS)
    assert found.of("test") == {"a": 1}
    assert len(found.left_out) == 6
    assert "Left out: 6" in found.describe()
    assert "the same file as b/2.png" in found.describe()


def test_what_is_no_image_is_left_out_and_named(tmp_path: Path) -> None:
    more = {"a/notes.txt": b"x", "a/broken.jpg": b"no", "__MACOSX/a/._0.png": b"x", "b/.hidden.png": b"x"}
    found = unpack(make_zip(tmp_path / "z.zip", two_classes() | more), tmp_path / "out", LIMITS)
    assert found.counts.total() == 6
    assert [name for name, _ in found.left_out] == ["notes.txt", "broken.jpg"]
    assert "Left out: 2, the last of them broken.jpg (broken.jpg is not an image" in found.describe()


@pytest.mark.parametrize("kind", BAD_ZIPS)
def test_a_bad_zip_is_refused_and_writes_nothing_outside(kind: str, tmp_path: Path) -> None:
    members, reason = BAD_ZIPS[kind]
    (tmp_path / "in").mkdir()
    path = make_zip(tmp_path / "in" / "z.zip", members)
    with pytest.raises(DataError, match=reason):
        unpack(path, tmp_path / "deep" / "er" / "out", LIMITS)
    assert {entry.name for entry in tmp_path.iterdir()} <= {"in", "deep"}
    assert not [entry for entry in (tmp_path / "deep").rglob("*") if "evil" in entry.name]


def test_a_zip_that_lies_about_its_size_is_stopped_by_what_it_writes(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "z.zip", {"a/1.png": bytes(5_000_000), "b/1.png": png()})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place_ = data.find(signature)
        data[place_ + offset : place_ + offset + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    with pytest.raises(DataError):
        unpack(path, tmp_path / "out", LIMITS)
    assert sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file()) < 2_000_000


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip at all", make_zip])
def test_what_is_no_zip_is_refused(data: object, tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        make_zip(path, two_classes())
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a zip"):
        unpack(path, tmp_path / "out", LIMITS)


def test_files_under_class_names_are_copied_beside_each_other(tmp_path: Path) -> None:
    found = Uploaded()
    for label, names in {"a": "012", "<b>&../b": "345"}.items():
        files = [tmp_path / f"{name}.png" for name in names]
        for file in files:
            file.write_bytes(png((int(file.stem), 0, 0)))
        place(found, label, files, tmp_path / "out", LIMITS)
    found.check()
    assert found.of("train") == {"a": 3, "<b>&.. b": 3}
    assert {path.parent.parent for path in (tmp_path / "out").rglob("*.png")} == {tmp_path / "out" / "train"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cat", "cat"),
        ("  two  words ", "two words"),
        ("../../etc", "etc"),
        ("a/b\\c", "a b c"),
        ("x" * 90, "x" * 60),
        ("cafe\u0301", "caf\u00e9"),
        ("\U0001f468\u200d\U0001f33e", "\U0001f468\u200d\U0001f33e"),  # a farmer
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u200dcat\u200c", "cat"),
        ("a\u202egnp\u2069", "agnp"),
    ],
)
def test_class_names_are_one_line_without_slashes(text: str, name: str) -> None:
    assert class_name(text) == name


def test_class_names_are_what_windows_takes_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert class_name("cat: 'big?' etc.") == "cat: 'big?' etc."
    monkeypatch.setattr("hfft.space.uploads._NOT_IN_NAMES", '/\\:*?"<>|')
    monkeypatch.setattr("hfft.space.uploads._NOT_AT_END", " .")
    assert class_name("cat: 'big?' etc.") == "cat 'big ' etc"


@pytest.mark.parametrize("text", ["", "  ", "...", "/", "\0\n", "\u200d"])
def test_a_class_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="name"):
        class_name(text)


@pytest.mark.parametrize("label", ["../../../evil", "{}/evil", "a/../../../evil"])
def test_a_class_of_any_name_lies_within_the_folder(label: str, tmp_path: Path) -> None:
    found, target = Uploaded(), tmp_path / "deep" / "er" / "out"
    add(found, target, ("train", label.format(tmp_path)), io.BytesIO(png()), ("a.png", LIMITS))
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert written.parent.parent == target / "train"
    assert found.of("train") == {written.parent.name: 1}


def test_a_class_whose_images_are_all_left_out_leaves_no_folder(tmp_path: Path) -> None:
    left_out = {"train/twins/0.png": two_classes()["a/0.png"], "train/broken/0.png": b"no", "test/broken/0.png": b"no"}
    found = unpack(make_zip(tmp_path / "z.zip", two_classes("train/") | left_out), tmp_path / "out", LIMITS)
    assert len(found.left_out) == 3
    folders = [path for path in (tmp_path / "out").rglob("*") if path.is_dir()]
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in folders) == ["train", "train/a", "train/b"]


def test_an_image_that_passes_the_limit_leaves_nothing(tmp_path: Path) -> None:
    found, files = Uploaded(), [tmp_path / "small.png", tmp_path / "large.png"]
    files[0].write_bytes(png())
    files[1].write_bytes(bytes(LIMITS.megabytes * 1_000_000))
    with pytest.raises(DataError, match="more than 2 MB"):
        place(found, "a", files, tmp_path / "out", LIMITS)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["00000.png"]
    with pytest.raises(DataError, match="more than 2 MB"):
        place(found, "b", files[1:], tmp_path / "out", LIMITS)
    assert not (tmp_path / "out" / "train" / "b").exists()


def test_the_newest_file_that_was_left_out_is_named(tmp_path: Path) -> None:
    found = Uploaded()
    for name in ("first.png", "newest.png"):
        (tmp_path / name).write_bytes(b"no image")
        place(found, "a", [tmp_path / name], tmp_path / "out", LIMITS)
    assert found.describe().startswith("Left out: 2, the last of them newest.png (newest.png is not an image")
    assert "held back" not in found.describe()  # there are none


def test_only_what_lies_below_the_root_is_removed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "work" / "a", tmp_path / "b"
    inside.mkdir(parents=True)
    outside.mkdir()
    remove([inside, outside, None, tmp_path / "work" / ".." / "b", tmp_path / "work"], tmp_path / "work")
    assert not inside.exists()
    assert outside.exists()
    assert (tmp_path / "work").exists()


@pytest.mark.parametrize("names", [("a b", "a  b"), ("caf\u00e9", "cafe\u0301"), ("Cat", "cat")])
def test_two_folders_of_one_class_name_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    members = {f"{name}/{n}.png": png() for name in names for n in range(3)}
    with pytest.raises(DataError, match=r"two (of its folders|classes would be called)"):
        unpack(make_zip(tmp_path / "z.zip", members), tmp_path / "out", LIMITS)


def test_what_a_program_sent_is_given_and_only_what_was_uploaded_stays(tmp_path: Path) -> None:
    uploaded = tmp_path / "uploads" / "hash" / "a photo.png"
    uploaded.parent.mkdir(parents=True)
    uploaded.write_bytes(png())
    data = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    for address in (str(uploaded), f"https://x.org/gradio_api/file={quote(str(uploaded))}", data):
        with sent(address, tmp_path, LIMITS) as path:
            assert path.read_bytes() == png()
        assert path.parent.exists() == (address != data)


@pytest.mark.parametrize(
    "place", ["trainings/mine/model.png", "uploads/../secret.png", "uploads/link.png", "uploads/no"]
)
def test_nothing_but_uploads_can_be_named(place: str, tmp_path: Path) -> None:
    for name in ("trainings/a/b.png", "secret.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="neither a data address"), sent(f"/file={tmp_path / place}", tmp_path, LIMITS):
        pass
    assert (tmp_path / "secret.png").exists()


@pytest.mark.parametrize(
    ("address", "wrong"),
    [
        ("data:image/png,abc", "must hold base64"),
        ("data:x;base64,a", "damaged"),
        ("data:x;base64," + "A" * 2_700_000, "2 MB"),
    ],
)
def test_data_that_cannot_be_used_is_refused(address: str, wrong: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=wrong), sent(address, tmp_path, LIMITS):
        pass
    assert not list(tmp_path.rglob("file"))


def test_a_class_that_is_named_in_other_case_is_the_same_class(tmp_path: Path) -> None:
    found = Uploaded()
    for number, label in enumerate(("Cat", "cat")):
        (tmp_path / "a.png").write_bytes(png((number, 0, 0)))
        place(found, label, [tmp_path / "a.png"], tmp_path / "out", LIMITS)
    assert found.of("train") == {"Cat": 2}


def test_one_image_is_not_called_images(tmp_path: Path) -> None:
    found = Uploaded()
    (tmp_path / "a.png").write_bytes(png())
    place(found, "cat", [tmp_path / "a.png"], tmp_path / "out", LIMITS)
    assert found.describe().startswith("To train on: 1 image in 1 class: cat (1).")
