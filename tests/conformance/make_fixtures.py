"""Makes the conformance fixtures: tiny CLIP checkpoints with random weights, and what transformers computes with them.

Run with the packages of models/demo/train/requirements.txt and pillow==13.0.0; the results are committed, and no test
needs Python. `--demo-pack` makes only what belongs to the bundled models: run it after they were trained again. Every
random checkpoint is odd on purpose: head dims 24 and 40, widths not divisible by 64, both pooling rules, both
activations, f32, f16 and bf16 at rest, one file and shards.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import CLIPConfig, CLIPModel

HERE = pathlib.Path(__file__).parent
DEMO = HERE.parent.parent / "models" / "demo"
sys.path.insert(0, str(DEMO / "train"))
from common import BOS, EOS, clip_tokenizer  # noqa: E402

TEXTS = [
    "a dog",
    "A  photo of two CATS, on the grass!",
    "a",
    "",
    "the quick brown fox jumps over the lazy dog and then over the fence and the river and the hill " * 2,
    "naïve café 😀 123",
    "an orange boat below a white cloud",
]
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]

CASES = {
    "quick-gelu-old-eos": dict(
        text=dict(hidden_size=72, intermediate_size=130, num_hidden_layers=2, num_attention_heads=3, hidden_act="quick_gelu"),
        vision=dict(hidden_size=96, intermediate_size=130, num_hidden_layers=2, num_attention_heads=4, image_size=42, patch_size=14, hidden_act="quick_gelu"),
        dim=40, old_eos=True, dtype=torch.float32, shards=1, size=dict(size=42, crop_size=42, resample=3),
    ),
    "gelu-f16": dict(
        text=dict(hidden_size=80, intermediate_size=168, num_hidden_layers=2, num_attention_heads=2, hidden_act="gelu"),
        vision=dict(hidden_size=120, intermediate_size=264, num_hidden_layers=2, num_attention_heads=3, image_size=64, patch_size=8, hidden_act="gelu"),
        dim=33, old_eos=False, dtype=torch.float16, shards=1,
        size=dict(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, resample=2),
    ),
    "sharded-bf16": dict(
        text=dict(hidden_size=50, intermediate_size=90, num_hidden_layers=1, num_attention_heads=1, hidden_act="quick_gelu"),
        vision=dict(hidden_size=66, intermediate_size=130, num_hidden_layers=2, num_attention_heads=2, image_size=35, patch_size=5, hidden_act="gelu"),
        dim=24, old_eos=False, dtype=torch.bfloat16, shards=3,
        size=dict(size={"height": 35, "width": 35}, do_center_crop=False, resample=3),
    ),
}


def pictures():
    rng = np.random.default_rng(3)
    out = []
    for w, h in [(42, 42), (61, 90), (130, 57)]:
        y, x = np.mgrid[0:h, 0:w]
        wave = np.stack([np.sin(x / 7 + c) * np.cos(y / 9 - c) for c in range(3)], -1)
        noise = rng.normal(0, 0.15, (h, w, 3))
        out.append(Image.fromarray(np.clip((wave + noise) * 100 + 128, 0, 255).astype(np.uint8)))
    return out


def process(image, spec):
    """CLIPImageProcessor's steps, with Pillow's own resize."""
    size = spec["size"]
    if isinstance(size, dict) and "height" in size:
        w, h = size["width"], size["height"]
    else:
        edge = size["shortest_edge"] if isinstance(size, dict) else size
        iw, ih = image.size
        w, h = (edge, int(edge * ih / iw)) if iw <= ih else (int(edge * iw / ih), edge)
    image = image.resize((w, h), resample=spec["resample"])
    if spec.get("do_center_crop", True):
        crop = spec["crop_size"]
        ch, cw = (crop["height"], crop["width"]) if isinstance(crop, dict) else (crop, crop)
        left, top = (w - cw) // 2, (h - ch) // 2
        image = image.crop((left, top, left + cw, top + ch))
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return image, (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def main():
    tok = clip_tokenizer(TEXTS, 560)
    bos, eos = tok.token_to_id(BOS), tok.token_to_id(EOS)
    images = pictures()
    (HERE / "images").mkdir(exist_ok=True)
    for i, image in enumerate(images):
        image.save(HERE / "images" / f"{i}.png")
    for n, (name, case) in enumerate(CASES.items()):
        torch.manual_seed(n)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        positions = 24
        text = dict(case["text"], vocab_size=tok.get_vocab_size(), max_position_embeddings=positions,
                    bos_token_id=bos, eos_token_id=2 if case["old_eos"] else eos, pad_token_id=1)
        config = CLIPConfig(text_config=text, vision_config=case["vision"], projection_dim=case["dim"])
        model = CLIPModel(config).eval()
        with torch.no_grad():
            # Weights of the size that training gives, so that attention and activations are far from linear.
            for key, p in model.named_parameters():
                if p.ndim >= 2:
                    p.copy_(torch.randn_like(p) * (0.4 if "position" in key else 1.6 / p[0].numel() ** 0.5))
                elif "norm" in key and key.endswith("weight"):
                    p.copy_(1 + 0.2 * torch.randn_like(p))
                elif key != "logit_scale":
                    p.copy_(0.2 * torch.randn_like(p))
            state = {k: v.to(case["dtype"]).contiguous() for k, v in model.state_dict().items() if "position_ids" not in k}
            model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
        config.save_pretrained(folder)
        tok.save(str(folder / "tokenizer.json"))
        processor = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": True,
                     "image_mean": MEAN, "image_std": STD, **case["size"]}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=1) + "\n")
        if case["shards"] == 1:
            save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        else:
            keys, weight_map = sorted(state), {}
            for s in range(case["shards"]):
                part = f"model-{s + 1:05}-of-{case['shards']:05}.safetensors"
                mine = {k: state[k] for k in keys[s :: case["shards"]]}
                weight_map.update({k: part for k in mine})
                save_file(mine, folder / part, metadata={"format": "pt"})
            (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        with torch.no_grad():
            made = [process(image, case["size"]) for image in images]
            for i, (image, _) in enumerate(made):
                image.save(folder / f"pixels{i}.png")
            pixels = torch.stack([tensor for _, tensor in made])
            image_embeds = torch.nn.functional.normalize(
                model.visual_projection(model.vision_model(pixels).pooler_output), dim=-1)
            rows, ids_out = [], []
            for text in TEXTS:
                ids = tok.encode(text).ids
                if len(ids) > positions:
                    ids = ids[: positions - 1] + [eos]
                ids_out.append(ids)
                # Padded to the full context, as the reference runs it.
                padded = torch.tensor([ids + [eos] * (positions - len(ids))])
                rows.append(model.text_projection(model.text_model(input_ids=padded).pooler_output)[0])
            text_embeds = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
        (folder / "reference.json").write_text(json.dumps({
            "texts": TEXTS, "token_ids": ids_out, "logit_scale": model.logit_scale.exp().item(),
            "text_embeds": [[round(v, 8) for v in row] for row in text_embeds.tolist()],
            "image_embeds": [[round(v, 8) for v in row] for row in image_embeds.tolist()],
        }) + "\n")


def demo_pack():
    """The bundled CLIP, which is trained: scores of its samples with right and wrong captions."""
    folder = DEMO / "pack" / "clip"
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    spec = json.loads((folder / "preprocessor_config.json").read_text())
    samples = sorted((DEMO / "samples").glob("*.png"))
    texts = [line for line in (DEMO / "pack" / "initial.txt").read_text().splitlines() if line][::64]
    with torch.no_grad():
        pixels = torch.stack([process(Image.open(p).convert("RGB"), spec)[1] for p in samples])
        images = model.visual_projection(model.vision_model(pixels).pooler_output)
        rows = []
        for text in texts:
            ids = tok.encode(text).ids
            rows.append(model.text_projection(model.text_model(input_ids=torch.tensor([ids])).pooler_output)[0])
        a, b = (torch.nn.functional.normalize(x, dim=-1) for x in (images, torch.stack(rows)))
    (HERE / "demo-pack.json").write_text(json.dumps({
        "samples": [p.name for p in samples], "texts": texts,
        "image_embeds": [[round(v, 8) for v in row] for row in a.tolist()],
        "text_embeds": [[round(v, 8) for v in row] for row in b.tolist()],
        "cosines": [[round(v, 8) for v in row] for row in (a @ b.T).tolist()],
    }) + "\n")


if __name__ == "__main__":
    if "--demo-pack" in sys.argv:
        demo_pack()
    else:
        main()
        demo_pack()
