"""Train the micro models: seeded, resumable, on one CPU core or one GPU.

    python -m methods.micro.train --stage all --out SCRATCH --minutes 60 --resume

Stages: ``clip`` (text encoder and image projection), ``autoencoder`` (its decoder), ``unet`` (told
by the text encoder; it may run beside ``autoencoder``), and ``export``, which writes the
half-precision files beside this program. The scratch folder holds the renderings
(``python -m methods.micro.data`` makes them; missing ones are made first) and the checkpoints.
``--minutes`` is the time of each stage; an interrupted one resumes with what is left.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from methods.micro.data import Corpus
from methods.micro.export import export
from methods.micro.train_autoencoder import train_autoencoder
from methods.micro.train_clip import train_clip
from methods.micro.train_unet import train_unet

HERE = Path(__file__).parent
STAGES: dict[str, Callable[[Path, Corpus, float, bool, int], None]] = {
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "unet": train_unet,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=[*STAGES, "export", "all"], default="all")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--target", type=Path, default=HERE, help="where the weights go")
    parser.add_argument("--minutes", type=float, default=60.0, help="time of each stage")
    parser.add_argument("--pairs", type=int, default=24_000, help="renderings, in pairs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    corpus = Corpus(options.out / "corpus", options.pairs, write=True)
    corpus.render()
    for name in STAGES if options.stage == "all" else [options.stage]:
        if name in STAGES:
            torch.manual_seed(options.seed)
            STAGES[name](options.out, corpus, options.minutes, options.resume, options.seed)
    if options.stage in ("export", "all"):
        export(options.out, options.target)


if __name__ == "__main__":
    main()
