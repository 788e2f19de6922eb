"""The metrics under their public name; they live in ``harness.results.metrics``."""

from harness.results.metrics import (
    FPR_LIMIT,
    Undefined,
    aupro,
    image_auprc,
    image_auroc,
    image_f1_max,
    pixel_ap,
    pixel_auroc,
    pixel_f1_max,
)

__all__ = [
    "FPR_LIMIT",
    "Undefined",
    "aupro",
    "image_auprc",
    "image_auroc",
    "image_f1_max",
    "pixel_ap",
    "pixel_auroc",
    "pixel_f1_max",
]
