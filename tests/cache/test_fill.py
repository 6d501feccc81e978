"""A filling in several lanes: rows in order, little ahead of what is taken, and errors that arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hfft import machine
from hfft.cache.fill import Batches, FillReport, capture_all, pixel_batches
from hfft.cache.fill import EnginePrefix as Lanes
from hfft.errors import DataError, ModelError
from hfft.split.engines import EngineError

BATCH = 8  # of `fill_batch` on a CPU


class Engine:
    """Doubles its inputs in four lanes, and records which threads were at work and what was begun."""

    name, device, lanes = "engine", torch.device("cpu"), 4

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.begun = 0
        self.together = threading.Barrier(self.lanes)

    def capture(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        self.begun += 1
        if self.begun <= self.lanes:
            self.together.wait(timeout=60)  # breaks unless as many lanes compute at once
        self.threads.add(threading.current_thread().name)
        return {"leaf": 2 * inputs["row"]}


def batches(rows: list[int]) -> Batches:
    return ({"row": torch.tensor(rows[start : start + BATCH])} for start in range(0, len(rows), BATCH))


def lanes(engine: Any) -> Lanes:
    return Lanes(engine)


def test_rows_come_in_order_from_as_many_threads_as_there_are_lanes() -> None:
    engine, report = Engine(), FillReport(100)
    rows = list(range(99, -1, -1))
    found = torch.cat([values["leaf"] for values in capture_all(lanes(engine), batches, rows, report)])
    assert found.tolist() == [2 * row for row in rows]
    assert len(engine.threads) == engine.lanes
    assert report.prefix_seconds > 0


def test_no_more_is_begun_than_a_few_batches_ahead() -> None:
    engine = Engine()
    remaining = capture_all(lanes(engine), batches, list(range(1000 * BATCH)))
    assert next(remaining)["leaf"].tolist() == [2 * row for row in range(BATCH)]
    remaining.close()  # type: ignore[attr-defined]
    assert engine.begun <= 2 * engine.lanes + 1


def test_what_fails_in_a_lane_fails_the_filling() -> None:
    def unreadable(rows: list[int]) -> Iterator[dict[str, Tensor]]:
        raise DataError(f"row {rows[0]} cannot be read")
        yield {}

    with pytest.raises(DataError, match="row 0 cannot be read"):
        list(capture_all(lanes(Engine()), unreadable, list(range(64))))

    class Broken(Engine):
        def capture(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            raise EngineError("out of memory")

    with pytest.raises(ModelError, match="out of memory; choose --prefix_engine torch"):
        list(capture_all(lanes(Broken()), batches, list(range(64))))


def test_a_lane_decodes_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether worker processes pay is not tried out anew for every batch."""
    monkeypatch.setattr(machine, "cores", lambda: 2)
    decoded: list[int] = []

    class Images:
        def __len__(self) -> int:
            return 64

        def contents(self) -> list[str]:
            return [""] * 64

        def image(self, row: int, least: Any) -> int:
            return row

    class Pixels:
        least = None

        def __call__(self, image: int, content: str, view: int) -> dict[str, Tensor]:
            decoded.append(image)
            return {"row": torch.tensor(image)}

    images, pixels = Images(), Pixels()
    source = pixel_batches(images, pixels, Engine.device)  # type: ignore[arg-type]
    found = [values["leaf"] for values in capture_all(lanes(Engine()), source, list(range(64)))]
    assert torch.cat(found).tolist() == list(range(0, 128, 2))
    assert sorted(decoded) == list(range(64))
