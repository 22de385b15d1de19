"""A Stable Diffusion that is small enough for a test, trained as diffusers' `train_text_to_image.py` trains the large one."""

import json
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torchvision import transforms
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_SIDE = 32  # px
_WORDS = 77  # tokens of a caption, at most
_START, _END = "<|startoftext|>", "<|endoftext|>"


class TinyDiffusion:
    """UNet, VAE and text encoder with random weights, and a data set for them.

    Args:
        data_dir: an image folder with `metadata.jsonl`, whose column `text` has the captions.
        folder: where the tokenizer's files may be written.
        mismatched: for a control: it is to find in each image the noise of another, of which there is nothing to learn but how much
            noise there is.
    """

    def __init__(self, data_dir: Path, folder: Path, *, mismatched: bool = False) -> None:
        torch.manual_seed(0)
        self._mismatched = mismatched
        self.dataset = load_dataset(
            "imagefolder", data_dir=str(data_dir), split="train", cache_dir=str(folder / "cache")
        )
        self._tokenizer = _tokenizer(folder)
        self._scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear")
        self._vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        ).requires_grad_(False)
        width = 32
        self._text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(self._tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=_WORDS,
                bos_token_id=self._tokenizer.bos_token_id,
                eos_token_id=self._tokenizer.eos_token_id,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        ).requires_grad_(False)
        self._unet = UNet2DConditionModel(
            sample_size=_SIDE // 2,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        # The script's own, of its options --center_crop and --random_flip.
        self._train_transforms = transforms.Compose(
            [
                transforms.Resize(_SIDE, interpolation=transforms.InterpolationMode.LANCZOS),
                transforms.CenterCrop(_SIDE),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def train(self, steps: int, batch_size: int = 8) -> tuple[float, float]:
        """The loss on pairs, noise and time steps that stay the same, before and after.

        Args:
            steps: of the optimizer.
            batch_size: pairs a step.
        """
        loader: Any = torch.utils.data.DataLoader(
            self.dataset.with_transform(self._preprocessed),
            batch_size=batch_size,
            shuffle=True,
            drop_last=True,
        )
        optimizer = torch.optim.AdamW(self._unet.parameters(), lr=1e-3)
        judged = next(iter(loader))
        before = self._judged(judged)
        done = 0
        while done < steps:
            for batch in loader:
                loss = self._loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad()
                done += 1
                if done == steps:
                    break
        return before, self._judged(judged)

    def _preprocessed(self, examples: dict[str, list[Any]]) -> dict[str, Any]:
        tokens = self._tokenizer(
            examples["text"], max_length=_WORDS, padding="max_length", truncation=True, return_tensors="pt"
        )
        pixels = [self._train_transforms(image.convert("RGB")) for image in examples["image"]]
        return {"pixel_values": pixels, "input_ids": tokens.input_ids}

    def _judged(self, batch: dict[str, torch.Tensor]) -> float:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(1)
            return float(sum(self._loss(batch) for _ in range(4)) / 4)

    def _loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        latents = (
            self._vae.encode(batch["pixel_values"]).latent_dist.sample() * self._vae.config.scaling_factor
        )
        noise = torch.randn_like(latents)
        steps = torch.randint(0, self._scheduler.config.num_train_timesteps, (len(latents),))
        noisy = self._scheduler.add_noise(latents, noise, steps)
        states = self._text_encoder(batch["input_ids"], return_dict=False)[0]
        predicted = self._unet(noisy, steps, states, return_dict=False)[0]
        return torch.nn.functional.mse_loss(predicted, noise.roll(1, 0) if self._mismatched else noise)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's, with letters as its only words."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), _START, _END]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder)
