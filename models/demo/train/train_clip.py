"""Trains the demo pack's CLIP: a small CLIPModel that scores captions of the demo world.

Input is what `demo-world train-images` wrote (see ../README.md). The output folder is an ordinary Hugging Face CLIP
checkpoint: config.json, preprocessor_config.json, tokenizer.json, model.safetensors (f16).

What makes training short enough for one CPU core is that the two towers are trained one after the other:
  1. The text tower alone. The cosine of two captions is regressed on a kernel of what they state: the weighted share
     of facts they have in common. A nearly right caption is then nearly as close, which is what a search climbs on.
  2. The image tower, with the text tower locked and every caption embedded once. A picture is pulled to its own
     caption's embedding, and its similarities to all captions of the batch, six changed ones of every picture among
     them, are made those that its own caption has (a soft contrastive loss). While training, every patch also says
     what lies on it, and the class token which nouns are there (heads that are dropped afterwards).
"""

import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import CLIPConfig, CLIPModel

from common import BOS, EOS, clip_tokenizer, descend, optimizers, set_rate, soft_contrast

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
MAX_TOKENS = 32
NOUNS, COLOURS, SIZES, COUNTS, POSITIONS, BACKGROUNDS = 48, 8, 2, 3, 5, 8
# Where each sort of fact begins in the numbering of `demo-world atoms`.
COLOUR = NOUNS
SIZE = COLOUR + NOUNS * COLOURS
COUNT = SIZE + NOUNS * SIZES
POSITION = COUNT + NOUNS * COUNTS
BACKGROUND = POSITION + NOUNS * POSITIONS
RELATION = BACKGROUND + BACKGROUNDS
# What the kernel is made of: nouns, their colours and sizes, backgrounds; for a pair, which noun is on which side; and
# by themselves, whatever the noun: colours and sizes for some credit before the noun is right, numbers and places
# altogether; and that it is no sentence, or a search would find words in a row that score better than any. (A tower's output has no more dimensions than the tower is wide. What needs many, such as a place for
# every noun, is what a tower leaves out.)
SPANS, FEATURES = {}, 0
for name, count in {
    "noun": NOUNS, "colour": NOUNS * COLOURS, "size": NOUNS * SIZES, "background": BACKGROUNDS, "side": 4 * NOUNS,
    "any_colour": COLOURS, "any_size": SIZES, "any_count": COUNTS, "any_position": POSITIONS, "garbled": 1,
}.items():
    SPANS[name] = (FEATURES, FEATURES + count)
    FEATURES += count
WEIGHTS = {
    "noun": 1.5, "colour": 0.9, "size": 0.4, "background": 1.0, "side": 0.45,
    "any_colour": 0.3, "any_size": 0.2, "any_count": 0.9, "any_position": 0.8,
    "garbled": 2.0,
}


def feature_weights():
    """The square roots of the weights, so that a dot product of two rows sums the weights of what they share."""
    w = torch.zeros(FEATURES)
    for name, (begin, end) in SPANS.items():
        w[begin:end] = math.sqrt(WEIGHTS[name])
    return w


def features(atoms):
    """The features of a caption that states `atoms`."""
    out = set()

    def add(name, i):
        out.add(SPANS[name][0] + i)

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


def vectors(rows, weights):
    """Unit rows whose dot products are the kernel."""
    out = torch.zeros(len(rows), FEATURES)
    for i, row in enumerate(rows):
        out[i, row] = 1.0
    return F.normalize(out * weights, dim=1)


