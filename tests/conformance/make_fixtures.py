"""Makes the conformance fixtures: tiny checkpoints with random weights, and what the reference libraries compute with
them.

Run with the packages of requirements.txt; the results are committed, and no test needs Python. README.md says what each
folder is, and check_fixtures.py loads them all anew. `--demo-pack` makes only what belongs to the bundled models, with
the packages of models/demo/train/requirements.txt, pillow==12.1.1 and the `ffmpeg` command: run it after they were
trained again. Names of families (clip, siglip, open_clip, clap, viclip, imagebind, vgg) make only theirs. Every random
checkpoint is odd on purpose: head dims 24, 40, 64, 72 and 80, widths not divisible by 64, every activation and pooling
rule, 1 to 729 image tokens, f32, f16 and bf16 at rest, one file and shards.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import CLIPModel

HERE = pathlib.Path(__file__).parent
DEMO = HERE.parent.parent / "models" / "demo"
sys.path.insert(0, str(DEMO / "train"))

from fixtures import clip, demo_sound, demo_video  # noqa: E402
from fixtures.common import MEAN, STD, write_pictures  # noqa: E402


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


def main(families):
    write_pictures()
    if "clip" in families:
        clip.first_three(process)
        clip.clip_257()
    # The rest needs packages that the demo pack's training does not.
    if "siglip" in families:
        from fixtures import siglip

        siglip.make()
    if "open_clip" in families:
        from fixtures import open_clip

        open_clip.make()
    if "clap" in families:
        from fixtures import clap

        clap.make()
    if "viclip" in families:
        from fixtures import viclip

        viclip.make()
    if "imagebind" in families:
        from fixtures import imagebind

        imagebind.make()
    if "vgg" in families:
        from fixtures import vgg

        vgg.make()


if __name__ == "__main__":
    asked = sys.argv[1:]
    if "--demo-pack" in asked:
        demo_pack()
        demo_video.make()
        demo_sound.make()
    elif "--clap-of-true-size" in asked:
        from fixtures import clap

        clap.make_of_true_size()
    else:
        main(asked or ["clip", "siglip", "open_clip", "clap", "viclip", "imagebind", "vgg"])
        if not asked:
            demo_pack()
            demo_video.make()
            demo_sound.make()
