"""Before and after as one picture: what the head reads of all images, as points, under the tab Training."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from hfft.errors import HfftError
from hfft.output_folder import FEATURE_MAP
from hfft.space.models import Loaded
from hfft.space.pictures import address_of
from hfft.space.service import Space
from hfft.space.views import feature_map as map_views
from hfft.space.views.evidence import doubt
from hfft.space.views.feature_map import Star, map_value, no_map
from hfft.space.widgets import Tabs, plainly
from hfft.trust.feature_map import FeatureMap, read_map

_MAP = Path(map_views.__file__)
_PICTURE = 224  # pixels of a shown image's longer side, twice what is drawn
_NO_MAP = (
    "This run came without its map: it is of an earlier hfft, was pushed to the Hub, or its head is not a linear "
    "layer. Train it again to have one."
)

_OF_ONE_LABEL = "There is no map: it draws each image in the colour of its one label."


class BeforeAfter:
    """Images as two models see them, with the picture under Classify among them.

    Args:
        space: what answers.
        image: the picture that lands in the map.
        tab: where this stands.
        tabs: fills it.
    """

    def __init__(self, space: Space, image: gr.Image, tab: gr.Tab, tabs: Tabs) -> None:
        self.space = space
        gr.Markdown("## Before and after, as one picture")
        drawn = gr.HTML(
            no_map(""),
            html_template=_MAP.with_suffix(".html").read_text(encoding="utf-8"),
            js_on_load=_MAP.with_suffix(".js").read_text(encoding="utf-8"),
            label="Map of features",
            elem_id="feature-map",
        )
        shown = gr.HTML("", label="The image of a point", elem_id="map-image")
        tabs.fill(tab, self.drawn, [image, tabs.model], [drawn, shown], (no_map(""), ""))
        drawn.input(
            plainly(self.picture),
            tabs.model,
            shown,
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="always_last",
        )
        self.image = image

    def drawn(self, path: str | None, model: str | None, request: gr.Request) -> tuple[dict[str, Any], str]:
        """Answer with what the map draws, and the image that is shown at first: the first validation image."""
        session = self.space.visits.of(request.session_hash)
        loaded = self.space.loaded_if_any(session, model)
        if loaded is None or loaded.run is None:
            return no_map(""), ""
        if not (loaded.run.folder / FEATURE_MAP).exists():
            return no_map(_NO_MAP if loaded.classifier.task.chooses else _OF_ONE_LABEL), ""
        try:
            found = read_map(loaded.run.folder / FEATURE_MAP)
        except HfftError as error:
            return no_map(f"There is no map to draw: {error}."), ""
        star = self._star(loaded, found, path) if path else None
        return map_value(found, loaded.run.record.data.labels, star), _picture(loaded, found, "validation", 0)

    def _star(self, loaded: Loaded, found: FeatureMap, path: str) -> Star | None:
        """Return where the picture under Classify lies, and whether it is like the training images."""
        before, after = loaded.head_inputs(self.space.image(path, loaded.classifier.pixels.least))
        if after is None:
            return None
        earlier = found.before.plane.place(before[None])[0] if found.before is not None and before is not None else None
        known = loaded.classifier.known
        score = known.compare(after[None])[0].score if known is not None else None
        said = f"The star is the picture under Classify. {doubt(score)}"
        return earlier, found.after.plane.place(after[None])[0], said

    def picture(self, model: str | None, event: gr.EventData, request: gr.Request) -> str:
        """Answer with the image of a point."""
        loaded = self.space.loaded(self.space.visits.of(request.session_hash), model)
        split, row = str(event.split), int(event.row)
        if loaded.run is None or split not in ("train", "validation") or row < 0:
            return ""
        return _picture(loaded, read_map(loaded.run.folder / FEATURE_MAP), split, row)


def _picture(loaded: Loaded, found: FeatureMap, split: str, row: int) -> str:
    """Return an image of the map with its name, or a line that it is gone."""
    files = found.files[split]
    if loaded.images is None or row >= len(files):
        return ""
    image = (loaded.images.trained_on if split == "train" else loaded.images.get)(files[row])
    name = escape(files[row].rpartition("/")[2])
    if image is None:
        return f'<div class="hf-point"><span>The image {name} is not here any more.</span></div>'
    kind = "training" if split == "train" else "validation"
    return (
        f'<div class="hf-point"><img src="{address_of(image, "JPEG", _PICTURE)}" alt="The {kind} image {name}">'
        f"<span>{name}</span></div>"
    )
