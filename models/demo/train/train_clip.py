"""Trains the demo pack's CLIP: a small CLIPModel that scores captions of pictures, by the recipe of two_stage.py.

Input is what `demo-world train-images` wrote (see ../README.md). The output folder is an ordinary Hugging Face CLIP
checkpoint: config.json, preprocessor_config.json, tokenizer.json, model.safetensors (f16). Hints say of every patch which
noun, colour and size lies on it, and of the class token which nouns, colours of nouns and backgrounds there are.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import CLIPConfig, CLIPModel

from common import BOS, EOS, clip_tokenizer
from two_stage import MAX_TOKENS, Hints, Kernel, Scenes, arguments, run

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
NOUNS, COLOURS, SIZES, COUNTS, POSITIONS, BACKGROUNDS = 48, 8, 2, 3, 5, 8
# Where each sort of fact begins in the numbering of `demo-world atoms`.
COLOUR = NOUNS
SIZE = COLOUR + NOUNS * COLOURS
COUNT = SIZE + NOUNS * SIZES
POSITION = COUNT + NOUNS * COUNTS
BACKGROUND = POSITION + NOUNS * POSITIONS
RELATION = BACKGROUND + BACKGROUNDS
# Nouns, their colours and sizes, backgrounds; for a pair, which noun is on which side; and by themselves, whatever the
# noun: colours and sizes for some credit before the noun is right, numbers and places altogether (a place for every
# noun is what a tower leaves out).
KERNEL = Kernel({
    "noun": (NOUNS, 1.5), "colour": (NOUNS * COLOURS, 0.9), "size": (NOUNS * SIZES, 0.4),
    "background": (BACKGROUNDS, 1.0), "side": (4 * NOUNS, 0.45), "any_colour": (COLOURS, 0.3), "any_size": (SIZES, 0.2),
    "any_count": (COUNTS, 0.9), "any_position": (POSITIONS, 0.8), "garbled": (1, 2.0),
})


def features(atoms):
    """The features of a caption that states `atoms`."""
    out = set()

    def add(name, i):
        out.add(KERNEL.feature(name, i))

    for a in atoms:
        if a < COLOUR:
            add("noun", a)
        elif a < SIZE:
            add("colour", a - COLOUR)
            add("any_colour", (a - COLOUR) % COLOURS)
        elif a < COUNT:
            add("size", a - SIZE)
            add("any_size", (a - SIZE) % SIZES)
        elif a < POSITION:
            add("any_count", (a - COUNT) % COUNTS)
        elif a < BACKGROUND:
            add("any_position", (a - POSITION) % POSITIONS)
        elif a < RELATION:
            add("background", a - BACKGROUND)
        else:
            kind, pair = divmod(a - RELATION, NOUNS * NOUNS)
            first, second = divmod(pair, NOUNS)
            add("side", 2 * kind * NOUNS + first)
            add("side", (2 * kind + 1) * NOUNS + second)
    return sorted(out)


class Clip:
    """A CLIPModel as two_stage.py wants it."""

    def __init__(self, model):
        self.model = model

    def text(self, ids):
        return self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)

    def sight(self, pixels):
        x = torch.as_tensor(pixels).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        out = self.model.vision_model(x)
        return self.model.visual_projection(out.pooler_output), out.last_hidden_state, out.pooler_output

    def text_parameters(self):
        return [*self.model.text_model.parameters(), *self.model.text_projection.parameters()]

    def sight_parameters(self):
        return [*self.model.vision_model.parameters(), *self.model.visual_projection.parameters()]

    def text_blocks(self):
        return [p for p in self.model.text_model.encoder.parameters() if p.ndim == 2]

    def sight_blocks(self):
        return [p for p in self.model.vision_model.encoder.parameters() if p.ndim == 2]


def build(tok, args):
    eos = tok.token_to_id(EOS)
    model = CLIPModel(CLIPConfig(
        vision_config=dict(
            hidden_size=args.width, intermediate_size=args.expand * args.width, num_hidden_layers=args.layers,
            num_attention_heads=args.width // 32, image_size=args.size, patch_size=args.patch, hidden_act="quick_gelu",
        ),
        text_config=dict(
            hidden_size=args.text_width, intermediate_size=args.text_expand * args.text_width, num_hidden_layers=args.text_layers,
            num_attention_heads=args.text_width // 32, vocab_size=tok.get_vocab_size(),
            max_position_embeddings=MAX_TOKENS, hidden_act="quick_gelu",
            bos_token_id=tok.token_to_id(BOS), eos_token_id=eos, pad_token_id=eos,
        ),
        projection_dim=args.projection,
    ))
    model.logit_scale.data.fill_(math.log(30.0))
    return model


def save(model, tok, args):
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tok.save(str(out / "tokenizer.json"))
    side = {"height": args.size, "width": args.size}
    spec = {
        "crop_size": side, "do_center_crop": False, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
        "do_resize": True, "image_mean": MEAN, "image_std": STD, "image_processor_type": "CLIPImageProcessor",
        "resample": 3, "rescale_factor": 1 / 255, "size": side,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(spec, indent=2) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(ap)
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--size", type=int, default=144)
    ap.add_argument("--width", type=int, default=256)
    ap.add_argument("--expand", type=int, default=3, help="width of an MLP over the width of its layer")
    ap.add_argument("--text-width", type=int, default=256)
    ap.add_argument("--text-expand", type=int, default=2)
    ap.add_argument("--projection", type=int, default=256)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64

    shape = (args.size, args.size, 3)
    data = Scenes(args.data, "images.u8", shape, KERNEL, features, args.limit)
    val = Scenes(args.val, "images.u8", shape, KERNEL, features)
    if args.init:
        tok = Tokenizer.from_file(str(pathlib.Path(args.init) / "tokenizer.json"))
        model = CLIPModel.from_pretrained(args.init, dtype=torch.float32).train()
        args.width, args.patch = model.config.vision_config.hidden_size, model.config.vision_config.patch_size
    else:
        sample = [t for i in range(min(20000, len(data))) for t, _ in data.captions(i)]
        tok = clip_tokenizer(sample, 1200)
        model = build(tok, args)
    hints = Hints(
        args.width, args.size // args.patch, 1, [("noun", NOUNS), ("colour", COLOURS), ("size", SIZES)],
        {"nouns": (0, COLOUR), "pairs": (COLOUR, SIZE), "backgrounds": (BACKGROUND, RELATION)},
    )
    rng = np.random.default_rng(args.seed)
    run(args, Clip(model), tok, hints, data, val, rng, lambda: save(model, tok, args))


if __name__ == "__main__":
    main()
