"""Every GPU figure in one call of less than ten minutes on one card; no Ray, no data, no network.

    python -m benchmarks.gpu --json gpu.json          # on a GPU: about eight minutes on an H100
    python -m benchmarks.gpu --tiny                   # the same code on tiny models, anywhere

Needs the wheels torch, torchvision, timm, diffusers, transformers, peft, open_clip_torch,
safetensors, numpy, scipy, pillow, pydantic (and psutil, rich to store results). Weights are random:
they say what sizes cost, nothing of what they are worth. Parts run in the order of their worth and
none begins after ``--minutes``; what was not reached is said.

1. Stable Diffusion v1.5's architecture at 512 px: customization steps a second, whole and LoRA,
   queries a second with 3 prompts, FLOP/s as a share of the measured product rate, peak memory.
2. Its UNet by memory layout, torch.compile and CUDA graphs, in bf16 and fp16: which is fastest.
3. CLIP ViT-L/14 at 240 px: pictures a second, by precision and batch.
4. PatchCore: patches a second against the bank of 8 pictures by WideResNet50.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import full_size
from benchmarks.figures import Figures, figure, tell
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Support
from methods._ops.bank import Bank
from methods.generators.dreambooth import DreamBooth

#: of tiny models, for trying the script out
TINY_UNET = full_size.UNET | {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
}
TINY_VAE = full_size.VAE | {
    "sample_size": 64,
    "block_out_channels": (32, 32, 32, 32),
    "layers_per_block": 1,
}
TINY_TEXT = full_size.TEXT | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "projection_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


class Bench:
    """Where it runs, how large, and what was measured so far."""

    def __init__(self, device: str, tiny: bool, minutes: float) -> None:
        self.device, self.tiny = device, tiny
        self.cuda = device.startswith("cuda")
        self.until = time.monotonic() + 60 * minutes
        self.table: Figures = {}
        self.rates: dict[torch.dtype, float] = {}

    def seconds(self, run: Callable[[], Any], repeats: int, warm: int = 2) -> list[float]:
        """Of each repeat, waited for."""
        for _ in range(warm):
            run()
        taken = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            run()
            self.wait()
            taken.append(time.perf_counter() - began)
        return taken

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.cuda:
            torch.cuda.synchronize()

    @contextmanager
    def peak(self, name: str) -> Iterator[None]:
        """Peak memory of the device, as a figure."""
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.cuda:
            size = torch.cuda.max_memory_allocated() / 2**30
            self.table[f"{name}: peak memory"] = figure(size, "GiB")

    def rate(self, dtype: torch.dtype) -> float:
        """FLOP/s of a large matrix product, the fastest of several."""
        if dtype not in self.rates:
            side = 256 if self.tiny else 8192
            a, b = torch.randn(2, side, side, device=self.device).to(dtype)
            best = min(self.seconds(lambda: a @ b, 10))
            self.rates[dtype] = 2 * side**3 / best
            name = f"matrix product, {str(dtype).removeprefix('torch.')}"
            self.table[name] = figure(self.rates[dtype] / 1e12, "TFLOP/s", "higher")
        return self.rates[dtype]

    def part(self, name: str, run: Callable[[], None]) -> None:
        """One part, unless time is up; what fails is told and the rest goes on."""
        if time.monotonic() > self.until:
            print(f"{name}: not measured, time is up", flush=True)
            return
        began = time.monotonic()
        try:
            run()
        except (RuntimeError, MemoryError, ImportError, ValueError) as error:
            print(f"{name}: not measured: {str(error).strip().splitlines()[0]}", flush=True)
        if self.cuda:
            torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


def diffusion(bench: Bench, folder: Path) -> None:
    """Customization and personalization through the plug-in itself."""
    size = 64 if bench.tiny else 512
    steps = 2 if bench.tiny else 60
    queries = 2 if bench.tiny else 32
    evaluations, strength = 15, 0.3
    random = np.random.default_rng(0)
    shape = (size, size, 3)
    images = [Image(str(i), random.integers(0, 256, shape, np.uint8)) for i in range(3 * queries)]
    support = Support(tuple(images[:1]), "metal nut", 0)
    for tune in ("full", "lora"):
        dreambooth = DreamBooth(
            base=str(folder),
            tune=tune,
            size=size,
            copies=1,
            train_steps=steps,
            prompts=3,
            strength=strength,
            steps=math.ceil(evaluations / strength),
        )
        dreambooth.setup(bench.device, FeatureMemory(1 << 30))
        work = 1e12 * full_size.evaluation_flops(dreambooth)
        prior = {"latents": random.standard_normal((4, *dreambooth._shape)).astype(np.float16)}
        with bench.peak(f"customization, {tune}"):
            spent = bench.seconds(partial(dreambooth.customize, support, prior), 1, warm=1)
        half = torch.bfloat16 if bench.cuda else torch.float32
        # two pictures a step: its own and a prior one; forward, and twice that backward
        share = [6 * work * steps / one / bench.rate(half) for one in spent]
        note = "start and end included"
        bench.table[f"customization, {tune}"] = figure(
            [steps / one for one in spent], "steps/s", "higher", note
        )
        bench.table[f"customization, {tune}: share of the product rate"] = figure(
            share, "", "higher"
        )
    with bench.peak("personalization"):
        turns = iter(range(0, len(images), queries))

        def personalize() -> None:
            first = next(turns)
            dreambooth.personalize(images[first : first + queries], 0)

        spent = bench.seconds(personalize, 2, warm=1)
    whole = work * 2 * 3 * evaluations * queries
    half = torch.float16 if bench.cuda else torch.float32
    note = f"3 prompts, {evaluations} guided evaluations, {size} px, batch {dreambooth.batch}"
    bench.table["personalization"] = figure(
        [queries / one for one in spent], "queries/s", "higher", note
    )
    bench.table["personalization: share of the product rate, UNet alone counted"] = figure(
        [whole / one / bench.rate(half) for one in spent], "", "higher"
    )


def ways(bench: Bench, folder: Path) -> None:
    """One guided evaluation of 16 queries by the UNet, in each way that might be faster."""
    import diffusers

    rows = 2 if bench.tiny else 32
    side = 8 if bench.tiny else 64
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if not bench.cuda and name == "fp16":
            continue
        load = diffusers.UNet2DConditionModel.from_pretrained
        unet = load(folder / "unet", torch_dtype=dtype).to(bench.device).eval()
        width = unet.config.cross_attention_dim
        z = torch.randn(rows, 4, side, side, device=bench.device, dtype=dtype)
        text = torch.randn(rows, 77, width, device=bench.device, dtype=dtype)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            unet(z[:1], 1, encoder_hidden_states=text[:1])
        work = counter.get_total_flops() * rows

        def told(way: str, run: Callable[[], Any], name: str = name, work: float = work) -> None:
            spent = bench.seconds(run, 5)
            rate = bench.rate(dtype)  # noqa: B023 - called before the next round
            label = f"UNet evaluation of {rows} rows, {name}, {way}"
            bench.table[label] = figure(spent, "s")
            bench.table[f"{label}: share of the product rate"] = figure(
                [work / one / rate for one in spent], "", "higher"
            )

        with torch.inference_mode():
            call = partial(unet, z, 1, text, return_dict=False)
            told("as loaded", call)
            unet.to(memory_format=torch.channels_last)
            told("channels last", call)
        if bench.cuda and not bench.tiny:
            with torch.inference_mode():
                told("channels last, CUDA graph", graphed(call))
            if time.monotonic() < bench.until:
                compiled = torch.compile(unet, mode="max-autotune-no-cudagraphs")
                with torch.inference_mode():
                    told(
                        "channels last, torch.compile",
                        partial(compiled, z, 1, text, return_dict=False),
                    )
        del unet


def graphed(call: Callable[[], Any]) -> Callable[[], None]:
    """The same call, recorded once and replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay() -> None:
        graph.replay()

    return replay


