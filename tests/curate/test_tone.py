"""Blurred, dark and blank photographs are told from sound ones."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from hfft.curate.tone import blurred, dark, uniform
from hfft.data.probe import ImageProbe, probe_image


def crops() -> list[Image.Image]:
    """Parts of two photographs."""
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    places = [(x, y) for x in range(0, 440, 110) for y in range(0, 220, 110)]
    return [photo.crop((x, y, x + 200, y + 200)) for photo in photos for x, y in places]


def probed(images: list[Image.Image]) -> list[ImageProbe]:
    found = []
    for row, image in enumerate(images):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        found.append(probe_image(io.BytesIO(stream.getvalue()), row))
    return found


def test_sound_photographs_are_left_alone() -> None:
    probes = probed(crops())
    assert [*blurred(probes), *dark(probes), *uniform(probes)] == []


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda image: image.filter(ImageFilter.GaussianBlur(3)), blurred),
        (lambda image: image.filter(ImageFilter.GaussianBlur(3)).resize((800, 800)), blurred),
        (lambda image: image.point(lambda level: level // 6), dark),
        (lambda image: Image.blend(image, Image.new("RGB", image.size, (90, 160, 90)), 0.97), uniform),
    ],
    ids=["blurred", "blurred and enlarged", "dark", "blank"],
)
def test_faults_are_found(
    fault: Callable[[Image.Image], Image.Image], found: Callable[[list[ImageProbe]], list[tuple[int, str]]]
) -> None:
    images = crops()
    images[::5] = [fault(image) for image in images[::5]]
    probes = probed(images)
    assert sorted(row for row, _ in found(probes)) == list(range(0, len(images), 5))
    others = [each for each in (blurred, dark, uniform) if each is not found]
    assert [row for each in others for row, _ in each(probes)] == []


def test_an_image_of_a_few_pixels_or_one_colour_is_not_called_blurred() -> None:
    probes = probed([*crops(), Image.new("RGB", (2, 9), (9, 9, 200)), Image.new("RGB", (40, 40), (200, 9, 9))])
    assert blurred(probes) == []
    assert all(np.isnan(probe.sharpness) for probe in probes[-2:])
    assert [row for row, _ in uniform(probes)] == [len(probes) - 2, len(probes) - 1]


def test_what_is_counted_is_what_numpy_says_of_the_pixels() -> None:
    random = np.random.default_rng(0)
    for row, size in enumerate([(40, 30), (1, 1), (3, 200), (256, 300)]):
        pixels = (random.random((*size, 3)) ** 3 * 256).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        found = probe_image(io.BytesIO(stream.getvalue()), row)
        if found.problem:  # too long
            continue
        levels = np.asarray(Image.fromarray(pixels).convert("L"))
        assert found.brightest == pytest.approx(np.percentile(levels, 99), abs=1e-9)
        assert found.spread == pytest.approx(pixels.reshape(-1, 3).std(axis=0).max(), abs=1e-9)
        assert found.colour == tuple(round(value) for value in pixels.reshape(-1, 3).mean(axis=0).tolist())
        assert found.flat == bool((np.ptp(pixels.reshape(-1, 3), axis=0) <= 4).all())
