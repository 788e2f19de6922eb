"""The architectures of the micro models, and how they are written in their public formats."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import diffusers
import open_clip
import torch
import transformers
from safetensors.torch import save_file

SIZE = 128  # pixels
LATENT = 16  # side of a latent and number of its channels
TEXT = 80  # width of the text encoder
JOINT = 128  # dimensions of the space that images and text share
END = 49407  # id of CLIP's <|endoftext|>


def autoencoder() -> diffusers.AutoencoderKL:
    """128 x 128 x 3 to 16 x 16 x 16 and back; purely convolutional: any multiple of 8 works."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def text_encoder() -> transformers.CLIPTextModelWithProjection:
    """A narrow CLIP text transformer; its states condition the diffusion, too."""
    return transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=END + 1,
            hidden_size=TEXT,
            intermediate_size=4 * TEXT,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=JOINT,
            bos_token_id=END - 1,
            eos_token_id=END,
            pad_token_id=END,
        )
    )


def unet() -> diffusers.UNet2DConditionModel:
    """Two resolutions; attention to text at the lower one, where it is cheap."""
    return diffusers.UNet2DConditionModel(
        sample_size=LATENT,
        in_channels=LATENT,
        out_channels=LATENT,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 160),
        layers_per_block=1,
        cross_attention_dim=TEXT,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> diffusers.DDIMScheduler:
    """Stable Diffusion's schedule, predicting the noise."""
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def write_tokenizer(folder: Path) -> None:
    """CLIP's byte-pair vocabulary, as shipped inside open_clip, in transformers' files."""
    source = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(source.read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = list(open_clip.tokenizer.bytes_to_unicode().values())
    words = letters + [c + "</w>" for c in letters] + ["".join(m.split()) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=None))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "do_lower_case": True,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def tokenizer(folder: Path) -> transformers.CLIPTokenizer:
    """The tokenizer, written to ``folder`` first if it is not there."""
    if not (folder / "tokenizer_config.json").is_file():
        write_tokenizer(folder)
    return transformers.CLIPTokenizer.from_pretrained(folder)


def ids(words: transformers.CLIPTokenizer, sentences: list[str]) -> torch.Tensor:
    """Token ids, int64 (n, 77)."""
    return words(
        sentences, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids


_FORMAT = {"format": "pt"}


def _half(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}


def save_diffusion(
    folder: Path,
    vae: diffusers.AutoencoderKL,
    text: transformers.CLIPTextModelWithProjection,
    denoiser: diffusers.UNet2DConditionModel,
) -> None:
    """Write a Stable Diffusion pipeline in diffusers' folder format, weights in half precision."""
    write_tokenizer(folder / "tokenizer")
    for name, model in (("vae", vae), ("unet", denoiser)):
        model.save_config(folder / name)
        save_file(_half(model), folder / name / "diffusion_pytorch_model.safetensors", _FORMAT)
    config = transformers.CLIPTextConfig(**text.config.to_diff_dict())
    config.architectures = ["CLIPTextModel"]
    config.dtype = torch.float32  # to compute in; otherwise transformers 5 follows the file's half
    config.save_pretrained(folder / "text_encoder")
    # The names of the published CLIP files, which every version of transformers reads.
    trunk = {k: v for k, v in _half(text).items() if k.startswith("text_model.")}
    save_file(trunk, folder / "text_encoder" / "model.safetensors", _FORMAT)
    scheduler().save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__}
    index |= {"vae": ["diffusers", "AutoencoderKL"]}
    index |= {"unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"scheduler": ["diffusers", "DDIMScheduler"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"]}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    index |= {"image_encoder": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
