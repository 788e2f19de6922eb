"""Stage ``clip``: locked-image training of micro CLIP on features of rendered pairs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from datasets._rendering.render import render
from methods._encoders import cnn
from methods.micro import models
from methods.micro.clip_model import CHANNELS, LEVELS, TRUNK, MicroClip
from methods.micro.data import ANYTHING, DAMAGE, DAMAGED, FRAMES, NORMAL, Corpus, caption, subject
from methods.micro.loop import Loop

PAIRS = 3000  # features of more would fill the memory
INPUT = 256  # pixels that the trunk sees
GRID = 16
BATCH = 48  # pairs
PEAK = 1e-3
_BLOCKS = {1: 1, 2: 2, 3: 4, 4: 6}  # level to block of the trunk


def pictures(corpus: Corpus, index: int) -> NDArray[np.uint8]:
    """A pair at 256 px, (2, 256, 256, 3): every second one enlarged, the others rendered so.

    Colours are permuted and brightness changed at random, alike for both of a pair.
    """
    rng = np.random.default_rng([index, 5])
    if index % 2:
        small = torch.from_numpy(np.array(corpus.pairs[index])).permute(0, 3, 1, 2).float()
        large = F.interpolate(small, INPUT, mode="bilinear", align_corners=False)
        both = large.permute(0, 2, 3, 1).numpy()
    else:
        what = subject(index)
        drawn = render(what.family, (0, index), (0, index), INPUT, what.defect)
        both = np.stack([drawn.pixels, drawn.clean]).astype(np.float32)
    if rng.random() < 0.3:
        both = both[..., rng.permutation(3)]
    if rng.random() < 0.2:
        both = np.repeat(both.mean(-1, keepdims=True), 3, axis=-1)
    if rng.random() < 0.5:
        both = both * rng.uniform(0.6, 1.3) + rng.uniform(-25, 25)
    both = both + rng.standard_normal(both.shape, dtype=np.float32) * rng.choice([0, 0, 2, 5])
    pair: NDArray[np.uint8] = np.clip(both, 0, 255).astype(np.uint8)
    return pair


def trunk_features(
    network: torch.nn.Module, model: MicroClip, pixels: torch.Tensor
) -> torch.Tensor:
    """Gathered features (n, 16, 16, 472) of uint8 (n, 256, 256, 3)."""
    x = ((pixels.permute(0, 3, 1, 2).float() - 127) / 128).contiguous(
        memory_format=torch.channels_last
    )
    indices = [_BLOCKS[level] for level in LEVELS]
    levels = []
    x = network.bn1(network.conv_stem(x))
    for i, block in enumerate(network.blocks):
        x = block(x)
        if i in indices:
            levels.append(x.permute(0, 2, 3, 1))
    return model.gather(levels)


def extract(out: Path, corpus: Corpus, model: MicroClip, device: str) -> NDArray[np.float16]:
    """Features of the first 3000 pairs, float16 (3000, 2, 16, 16, 472), kept in ``out``."""
    shape = (min(PAIRS, len(corpus.pairs)), 2, GRID, GRID, sum(CHANNELS))
    path, note = out / "features.f16", out / "features.ready"
    done = int(note.read_text()) if note.is_file() else 0
    store = np.memmap(path, np.float16, "r+" if path.is_file() else "w+", shape=shape)
    network, _ = cnn.build(TRUNK, "imagenet")
    network = cnn.folded(network).to(device, memory_format=torch.channels_last)
    for start in range(done, len(store), 8):
        stop = min(start + 8, len(store))
        pixels = np.concatenate([pictures(corpus, i) for i in range(start, stop)])
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            features = trunk_features(network, model, torch.from_numpy(pixels).to(device))
        store[start:stop] = features.half().cpu().numpy().reshape(stop - start, *shape[1:])
        if start % 512 == 0 or stop == len(store):
            temporary = note.with_suffix(".part")
            temporary.write_text(str(stop))
            os.replace(temporary, note)
            print(f"features  {stop} of {len(store)} pairs", flush=True)
    return store


def train_clip(out: Path, corpus: Corpus, minutes: float, resume: bool, seed: int) -> None:
    """Train to ``out/clip.pt``: three losses, all between frozen features and sentences.

    1. Contrast between all pictures and captions of a batch; captions that say the same of the
       same thing are no negatives of each other.
    2. State: the picture must be nearer to "damaged x" than to "flawless x" if and only if it is
       damaged, for x its own name, any other thing or random words: the state has to be told
       whatever the thing is called.
    3. The same of each patch, by its share of damage.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = models.tokenizer(out / "tokenizer")
    model = MicroClip(models.text_encoder()).to(device)
    store = extract(out, corpus, model, device)
    sample = torch.from_numpy(store[:: max(1, len(store) // 300)].astype(np.float32))
    model.mean.copy_(sample.mean((0, 1, 2, 3)))
    model.deviation.copy_(sample.std((0, 1, 2, 3)).clamp_min(1e-3))
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, PEAK, betas=(0.9, 0.98), fused=True)
    loop = Loop(out / "clip.pt", {"model": model, "optimizer": optimizer}, minutes, resume)
    for step in loop:
        rng = np.random.default_rng([seed, 2, step])
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(PEAK)
        index = rng.choice(len(store), BATCH, replace=False)
        features = torch.from_numpy(store[index].astype(np.float32)).flatten(0, 1).to(device)
        coverage = torch.from_numpy(corpus.masks[index].astype(np.float32) / 255).to(device)
        subjects = [subject(int(i)) for i in index]
        captions = [
            caption(rng, what.words, what.defect if damaged else None)
            for what in subjects
            for damaged in (True, False)
        ]
        names = [_name(rng, what.words, words) for what in subjects]
        normal = [_frame(rng, NORMAL, name) for name in names]
        damaged = [_frame(rng, _damage_states(rng), name) for name in names]
        units = model.units(features)
        images = F.normalize(model.image_of_units(units), dim=-1)
        patches = F.normalize(model.to_patch(units), dim=-1)
        ids = models.ids(words, captions + normal + damaged).to(device)
        ids = ids[:, : int((ids != models.END).sum(1).max()) + 1]
        texts = F.normalize(model.text_features(ids), dim=-1)
        scale = model.logit_scale.clamp(max=4.0).exp()
        contrast = _contrast(images @ texts[: 2 * BATCH].T * scale, subjects)
        direction = texts[3 * BATCH :] - texts[2 * BATCH : 3 * BATCH]  # damaged minus normal
        margin = (images.unflatten(0, (BATCH, 2)) * direction[:, None]).sum(-1) * scale
        target = torch.tensor([1.0, 0.0], device=device).expand(BATCH, 2)
        state = F.binary_cross_entropy_with_logits(margin, target)
        local = torch.einsum("nphwe,ne->nphw", patches.unflatten(0, (BATCH, 2)), direction) * scale
        spots = torch.stack([coverage, torch.zeros_like(coverage)], dim=1)
        weight = torch.where(spots > 0.25, 8.0, (spots == 0).float())
        patch = F.binary_cross_entropy_with_logits(local, (spots > 0.25).float(), weight)
        loss = 0.5 * contrast + state + patch
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = ((margin > 0) == (target > 0.5)).float().mean()
        loop.tell(
            contrast=float(contrast.detach()),
            state=float(state.detach()),
            patch=float(patch.detach()),
            right=float(right),
        )


def _contrast(logits: torch.Tensor, subjects: list[Any]) -> torch.Tensor:
    """Symmetric cross-entropy of pictures (rows) and captions; equal subjects share the target."""
    keys = [(what.words, damaged) for what in subjects for damaged in (True, False)]
    same = torch.tensor([[float(a == b) for a in keys] for b in keys], device=logits.device)
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _name(rng: np.random.Generator, own: str, words: Any) -> str:
    """Its own name, some general word, or one to three random words of the vocabulary."""
    kind = rng.random()
    if kind < 0.4:
        return own
    if kind < 0.6:
        return ANYTHING[rng.integers(len(ANYTHING))]
    tokens = rng.integers(256, models.END - 1, rng.integers(1, 4)).tolist()
    return str(words.decode(tokens)).strip()


def _damage_states(rng: np.random.Generator) -> tuple[str, ...]:
    if rng.random() < 0.7:
        return DAMAGED
    kind = list(DAMAGE)[rng.integers(len(DAMAGE))]
    return tuple("{} with " + damage for damage in DAMAGE[kind])


def _frame(rng: np.random.Generator, states: tuple[str, ...], name: str) -> str:
    frame = FRAMES[rng.integers(len(FRAMES))]
    return frame.replace("{}", states[rng.integers(len(states))]).replace("{}", name)
