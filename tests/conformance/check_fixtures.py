"""Loads every folder anew, by the reference library's own ways in, and compares with its reference.json.

make_fixtures.py computes row by row with what it has just written; this runs whole batches through each model's own
forward, so that the two agree only if the files say all that matters.
"""

import json
import sys

import open_clip
import torch
from PIL import Image
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    Siglip2Tokenizer,
)

from fixtures import clap
from fixtures import open_clip as trunks  # noqa: F401  (timm learns the made-up names)
from fixtures.common import HERE, IMAGES


WITHOUT_A_LIBRARY = ["viclip"]


def differ(a, b):
    return (torch.as_tensor(a).float() - torch.tensor(b)).abs().max().item()


def images_of(reference):
    return [Image.open(IMAGES / name).convert("RGB") for name in reference.get("images", ["0.png", "1.png", "2.png"])]


def of_transformers(folder, reference):
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if model.config.model_type == "clip":
        context = model.config.text_config.max_position_embeddings
        rows = [row + [row[-1]] * (context - len(row)) for row in reference["token_ids"]]
    else:
        # AutoProcessor's own tokenizer, but for the folder where it keeps the capitals.
        tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
        if type(tokenizer).__name__ == "GemmaTokenizer":
            tokenizer = Siglip2Tokenizer.from_pretrained(folder)
        context = model.config.text_config.max_position_embeddings
        rows = tokenizer(reference["texts"], padding="max_length", truncation=True, max_length=context).input_ids
        assert rows == reference["padded_token_ids"]
    found = []
    for backend in ("pil", "torchvision"):
        processor = AutoImageProcessor.from_pretrained(folder, backend=backend)
        inputs = processor(images_of(reference), return_tensors="pt")
        with torch.no_grad():
            out = model(input_ids=torch.tensor(rows), **inputs)
        if "spatial_shapes" in reference:
            assert inputs.spatial_shapes.tolist() == reference["spatial_shapes"]
        found.append((inputs.pixel_values, out))
    (pixels, out), (other, other_out) = found
    # Channels come first, or last in a patch; SigLIP's deviations are all alike.
    std = torch.tensor(processor.image_std)
    levels = (pixels - other).abs() * 255 * (std[:, None, None] if pixels.ndim == 4 else std[0])
    cosine = (out.image_embeds * other_out.image_embeds).sum(-1).min()
    print(
        f"  torchvision's resize: pixels off by at most {levels.max():.0f} of 255, "
        f"cosine of embeddings {cosine:.6f} or more"
    )
    logits = out.logits_per_image
    return (
        out.image_embeds,
        out.text_embeds,
        logits.softmax(-1) if model.config.model_type == "clip" else logits.sigmoid(),
    )


def of_open_clip(folder, reference):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    if "padded_token_ids" in reference:
        rows = open_clip.get_tokenizer(f"local-dir:{folder}")(reference["texts"])
        assert rows.tolist() == reference["padded_token_ids"]
    else:
        rows = torch.tensor([row + [0] * (model.context_length - len(row)) for row in reference["token_ids"]])
    pixels = torch.stack([preprocess(image) for image in images_of(reference)])
    with torch.no_grad():
        a, b = model.encode_image(pixels, normalize=True), model.encode_text(rows, normalize=True)
        logits, _ = model.get_logits(pixels, rows)
    return a, b, logits.softmax(-1) if model.logit_bias is None else logits.sigmoid()


def of_clap(folder, reference):
    """Sounds and texts in whole batches. Only sounds that are not cut: where the reference cuts, it draws at random."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    longer = extractor.truncation == "fusion"
    kept = [i for i, s in enumerate(reference["sounds"])
            if not s["places"] and s["padding"] == extractor.padding and s["longer"] == longer]
    sounds = [clap.sound(reference["sounds"][i]["seed"], reference["sounds"][i]["samples"]) for i in kept]
    features = extractor(sounds, sampling_rate=extractor.sampling_rate, return_tensors="pt")["input_features"]
    texts = AutoTokenizer.from_pretrained(folder)(reference["texts"], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out = model(input_features=features, is_longer=torch.full((len(kept), 1), longer), **texts)
    off = [
        differ(out.audio_embeds, [reference["sounds"][i]["embeds"] for i in kept]),
        differ(out.text_embeds, reference["text_embeds"]),
        differ(out.logits_per_audio.softmax(-1), [reference["scores"][i] for i in kept]),
    ]
    return off


def main():
    worst = 0.0
    for folder in sorted(p.parent for p in HERE.glob("*/sounds.json")):
        off = of_clap(folder, json.loads((folder / "sounds.json").read_text()))
        worst = max(worst, *off)
        print(folder.name)
        print("  off by", ", ".join(f"{x:.1e}" for x in off))
    for folder in sorted(p.parent for p in HERE.glob("*/reference.json")):
        reference = json.loads((folder / "reference.json").read_text())
        print(folder.name)
        if reference.get("layout") in WITHOUT_A_LIBRARY:
            print("  no library loads it: its reference is a module of fixtures/")
            continue
        image, text, scores = (of_open_clip if (folder / "open_clip_config.json").exists() else of_transformers)(
            folder, reference
        )
        off = [differ(image, reference["image_embeds"]), differ(text, reference["text_embeds"])]
        if "scores" in reference:
            off.append(differ(scores, reference["scores"]))
        worst = max(worst, *off)
        print("  off by", ", ".join(f"{x:.1e}" for x in off))
    print(f"worst: {worst:.1e}")
    sys.exit(worst > 1e-5)


if __name__ == "__main__":
    main()
