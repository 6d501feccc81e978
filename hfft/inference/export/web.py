"""A model as a page: static files that classify photos in the browser, with no server and no network behind them.

The preprocessing and the model are two graphs there. The first always runs in WebAssembly; the second, which is also
where transformers.js looks for it, on the GPU where the browser has one.
"""

from __future__ import annotations

import hashlib
import html
import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.data.images import MAX_ASPECT
from hfft.errors import ModelError
from hfft.inference.export.formats import Format, Parts, described, write_onnx
from hfft.inference.export.graphs import joined, session_of
from hfft.inference.export.npm import npm_files
from hfft.inference.export.parity import Answers, Runner
from hfft.inference.export.recipe import Recipe
from hfft.report.card_metadata import base_name, data_name

RUNTIME = "onnxruntime-web", "1.30.0"
"""Package and version of what runs the graphs in the browser."""
_BY_KIND = {
    "wasm": ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
RUNTIME_FILES = tuple(f"dist/{name}" for names in _BY_KIND.values() for name in names)
_PAGE = ("app.js", "style.css", "icon.svg")
_FRONT, _MODEL = "preprocess.onnx", "onnx/model.onnx"
_LARGEST = 4  # a photo's shorter side, in multiples of the model's input, above which the browser scales it down first
_SAMPLE = 48, 64  # height and width of the image that a browser's GPU is tried on


def write_web(parts: Parts, folder: Path) -> None:
    """Write the page, its two graphs, the runtime, and the configuration that transformers.js reads.

    Raises:
        HfftError: the runtime's package cannot be had.
    """
    runtime = npm_files(*RUNTIME, RUNTIME_FILES)
    for name in ("ort", "onnx"):
        (folder / name).mkdir()
    for file in runtime:
        shutil.copyfile(file, folder / "ort" / file.name)
    write_onnx(described(parts.front, parts.metadata), folder / _FRONT)
    write_onnx(described(joined(parts.core, parts.tail), parts.metadata), folder / _MODEL)
    _write_transformers_js(parts, folder)
    _write_page(parts, folder)


def open_web(folder: Path) -> Runner:
    """Open the two graphs in onnxruntime, which is what the browser runs, built for WebAssembly there."""
    front, model = session_of(str(folder / _FRONT)), session_of(str(folder / _MODEL))
    names = [each.name for each in model.get_outputs()]

    def run(images: NDArray[np.uint8]) -> Answers:
        (pixels,) = front.run(["pixel_values"], {"images": images})
        return dict(zip(names, model.run(names, {"pixel_values": pixels}), strict=True))

    return run


def sample_image() -> NDArray[np.uint8]:
    """Return the image that a browser's GPU is tried on, which app.js draws in the same way."""
    rows, columns = np.indices(_SAMPLE)
    return np.stack([columns * 4, rows * 5, rows * columns], axis=-1).astype(np.uint8)


def _write_page(parts: Parts, folder: Path) -> None:
    name = _title(parts)
    about = _about(parts, open_web(folder), name)
    write: Callable[[str, str], Any] = lambda file, text: (folder / file).write_text(text, encoding="utf-8")  # noqa: E731
    for file in _PAGE:
        write(file, _page_file(file))
    write("index.html", _page_file("index.html").replace("{title}", html.escape(name)))
    icon = {"src": "icon.svg", "sizes": "any", "type": "image/svg+xml", "purpose": "any"}
    manifest = {"name": name, "short_name": name[:24], "start_url": ".", "display": "standalone", "icons": [icon]}
    write("manifest.webmanifest", json.dumps(manifest | {"background_color": "#101418", "theme_color": "#101418"}))
    write("about.json", json.dumps(about, ensure_ascii=False))
    files = sorted(str(file.relative_to(folder).as_posix()) for file in folder.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update((folder / file).read_bytes())
    kept = [file for file in files if not file.startswith("ort/")]
    worker = _page_file("sw.js").replace("{digest}", digest.hexdigest()[:16])
    write("sw.js", worker.replace("{files}", json.dumps(["./", *kept])))


def _about(parts: Parts, run: Runner, name: str) -> dict[str, Any]:
    """Return what the page is told of the model."""
    height, width = parts.recipe.geometry.crop
    answers = run(sample_image()[None])
    return {
        "title": name,
        "labels": list(parts.classifier.labels),
        "unknown": parts.classifier.known is not None,
        "runtime": _BY_KIND,
        "most": _LARGEST * max(height, width),
        "aspect": MAX_ASPECT,
        "sample": {
            "height": _SAMPLE[0],
            "width": _SAMPLE[1],
            "probabilities": answers["probabilities"][0].astype(float).tolist(),
        },
    }


def _title(parts: Parts) -> str:
    record = parts.classifier.record
    return Path(parts.classifier.name).name if record is None else f"{data_name(record)} by {base_name(record)}"


def _write_transformers_js(parts: Parts, folder: Path) -> None:
    """Write what transformers.js reads; of the model's type it wants one that it knows, and runs any graph."""
    labels = parts.classifier.labels
    config = json.loads(_page_file("config.json")) | {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "exported_from": parts.classifier.model.config.model_type,
    }
    for name, content in {"config.json": config, "preprocessor_config.json": preprocessor_config(parts.recipe)}.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")


def preprocessor_config(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe in the words of an image processor, as stock transformers and transformers.js read it.

    Raises:
        ModelError: its channels are in an order that these words do not hold.
    """
    if recipe.channels not in ((0, 1, 2), (2, 1, 0)):
        raise ModelError(
            f"the preprocessing takes the channels red, green, blue in the order {recipe.channels}; transformers.js "
            "knows 0, 1, 2 and the reverse alone: export to another format"
        )
    geometry, scale = recipe.geometry, np.asarray(recipe.scale)
    size = geometry.stretched
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": size[0], "width": size[1]} if size else {"shortest_edge": geometry.edge},
        "resample": {"bilinear": 2, "bicubic": 3}[geometry.kernel],
        "do_center_crop": True,
        "crop_size": {"height": geometry.crop[0], "width": geometry.crop[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": (-np.asarray(recipe.offset) / (255 * scale)).tolist(),
        "image_std": (1 / (255 * scale)).tolist(),
        "do_flip_channel_order": recipe.channels == (2, 1, 0),
    }


def _page_file(name: str) -> str:
    return resources.files("hfft.inference.export").joinpath("page", name).read_text(encoding="utf-8")


def _not_calibrated(parts: Parts) -> str:
    """Say what transformers.js leaves out: it makes probabilities of the logits by itself."""
    temperature = parts.classifier.temperature
    return f" transformers.js does not divide the logits by the temperature {temperature:g}, as the page does." * (
        temperature != 1
    )


WEB = Format(write_web, open_web, one_label=True, note=_not_calibrated)
