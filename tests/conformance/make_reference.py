"""Computes the reference of a checkpoint of yours, for `cargo xtask conformance --model FOLDER --reference OUT.json`.

    python make_reference.py FOLDER OUT.json

The checkpoint is one of transformers (CLIP, SigLIP, SigLIP 2) or of open_clip, as the hub ships it. Texts and pictures
are those of the fixtures. Everything is computed in f32 on the CPU, pictures are resized by Pillow.
"""

import json
import pathlib
import sys

import open_clip
import torch
import torch.nn.functional as F
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, Siglip2Tokenizer

from fixtures.common import IMAGES, MORE_TEXTS, shared_images


def rounded(rows):
    return [[round(v, 8) for v in row] for row in rows.tolist()]


def of_transformers(folder):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if model.config.model_type != "clip" and type(tokenizer).__name__.startswith("Gemma"):
        # SigLIP 2 was trained on lower-cased text; see fixtures/siglip.py.
        tokenizer = Siglip2Tokenizer.from_pretrained(folder)
    context = model.config.text_config.max_position_embeddings
    settings = dict(truncation=True, max_length=context)
    bare = tokenizer(MORE_TEXTS, **settings).input_ids
    full = tokenizer(MORE_TEXTS, padding="max_length", **settings)
    inputs = AutoImageProcessor.from_pretrained(folder, backend="pil")(shared_images(), return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=torch.tensor(full.input_ids), **inputs)
    softmax = model.config.model_type == "clip"
    logits = out.logits_per_image
    return {
        "token_ids": bare,
        "padded_token_ids": None if softmax else full.input_ids,
        "logit_scale": model.logit_scale.exp().item(),
        "logit_bias": None if softmax else model.logit_bias.item(),
        "text_embeds": rounded(F.normalize(out.text_embeds, dim=-1)),
        "image_embeds": rounded(F.normalize(out.image_embeds, dim=-1)),
        "scores": rounded(logits.softmax(-1) if softmax else logits.sigmoid()),
    }


def of_open_clip(folder):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}", precision="fp32")
    model.eval()
    rows = open_clip.get_tokenizer(f"local-dir:{folder}")(MORE_TEXTS)
    with torch.no_grad():
        pixels = torch.stack([preprocess(image) for image in shared_images()])
        images, texts = model.encode_image(pixels, normalize=True), model.encode_text(rows, normalize=True)
        logits, _ = model.get_logits(pixels, rows)
    softmax = model.logit_bias is None
    end = [row.index(max(row)) + 1 for row in rows.tolist()]
    return {
        "token_ids": [row[:n] for row, n in zip(rows.tolist(), end)] if softmax else None,
        "padded_token_ids": None if softmax else rows.tolist(),
        "logit_scale": model.logit_scale.exp().item(),
        "logit_bias": None if softmax else model.logit_bias.item(),
        "text_embeds": rounded(texts),
        "image_embeds": rounded(images),
        "scores": rounded(logits.softmax(-1) if softmax else logits.sigmoid()),
    }


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, out = map(pathlib.Path, sys.argv[1:])
    own = not (folder / "config.json").exists() and (folder / "open_clip_config.json").exists()
    reference = of_open_clip(folder) if own else of_transformers(folder)
    images = sorted(path.name for path in IMAGES.glob("*.png"))
    out.write_text(json.dumps({"texts": MORE_TEXTS, "images": images, **reference}) + "\n")


if __name__ == "__main__":
    main()