class Data:
    """Pictures memory-mapped; of every picture, three true full captions, a shortened one, six changed ones, and up to
    two of the full ones garbled."""

    def __init__(self, folder, size, limit=None):
        folder = pathlib.Path(folder)
        with open(folder / "meta.jsonl") as f:
            self.meta = [json.loads(line) for line, _ in zip(f, range(limit or 10**9))]
        n = len(self.meta)
        self.images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="c")[: n * size * size * 3]
        self.images = self.images.reshape(n, size, size, 3)

    def __len__(self):
        return len(self.meta)

    def garbled(self, i):
        """(text, features)"""
        m = self.meta[i]
        own = features(m["atoms"]) + [SPANS["garbled"][0]]
        return [(text, own) for text in m["garbled"]]

    def captions(self, i):
        """(text, atoms): the canonical caption first, then two more true ones, a shortened one, and the changed."""
        m = self.meta[i]
        return [
            (m["caption"], m["atoms"]), *zip(m["captions"], m["caption_atoms"]), *zip(m["negatives"], m["neg_atoms"])
        ]


def pad(ids, eos):
    """Ids in rows of one length; a text that is too long loses its tail, not its end token."""
    ids = [i if len(i) <= MAX_TOKENS else i[: MAX_TOKENS - 1] + [eos] for i in ids]
    longest = min(MAX_TOKENS, -(-max(len(i) for i in ids) // 4) * 4)
    return torch.tensor([i + [eos] * (longest - len(i)) for i in ids])


def embed(model, ids, eos):
    return F.normalize(model.text_projection(model.text_model(input_ids=pad(ids, eos)).pooler_output).float(), dim=-1)


def rates(step, steps, begin, minutes):
    """How much of the budget is spent, 0 to 1, and the share of the top learning rate that goes with it."""
    done = step / steps if steps else (time.time() - begin) / (minutes * 60)
    return done, min(1.0, (step + 1) / 200) * (0.49 * (1 + math.cos(math.pi * min(1.0, done))) + 0.02)


def train_text(model, tok, data, args, rng):
    """Stage 1: the cosine of two captions becomes the kernel of what they state."""
    eos, weights = tok.token_to_id(EOS), feature_weights()
    tower = torch.compile(model.text_model, dynamic=False)
    params = list(model.text_model.parameters()) + list(model.text_projection.parameters())
    opts = optimizers([p for p in model.text_model.encoder.parameters() if p.ndim == 2], params, args.text_lr)
    begin, step, total = time.time(), 0, np.zeros(4)
    pictures, each, parts = 24, 8, 3
    while True:
        done, share = rates(step, args.text_steps, begin, args.text_minutes)
        if done >= 1:
            break
        set_rate(opts, args.text_lr * share)
        # Eight captions of a picture: all three full ones, the short one, the two that say the same words of other
        # things, and two more: other changed ones, or garbled ones.
        picked = []
        for i in rng.integers(len(data), size=pictures):
            all_of = data.captions(i)
            stated = [(t, features(a)) for t, a in all_of]
            rest = stated[6:] + data.garbled(i)
            picked += stated[:6] + [rest[j] for j in rng.permutation(len(rest))[: each - 6]]
        ids = [e.ids for e in tok.encode_batch([t for t, _ in picked])]
        v = vectors([f for _, f in picked], weights)
        # Captions of like length go through together, so that little is spent on padding.
        order = np.array(sorted(range(len(ids)), key=lambda k: len(ids[k])))
        with torch.autocast("cpu", torch.bfloat16):
            h = [tower(input_ids=pad([ids[k] for k in part], eos)).pooler_output for part in np.split(order, parts)]
            t = model.text_projection(torch.cat(h))
        t = F.normalize(t.float(), dim=-1)[torch.from_numpy(np.argsort(order))]
        similarity, truth = t @ t.T, v @ v.T
        error = (similarity - truth) ** 2
        near = error.view(pictures, each, pictures, each).diagonal(dim1=0, dim2=2)
        contrast = soft_contrast(similarity, truth)
        loss = error.mean() + 2 * near.mean() + 0.05 * contrast
        descend(loss, opts, params)
        total += [error.mean().item(), near.mean().item(), near[:3, :3].mean().item() * 1.5, contrast.item()]
        step += 1
        if step % 200 == 0:
            rms = np.sqrt(total[:3] / 200)
            print(
                f"text {step} done {done:.2f} error {rms[0]:.4f}, within a picture {rms[1]:.4f}, between two ways to "
                f"say the same {rms[2]:.4f}, contrast {total[3] / 200:.4f}", flush=True,
            )
            total[:] = 0
    print(f"text tower: {step} steps, {time.time() - begin:.0f} s", flush=True)


def check_text(model, tok, data):
    """Prints, by what was changed in the captions that say the same words of other things, how near they are to the
    true ones: by the tower, by the kernel, and how often farther than another way to say the truth."""
    model.eval()
    eos, weights, found = tok.token_to_id(EOS), feature_weights(), {}
    for i in range(len(data)):
        captions = data.captions(i)
        texts, facts = zip(*[captions[k] for k in (0, 1, 4, 5)])
        sets = [features(a) for a in facts]
        for text, own in data.garbled(i)[:1]:
            texts, sets = (*texts, text), [*sets, own]
        v = vectors(sets, weights)
        with torch.no_grad():
            t = embed(model, [e.ids for e in tok.encode_batch(list(texts))], eos)
        for k in range(2, len(sets)):
            differ = set(sets[0]) ^ set(sets[k])
            sorts = {name for name, (begin, end) in SPANS.items() if any(begin <= f < end for f in differ)}
            name = "+".join(sorted(sorts)) or "nothing"
            found.setdefault(name, []).append((t[0] @ t[k], v[0] @ v[k], t[0] @ t[k] < t[0] @ t[1], t[0] @ t[1]))
    for name, rows in sorted(found.items(), key=lambda item: -len(item[1])):
        m = np.array(rows, dtype=float).mean(0)
        if len(rows) >= 10:
            print(
                f"changed {name}: {len(rows)} captions, cosine {m[0]:.3f}, kernel {m[1]:.3f}, farther than another "
                f"way to say the truth ({m[3]:.3f}) in {m[2]:.3f}", flush=True,
            )
    model.train()


def embed_all(model, tok, data):
    """Per picture: [full caption (mean of the ways to say it), six changed ones], as f16 rows."""
    model.eval()
    eos = tok.token_to_id(EOS)
    out = np.zeros((len(data), 7, model.config.projection_dim), dtype=np.float16)
    with torch.no_grad():
        for start in range(0, len(data), 128):
            idx = range(start, min(start + 128, len(data)))
            texts = [t for i in idx for k, (t, _) in enumerate(data.captions(i)) if k != 3]
            encoded = [e.ids for e in tok.encode_batch(texts)]
            order = sorted(range(len(encoded)), key=lambda k: len(encoded[k]))
            rows = torch.zeros(len(encoded), model.config.projection_dim)
            for part in np.array_split(order, 8):
                with torch.autocast("cpu", torch.bfloat16):
                    rows[part] = embed(model, [encoded[k] for k in part], eos)
            rows = rows.view(len(idx), 9, -1)
            full = F.normalize(rows[:, :3].mean(1, keepdim=True), dim=-1)
            out[start : start + len(idx)] = torch.cat([full, rows[:, 3:]], 1).numpy()
    model.train()
    return out


def patch_labels(metas, grid):
    """noun (48 = none), colour (8 = none) and size (2 = none) under the centre of every patch."""
    out = np.zeros((len(metas), 3, grid, grid), dtype=np.int64)
    out[:, 0], out[:, 1], out[:, 2] = NOUNS, COLOURS, SIZES
    centres = (np.arange(grid) + 0.5) / grid
    for i, m in enumerate(metas):
        for o in m["objects"]:
            x0, y0, x1, y1 = o["box"]
            mask = ((centres >= y0) & (centres <= y1))[:, None] & ((centres >= x0) & (centres <= x1))[None, :]
            out[i, 0][mask], out[i, 1][mask], out[i, 2][mask] = o["noun"], o["colour"], o["size"]
    return torch.from_numpy(out.reshape(len(metas), 3, -1))


class Hints(torch.nn.Module):
    """Training-only heads: what lies on each patch, and what the class token holds of the scene."""

    def __init__(self, width):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.patch = torch.nn.Linear(width, NOUNS + 1 + COLOURS + 1 + SIZES + 1)
        self.scene = torch.nn.Linear(width, NOUNS + NOUNS * COLOURS + BACKGROUNDS)

    def forward(self, tokens, pooled, labels, scene):
        """`scene`: for nouns, (noun, colour) pairs and backgrounds, a distribution over those that are there."""
        logits = self.patch(self.norm(tokens[:, 1:]))
        patch = 0.0
        widths = (NOUNS + 1, COLOURS + 1, SIZES + 1)
        for part, target, none in zip(logits.split(widths, -1), labels.unbind(1), (NOUNS, COLOURS, SIZES)):
            ce = F.cross_entropy(part.flatten(0, 1).float(), target.flatten(), reduction="none")
            weight = torch.where(target.flatten() == none, 0.25, 1.0)
            patch = patch + (ce * weight).sum() / weight.sum()
        parts = self.scene(pooled).float().split([NOUNS, NOUNS * COLOURS, BACKGROUNDS], -1)
        return patch, [F.cross_entropy(part, target) for part, target in zip(parts, scene)]


def scene_targets(atoms):
    hot = torch.zeros(len(atoms), RELATION)
    for i, row in enumerate(atoms):
        hot[i, [a for a in row if a < RELATION]] = 1.0
    parts = hot[:, :COLOUR], hot[:, COLOUR:SIZE], hot[:, BACKGROUND:RELATION]
    return [p / p.sum(1, keepdim=True) for p in parts]


def normalise(u8):
    x = torch.from_numpy(u8).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def evaluate(model, data, rows):
    """Share of pictures whose true caption beats all six changed ones, the same for the two that say the same words of
    other things, and the mean cosine with the true caption."""
    model.eval()
    wins = bound = total = 0.0
    with torch.no_grad():
        for start in range(0, len(data), 100):
            with torch.autocast("cpu", torch.bfloat16):
                out = model.vision_model(normalise(data.images[start : start + 100]))
                v = F.normalize(model.visual_projection(out.pooler_output).float(), dim=-1)
            t = torch.from_numpy(rows[start : start + 100]).float()
            s = (t @ v[:, :, None])[..., 0]
            wins += (s[:, :1] > s[:, 1:]).all(1).sum().item()
            bound += (s[:, :1] > s[:, 1:3]).all(1).sum().item()
            total += s[:, 0].sum().item()
    model.train()
    return f"wins {wins / len(data):.3f} bound {bound / len(data):.3f} cosine {total / len(data):.3f}"


def train_image(model, hints, data, rows, val, val_rows, args, rng, checkpoint):
    """Stage 2: a picture comes to stand where its caption stands."""
    vision = torch.compile(model.vision_model, dynamic=False)
    params = [*model.vision_model.parameters(), *model.visual_projection.parameters(), *hints.parameters()]
    opts = optimizers([p for p in model.vision_model.encoder.parameters() if p.ndim == 2], params, args.lr)
    begin, step, order, at = time.time(), 0, rng.permutation(len(data)), 0
    means = np.zeros(5)
    while True:
        done, share = rates(step, args.steps, begin, args.minutes)
        if done >= 1:
            break
        set_rate(opts, args.lr * share)
        if at + args.batch > len(order):
            order, at = rng.permutation(len(data)), 0
        idx = np.sort(order[at : at + args.batch])
        at += args.batch
        metas = [data.meta[i] for i in idx]
        labels = patch_labels(metas, args.size // args.patch)
        scene = scene_targets([m["atoms"] for m in metas])
        texts = torch.from_numpy(rows[idx]).float()
        own, flat = texts[:, 0], texts.flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            out = vision(normalise(data.images[idx]))
            v = model.visual_projection(out.pooler_output)
            patch_loss, scene_loss = hints(out.last_hidden_state, out.pooler_output, labels, scene)
        v = F.normalize(v.float(), dim=-1)
        contrast = soft_contrast(v @ flat.T, own @ flat.T)
        pull = (1 - (v * own).sum(1)).mean()
        # New heads would pull a trained tower away from where it is.
        fade = 0.0 if args.init else 1 - 0.9 * done
        loss = contrast + 2.0 * pull + fade * (patch_loss + sum(scene_loss))
        descend(loss, opts, params)
        means += [contrast.item(), pull.item(), patch_loss.item(), scene_loss[0].item(), scene_loss[1].item()]
        step += 1
        if step % 50 == 0:
            m = means / 50
            rate = step * args.batch / (time.time() - begin)
            note = " " + evaluate(model, val, val_rows) if step % 250 == 0 else ""
            print(
                f"step {step} done {done:.2f} contrast {m[0]:.3f} cosine {1 - m[1]:.3f} patch {m[2]:.3f} "
                f"nouns {m[3]:.3f} pairs {m[4]:.3f} {rate:.0f}/s{note}", flush=True,
            )
            means[:] = 0
        if step % 500 == 0:
            checkpoint()
    print(f"image tower: {evaluate(model, val, val_rows)} after {step} steps, {time.time() - begin:.0f} s", flush=True)


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
    ap.add_argument("--data", required=True, help="folder written by demo-world train-images")
    ap.add_argument("--val", required=True, help="a second, smaller such folder with another seed")
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=25, help="wall-clock budget of the image tower")
    ap.add_argument("--text-minutes", type=float, help="and of the text tower: 25, or none with --init")
    ap.add_argument("--steps", type=int, default=0, help="a step budget instead of --minutes: reproducible")
    ap.add_argument("--text-steps", type=int, default=0, help="a step budget instead of --text-minutes")
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--size", type=int, default=144)
    ap.add_argument("--patch", type=int, default=24)
    ap.add_argument("--width", type=int, default=256)
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--expand", type=int, default=3, help="width of an MLP over the width of its layer")
    ap.add_argument("--text-width", type=int, default=256)
    ap.add_argument("--text-layers", type=int, default=3)
    ap.add_argument("--text-expand", type=int, default=2)
    ap.add_argument("--projection", type=int, default=256)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--text-lr", type=float, default=2e-3)
    ap.add_argument("--init", help="train this checkpoint further")
    ap.add_argument("--pictures", type=int, default=0, help="use only so many of the training pictures")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64

    data, val = Data(args.data, args.size, args.pictures), Data(args.val, args.size)
    if args.init:
        tok = Tokenizer.from_file(str(pathlib.Path(args.init) / "tokenizer.json"))
        model = CLIPModel.from_pretrained(args.init, dtype=torch.float32).train()
        args.width = model.config.vision_config.hidden_size
    else:
        sample = [t for i in range(min(20000, len(data))) for t, _ in data.captions(i)]
        tok = clip_tokenizer(sample, 1200)
        model = build(tok, args)
    hints = Hints(args.width)
    print(
        f"{len(data)} pictures, {tok.get_vocab_size()} tokens, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True,
    )
    if args.text_minutes is None:
        args.text_minutes = 0 if args.init else 25
    if args.text_minutes or args.text_steps:
        train_text(model, tok, data, args, rng)
        save(model, tok, args)
        check_text(model, tok, val)
    begin = time.time()
    rows, val_rows = embed_all(model, tok, data), embed_all(model, tok, val)
    print(f"captions embedded, {time.time() - begin:.0f} s", flush=True)
    train_image(model, hints, data, rows, val, val_rows, args, rng, lambda: save(model, tok, args))
    save(model, tok, args)


if __name__ == "__main__":
    main()