def clip(bench: Bench) -> None:
    """ViT-L/14's picture tower at 240 px, patch tokens of four levels read."""
    from methods._encoders.clip import build
    from methods._encoders.towers import VisionTower

    name, levels = ("ViT-B-32", (1, 2)) if bench.tiny else ("ViT-L-14", (6, 12, 18, 24))
    visual = build(name, "random:0", False).visual.to(bench.device)
    side = 64 if bench.tiny else 240
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        tower = VisionTower(visual, dtype)
        for batch in (2,) if bench.tiny else (1, 16, 64):
            pixels = torch.randn(batch, 3, side, side, device=bench.device)
            with torch.no_grad(), bench.peak(f"{name} at {side} px, {precision}, batch {batch}"):
                spent = bench.seconds(partial(tower, pixels, levels, (), 131072), 5)
            bench.table[f"{name} at {side} px, {precision}, batch {batch}"] = figure(
                [batch / one for one in spent], "pictures/s", "higher"
            )


def patchcore(bench: Bench) -> None:
    """Nearest neighbours in the bank of 8 pictures by WideResNet50."""
    grid, width, queries = (4, 64, 2) if bench.tiny else (28, 1024, 64)
    bank = Bank(torch.randn(8 * grid * grid, width, device=bench.device))
    rows = bank.centred(torch.randn(queries * grid * grid, width, device=bench.device))
    flop = 2.0 * len(rows) * len(bank) * width
    with bench.peak("PatchCore, nearest neighbours"):
        spent = bench.seconds(lambda: bank.nearest(rows), 5)
    note = f"{len(bank)} patches of {width}, float32 without TF32"
    bench.table["PatchCore, nearest neighbours"] = figure(
        [queries / one for one in spent], "queries/s", "higher", note
    )
    bench.table["PatchCore: share of the product rate"] = figure(
        [flop / one / bench.rate(torch.float32) for one in spent], "", "higher"
    )


def measure(device: str, tiny: bool, minutes: float) -> Figures:
    """All parts, in the order of their worth."""
    bench = Bench(device, tiny, minutes)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        unet, vae, text = full_size.UNET, full_size.VAE, full_size.TEXT
        if tiny:
            unet, vae, text = TINY_UNET, TINY_VAE, TINY_TEXT
        half = torch.float16
        full_size.save_base(folder, unet, vae, text, full_size.SCHEDULER, dtype=half)
        bench.part("Stable Diffusion v1.5", lambda: diffusion(bench, folder))
        bench.part("PatchCore", lambda: patchcore(bench))
        bench.part("CLIP", lambda: clip(bench))
        bench.part("ways of the UNet", lambda: ways(bench, folder))
    return bench.table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the script out")
    parser.add_argument("--minutes", type=float, default=6.5, help="no part begins after these")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.tiny:
        parser.error("no GPU is here: nothing measured (--tiny tries the script out)")
    table = measure(arguments.device, arguments.tiny, arguments.minutes)
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "CPU"
    print(f"{name}, torch {torch.__version__}")
    tell(table, arguments.json)


if __name__ == "__main__":
    main()
