"""Trains the demo pack's ViCLIP: a small one that scores captions of moving scenes, by the recipe of two_stage.py.

Input is what `demo-world train-videos` wrote (see ../README.md). The output folder has the files of a ViCLIP:
model.safetensors (f16) and tokenizer.json. Hints say of every patch of every frame which noun, colour and verb lies on
it and where that is first and last seen, and of the class token which nouns, colours and verbs of nouns, and backgrounds
there are.
"""

import argparse
import pathlib

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from common import clip_tokenizer
from two_stage import Hints, Kernel, Scenes, arguments, check_sight, check_text, run
from viclip import ViClip

FRAMES, NOUNS, COLOURS, VERBS, BACKGROUNDS = 8, 16, 8, 9, 4
# Where each sort of fact begins in the numbering of `demo-world atoms --world video`.
COLOUR = NOUNS
VERB = COLOUR + NOUNS * COLOURS
BACKGROUND = VERB + NOUNS * VERBS
END = BACKGROUND + BACKGROUNDS
# Nouns, their colours, what they do, and the background; and for some credit before the noun is right, colours and
# verbs by themselves.
KERNEL = Kernel({
    "noun": (NOUNS, 1.5), "colour": (NOUNS * COLOURS, 0.9), "verb": (NOUNS * VERBS, 1.1),
    "background": (BACKGROUNDS, 1.0), "any_colour": (COLOURS, 0.3), "any_verb": (VERBS, 0.4), "garbled": (1, 2.0),
})


def features(atoms):
    """The features of a caption that states `atoms`."""
    out = set()
    for a in atoms:
        if a < COLOUR:
            out.add(KERNEL.feature("noun", a))
        elif a < VERB:
            out |= {KERNEL.feature("colour", a - COLOUR), KERNEL.feature("any_colour", (a - COLOUR) % COLOURS)}
        elif a < BACKGROUND:
            out |= {KERNEL.feature("verb", a - VERB), KERNEL.feature("any_verb", (a - VERB) % VERBS)}
        else:
            out.add(KERNEL.feature("background", a - BACKGROUND))
    return sorted(out)


def videos(folder, size, grid, limit=None):
    data = Scenes(folder, "videos.u8", (FRAMES, size, size, 3), KERNEL, features, limit)
    for meta in data.meta:
        add_ways(meta["objects"], grid)
    return data


def add_ways(frames, grid):
    """Says of every object in every frame in which cell it is first and last seen."""
    seen = {}
    for o in (o for frame in frames for o in frame):
        x0, y0, x1, y1 = o["box"]
        column, row = (min(int((a + b) / 2 * grid), grid - 1) for a, b in ((x0, x1), (y0, y1)))
        seen.setdefault(o["noun"], []).append(row * grid + column)
    for o in (o for frame in frames for o in frame):
        o["from"], o["to"] = seen[o["noun"]][0], seen[o["noun"]][-1]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(ap)
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--size", type=int, default=96)
    ap.add_argument("--width", type=int, default=192)
    ap.add_argument("--mlp", type=int, default=384)
    ap.add_argument("--text-width", type=int, default=192)
    ap.add_argument("--text-mlp", type=int, default=192)
    ap.add_argument("--projection", type=int, default=192)
    ap.add_argument("--text-from", help="take the text tower, trained, from this checkpoint")
    ap.add_argument("--val-limit", type=int, default=0, help="use only so many of the scenes to check on")
    ap.add_argument("--check", action="store_true", help="train nothing; say how --init does on --val")
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64

    read = lambda folder: Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))  # noqa: E731
    weights = lambda folder: load_file(pathlib.Path(folder) / "model.safetensors")  # noqa: E731
    grid = args.size // args.patch
    val = videos(args.val, args.size, grid, args.val_limit)
    if args.check:
        tok, model = read(args.init), ViClip.of(weights(args.init))
        check_text(model, tok, val)
        return check_sight(model, tok, val)
    data = videos(args.data, args.size, grid, args.limit)
    if args.init:
        tok, model = read(args.init), ViClip.of(weights(args.init))
        args.width = model.vision_encoder.proj.shape[0]
    else:
        tok = clip_tokenizer([t for i in range(min(20000, len(data))) for t, _ in data.captions(i)], 1200)
        model = ViClip(
            dict(width=args.width, mlp=args.mlp, layers=args.layers, dim=args.projection, size=args.size,
                 patch=args.patch, frames=FRAMES),
            dict(width=args.text_width, mlp=args.text_mlp, layers=args.text_layers, dim=args.projection,
                 vocab=tok.get_vocab_size()),
        )
    if args.text_from:
        tok = read(args.text_from)
        model.text_encoder = ViClip.of(weights(args.text_from)).text_encoder
        args.text_minutes = 0
    hints = Hints(
        args.width, grid, FRAMES,
        # Where a thing comes from and goes to is what tells left from right, and is learnt before it.
        [("noun", NOUNS), ("colour", COLOURS), ("verb", VERBS), ("from", grid**2), ("to", grid**2)],
        {
            "nouns": (0, COLOUR), "colours": (COLOUR, VERB), "verbs": (VERB, BACKGROUND),
            "backgrounds": (BACKGROUND, END),
        },
    )

    def save():
        out = pathlib.Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        # `temp` is the inverse of the scale of the soft contrast.
        state = {k: v.detach().half().contiguous() for k, v in model.state().items()}
        save_file(state | {"temp": torch.tensor(1 / 30).half()}, out / "model.safetensors")
        tok.save(str(out / "tokenizer.json"))

    run(args, model, tok, hints, data, val, np.random.default_rng(args.seed), save)


if __name__ == "__main__":
    main()
