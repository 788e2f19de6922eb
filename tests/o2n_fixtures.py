"""One-to-Normal on the small random CLIP, and the pictures its tests show it."""

from __future__ import annotations

from harness.interface import Arrays, Prediction, Queries, Support
from methods._o2n.text import TextLayers
from methods.o2n import O2n
from tests.clip_fixtures import SIZE, memory, pictures

QUERIES = pictures(3)
REFERENCES = pictures(2, seed=1)
PERSONALIZED = pictures(3, seed=2)
POOL = REFERENCES + pictures(3, seed=3)
STATE = TextLayers.fresh([32] * 3, 24, seed=0, device="cpu").arrays()


def o2n(tiny: str, features=None, state: Arrays | None = STATE, **parameters) -> O2n:
    method = O2n(encoder={"model": tiny, "weights": "random:0"}, size=SIZE, **parameters)
    method.setup("cpu", features or memory())
    if method.auxiliary and state is not None:
        method.load(state)
    return method


def support(references=REFERENCES, pool=POOL) -> Support:
    return Support(tuple(references), "metal_nut", 0, tuple(pool))


def predict(
    method: O2n, queries=QUERIES, personalized=PERSONALIZED, cell: Support | None = None
) -> Prediction:
    method.fit(cell or support())
    return method.predict(Queries(tuple(queries), tuple(personalized)))
