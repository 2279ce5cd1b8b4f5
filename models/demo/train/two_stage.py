"""The recipe by which the demo pack's encoders are trained, one tower after the other, which is short enough for one
CPU core:
  1. The text tower alone. The cosine of two captions is regressed on a kernel of what they state: the weighted share
     of facts they have in common. A nearly right caption is then nearly as close, which is what a search climbs on.
  2. The tower of what is seen, with the text tower locked and every caption embedded once. What is seen is pulled to
     its own caption's embedding, and its similarities to all captions of the batch, six changed ones of every scene
     among them, are made those that its own caption has (a soft contrastive loss). Hints, from heads that are dropped
     afterwards, tell every patch what lies on it, and the class token what is there.

A model is an object with `text(ids)` and `sight(pixels)`, which give embeddings that are not normalised, and with the
parameters of each (`text_parameters`, `sight_parameters`) and the matrices of their blocks (`text_blocks`,
`sight_blocks`). `sight` also gives all tokens, class token first, and the class token as pooled, for the hints.
"""

import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F

from common import EOS, descend, optimizers, set_rate

MAX_TOKENS = 32


class Kernel:
    """What captions are compared by: sorts of features, of each how many there are and how much one counts. Features
    of the sort "garbled" say that it is no sentence, or a search would find words in a row that score better than any.
    (A tower's output has no more dimensions than the tower is wide. What needs many is what a tower leaves out.)"""

    def __init__(self, sorts):
        self.spans, self.size, weights = {}, 0, []
        for name, (count, weight) in sorts.items():
            self.spans[name] = (self.size, self.size + count)
            self.size += count
            # Square roots, so that a dot product of two rows sums the weights of what they share.
            weights += [math.sqrt(weight)] * count
        self.weights = torch.tensor(weights)
        self.space = None

    def feature(self, name, i):
        return self.spans[name][0] + i

    def vectors(self, rows):
        """Unit rows whose dot products are the kernel."""
        out = torch.zeros(len(rows), self.size)
        for i, row in enumerate(rows):
            out[i, row] = 1.0
        return F.normalize(out * self.weights, dim=1)

    def choose_space(self, data, dim, scenes=4000):
        """Chooses, of all embeddings of so many dimensions, those whose dot products are nearest to the kernel over the
        captions of the first scenes: its principal components. Towers can then be trained towards it side by side."""
        rows = [f for i in range(min(scenes, len(data))) for f in data.stated(i)]
        v = self.vectors(rows)
        self.space = torch.linalg.eigh((v.T @ v / len(v)).double()).eigenvectors[:, -dim:].float()

    def places(self, rows):
        """Where captions belong in the chosen space."""
        return F.normalize(self.vectors(rows) @ self.space, dim=1)

    def sorts(self, a, b):
        """The sorts in which two sets of features differ, as a name."""
        differ = set(a) ^ set(b)
        found = {name for name, (begin, end) in self.spans.items() if any(begin <= f < end for f in differ)}
        return "+".join(sorted(found)) or "nothing"


class Scenes:
    """Pixels memory-mapped, as arrays of `shape`; of every scene, three true full captions, a shortened one, six
    changed ones, and up to two of the full ones garbled. `features` turns atoms into features of the kernel."""

    def __init__(self, folder, pixels, shape, kernel, features, limit=None):
        folder = pathlib.Path(folder)
        with open(folder / "meta.jsonl") as f:
            self.meta = [json.loads(line) for line, _ in zip(f, range(limit or 10**9))]
        self.kernel, self.features = kernel, features
        n = len(self.meta)
        self.pixels = np.memmap(folder / pixels, dtype=np.uint8, mode="c")[: n * math.prod(shape)].reshape(n, *shape)

    def __len__(self):
        return len(self.meta)

    def garbled(self, i):
        """(text, features)"""
        m = self.meta[i]
        own = self.features(m["atoms"]) + [self.kernel.feature("garbled", 0)]
        return [(text, own) for text in m["garbled"]]

    def captions(self, i):
        """(text, atoms): the canonical caption first, then two more true ones, a shortened one, and the changed."""
        m = self.meta[i]
        return [
            (m["caption"], m["atoms"]), *zip(m["captions"], m["caption_atoms"]), *zip(m["negatives"], m["neg_atoms"])
        ]

    def stated(self, i):
        """The features of all captions, garbled ones at the end."""
        return [self.features(atoms) for _, atoms in self.captions(i)] + [f for _, f in self.garbled(i)]


def pad(ids, eos):
    """Ids in rows of one length; a text that is too long loses its tail, not its end token."""
    ids = [i if len(i) <= MAX_TOKENS else i[: MAX_TOKENS - 1] + [eos] for i in ids]
    longest = min(MAX_TOKENS, -(-max(len(i) for i in ids) // 4) * 4)
    return torch.tensor([i + [eos] * (longest - len(i)) for i in ids])


def rates(step, steps, begin, minutes):
    """How much of the budget is spent, 0 to 1, and the share of the top learning rate that goes with it."""
    done = step / steps if steps else (time.time() - begin) / (minutes * 60)
    return done, min(1.0, (step + 1) / 200) * (0.49 * (1 + math.cos(math.pi * min(1.0, done))) + 0.02)


def soft_contrast(similarity, truth, scale=30.0):
    """How far (KL divergence) a softmax over similarities is from the same over the true ones."""
    target = (scale * truth).softmax(1)
    return F.cross_entropy(scale * similarity, target) - torch.special.entr(target).sum(1).mean()


def train_text(model, tok, data, args, rng):
    """Stage 1: the cosine of two captions becomes the kernel of what they state."""
    eos, kernel = tok.token_to_id(EOS), data.kernel
    tower = torch.compile(model.text, dynamic=False)
    params = model.text_parameters()
    opts = optimizers(model.text_blocks(), params, args.text_lr)
    begin, step, total = time.time(), 0, np.zeros(4)
    scenes, each, parts = 24, 8, 3
    while True:
        done, share = rates(step, args.text_steps, begin, args.text_minutes)
        if done >= 1:
            break
        set_rate(opts, args.text_lr * share)
        # Eight captions of a scene: all three full ones, the short one, the two that say the same words of other
        # things, and two more: other changed ones, or garbled ones.
        picked = []
        for i in rng.integers(len(data), size=scenes):
            stated = [(t, data.features(a)) for t, a in data.captions(i)]
            rest = stated[6:] + data.garbled(i)
            picked += stated[:6] + [rest[j] for j in rng.permutation(len(rest))[: each - 6]]
        ids = [e.ids for e in tok.encode_batch([t for t, _ in picked])]
        facts = [f for _, f in picked]
        # Captions of like length go through together, so that little is spent on padding.
        order = np.array(sorted(range(len(ids)), key=lambda k: len(ids[k])))
        with torch.autocast("cpu", torch.bfloat16):
            t = torch.cat([tower(pad([ids[k] for k in part], eos)) for part in np.split(order, parts)])
        t = F.normalize(t.float(), dim=-1)[torch.from_numpy(np.argsort(order))]
        if kernel.space is None:
            v = kernel.vectors(facts)
            similarity, truth, pull = t @ t.T, v @ v.T, 0.0
        else:
            v = kernel.places(facts)
            similarity, truth, pull = t @ v.T, v @ v.T, 2 * (1 - (t * v).sum(1)).mean()
        error = (similarity - truth) ** 2
        near = error.view(scenes, each, scenes, each).diagonal(dim1=0, dim2=2)
        contrast = soft_contrast(similarity, truth)
        loss = error.mean() + 2 * near.mean() + 0.05 * contrast + pull
        descend(loss, opts, params)
        total += [error.mean().item(), near.mean().item(), near[:3, :3].mean().item() * 1.5, contrast.item()]
        step += 1
        if step % 200 == 0:
            rms = np.sqrt(total[:3] / 200)
            print(
                f"text {step} done {done:.2f} error {rms[0]:.4f}, within a scene {rms[1]:.4f}, between two ways to "
                f"say the same {rms[2]:.4f}, contrast {total[3] / 200:.4f}", flush=True,
            )
            total[:] = 0
    print(f"text tower: {step} steps, {time.time() - begin:.0f} s", flush=True)


def embed(model, ids, eos):
    return F.normalize(model.text(pad(ids, eos)).float(), dim=-1)


def check_text(model, tok, data):
    """Prints, by what was changed in the captions that say the same words of other things, how near they are to the
    true ones: by the tower, by the kernel, and how often farther than another way to say the truth."""
    eos, kernel, found = tok.token_to_id(EOS), data.kernel, {}
    for i in range(len(data)):
        captions = data.captions(i)
        texts, facts = zip(*[captions[k] for k in (0, 1, 4, 5)])
        sets = [data.features(a) for a in facts]
        for text, own in data.garbled(i)[:1]:
            texts, sets = (*texts, text), [*sets, own]
        v = kernel.vectors(sets)
        with torch.no_grad():
            t = embed(model, [e.ids for e in tok.encode_batch(list(texts))], eos)
        for k in range(2, len(sets)):
            row = (t[0] @ t[k], v[0] @ v[k], t[0] @ t[k] < t[0] @ t[1], t[0] @ t[1])
            found.setdefault(kernel.sorts(sets[0], sets[k]), []).append(row)
    for name, rows in sorted(found.items(), key=lambda item: -len(item[1])):
        m = np.array(rows, dtype=float).mean(0)
        if len(rows) >= 10:
            print(
                f"changed {name}: {len(rows)} captions, cosine {m[0]:.3f}, kernel {m[1]:.3f}, farther than another "
                f"way to say the truth ({m[3]:.3f}) in {m[2]:.3f}", flush=True,
            )


def embed_all(model, tok, data):
    """Per scene: [full caption (mean of the ways to say it), six changed ones], as f16 rows."""
    eos = tok.token_to_id(EOS)
    texts = [[t for k, (t, _) in enumerate(data.captions(i)) if k != 3] for i in range(len(data))]
    # Many are said of several scenes. Those of like length go through together.
    seen = sorted({t for row in texts for t in row})
    ids = {t: e.ids for t, e in zip(seen, tok.encode_batch(seen))}
    seen.sort(key=lambda t: len(ids[t]))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = [embed(model, [ids[t] for t in seen[i : i + 256]], eos).half() for i in range(0, len(seen), 256)]
    known, at = torch.cat(parts), {t: k for k, t in enumerate(seen)}
    out = np.zeros((len(data), 7, known.shape[1]), dtype=np.float16)
    for i, row in enumerate(texts):
        rows = known[[at[t] for t in row]].float()
        out[i, 0], out[i, 1:] = F.normalize(rows[:3].mean(0), dim=0).numpy(), rows[3:].numpy()
    return out


def place_all(data):
    """As `embed_all`, of the chosen space in place of what the text tower makes of it."""
    rows = [data.kernel.places([data.stated(i)[k] for k in (0, *range(4, 10))]).half() for i in range(len(data))]
    return torch.stack(rows).numpy()


def similarities(model, data, rows):
    """Cosines of every scene with its true caption and the six changed ones."""
    out = []
    with torch.no_grad():
        for start in range(0, len(data), 100):
            with torch.autocast("cpu", torch.bfloat16):
                v = F.normalize(model.sight(data.pixels[start : start + 100])[0].float(), dim=-1)
            t = torch.from_numpy(rows[start : start + 100]).float()
            out.append((t @ v[:, :, None])[..., 0])
    return torch.cat(out)


def evaluate(model, data, rows):
    """Share of scenes whose true caption beats all six changed ones, the same for the two that say the same words of
    other things, and the mean cosine with the true caption."""
    s = similarities(model, data, rows)
    wins = (s[:, :1] > s[:, 1:]).all(1).float().mean()
    bound = (s[:, :1] > s[:, 1:3]).all(1).float().mean()
    return f"wins {wins:.3f} bound {bound:.3f} cosine {s[:, 0].mean():.3f}"


def check_sight(model, tok, data):
    """Prints by what was changed how many of the changed captions are outscored by the true one."""
    s, found = similarities(model, data, embed_all(model, tok, data)), {}
    for i, row in enumerate(s):
        sets = [data.features(atoms) for _, atoms in data.captions(i)]
        for k in range(6):
            found.setdefault(data.kernel.sorts(sets[0], sets[4 + k]), []).append(float(row[0] > row[1 + k]))
    for name, won in sorted(found.items(), key=lambda item: -len(item[1])):
        if len(won) >= 10:
            print(f"changed {name}: the truth outscores {np.mean(won):.3f} of {len(won)} captions", flush=True)


def train_sight(model, hints, data, rows, val, val_rows, args, rng, checkpoint):
    """Stage 2: what is seen comes to stand where its caption stands. `hints(tokens, pooled, metas)` gives losses by
    name."""
    tower = torch.compile(model.sight, dynamic=False)
    params = [*model.sight_parameters(), *hints.parameters()]
    opts = optimizers(model.sight_blocks(), params, args.lr)
    begin, step, order, at, means = time.time(), 0, rng.permutation(len(data)), 0, {}
    while True:
        done, share = rates(step, args.steps, begin, args.minutes)
        if done >= 1:
            break
        set_rate(opts, args.lr * share)
        if at + args.batch > len(order):
            order, at = rng.permutation(len(data)), 0
        idx = np.sort(order[at : at + args.batch])
        at += args.batch
        texts = torch.from_numpy(rows[idx]).float()
        own, flat = texts[:, 0], texts.flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            v, tokens, pooled = tower(data.pixels[idx])
            hinted = hints(tokens, pooled, [data.meta[i] for i in idx])
        v = F.normalize(v.float(), dim=-1)
        contrast = soft_contrast(v @ flat.T, own @ flat.T)
        pull = (1 - (v * own).sum(1)).mean()
        descend(contrast + 2.0 * pull + args.hints * (1 - 0.9 * done) * sum(hinted.values()), opts, params)
        for name, loss in {"contrast": contrast, "pull": pull, **hinted}.items():
            means[name] = means.get(name, 0.0) + loss.item() / 50
        step += 1
        if step % 50 == 0:
            rate = step * args.batch / (time.time() - begin)
            note = " " + evaluate(model, val, val_rows) if step % 250 == 0 else ""
            told = " ".join(f"{name} {mean:.3f}" for name, mean in means.items())
            print(f"step {step} done {done:.2f} {told} {rate:.0f}/s{note}", flush=True)
            means = {}
        if step % 500 == 0:
            checkpoint()
    took = time.time() - begin
    print(f"tower of what is seen: {evaluate(model, val, val_rows)} after {step} steps, {took:.0f} s", flush=True)


def patch_labels(objects, grid, sorts):
    """What lies under the centre of every patch of every frame: for each of `sorts`, (key, count), the object's index
    or, where there is none, the count. `objects`: of every frame, those that are seen. [frames, sorts, patches]"""
    out = np.zeros((len(objects), len(sorts), grid, grid), dtype=np.int64)
    out[:] = np.array([count for _, count in sorts])[:, None, None]
    centres = (np.arange(grid) + 0.5) / grid
    for labels, frame in zip(out, objects):
        for o in frame:
            x0, y0, x1, y1 = o["box"]
            mask = ((centres >= y0) & (centres <= y1))[:, None] & ((centres >= x0) & (centres <= x1))[None, :]
            for label, (key, _) in zip(labels, sorts):
                label[mask] = o[key]
    return torch.from_numpy(out.reshape(len(objects), len(sorts), -1))


class Hints(torch.nn.Module):
    """Training-only heads: what lies on each patch, by `sorts` of (key, count), and which atoms the class token holds,
    by `spans` of name to (begin, end)."""

    def __init__(self, width, grid, frames, sorts, spans):
        super().__init__()
        self.grid, self.frames, self.sorts, self.spans = grid, frames, sorts, spans
        self.norm = torch.nn.LayerNorm(width)
        self.patch = torch.nn.Linear(width, sum(count + 1 for _, count in sorts))
        self.scene = torch.nn.Linear(width, sum(end - begin for begin, end in spans.values()))

    def forward(self, tokens, pooled, metas):
        """Tokens in the order class token, patches of the first frame, patches of the next."""
        objects = [frame for m in metas for frame in (m["objects"] if self.frames > 1 else [m["objects"]])]
        labels = patch_labels(objects, self.grid, self.sorts)
        labels = labels.view(len(metas), self.frames, len(self.sorts), -1).transpose(1, 2).flatten(2)
        logits = self.patch(self.norm(tokens[:, 1:]))
        patch = 0.0
        widths = [count + 1 for _, count in self.sorts]
        for part, target, none in zip(logits.split(widths, -1), labels.unbind(1), (count for _, count in self.sorts)):
            ce = F.cross_entropy(part.flatten(0, 1).float(), target.flatten(), reduction="none")
            weight = torch.where(target.flatten() == none, 0.25, 1.0)
            patch = patch + (ce * weight).sum() / weight.sum()
        losses = {"patch": patch}
        hot = torch.zeros(len(metas), max(end for _, end in self.spans.values()))
        for i, m in enumerate(metas):
            hot[i, [a for a in m["atoms"] if a < hot.shape[1]]] = 1.0
        parts = self.scene(pooled).float().split([end - begin for begin, end in self.spans.values()], -1)
        for part, (name, (begin, end)) in zip(parts, self.spans.items()):
            # A distribution over those that are there.
            target = hot[:, begin:end]
            losses[name] = F.cross_entropy(part, target / target.sum(1, keepdim=True))
        return losses


def arguments(ap):
    """What both encoders' scripts ask for."""
    ap.add_argument("--data", required=True, help="folder written by demo-world")
    ap.add_argument("--val", required=True, help="a second, smaller such folder with another seed")
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=25, help="wall-clock budget of the tower of what is seen")
    ap.add_argument("--text-minutes", type=float, help="and of the text tower: 25, or none with --init")
    ap.add_argument("--steps", type=int, default=0, help="a step budget instead of --minutes: reproducible")
    ap.add_argument("--text-steps", type=int, default=0, help="a step budget instead of --text-minutes")
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--text-layers", type=int, default=3)
    ap.add_argument("--patch", type=int, default=24)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--text-lr", type=float, default=2e-3)
    ap.add_argument("--init", help="train this checkpoint further")
    ap.add_argument(
        "--hints", type=float,
        help="weight of the hints at the begin: 1, or 0 with --init, as new heads pull a tower away from where it is",
    )
    ap.add_argument(
        "--tower", choices=["both", "text", "sight"], default="both",
        help="train one alone, towards the principal components of the kernel",
    )
    ap.add_argument("--limit", type=int, default=0, help="use only so many of the training scenes")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)


def run(args, model, tok, hints, data, val, rng, save):
    """Both stages, or one of them alone."""
    print(
        f"{len(data)} scenes, {tok.get_vocab_size()} tokens, "
        f"{sum(p.numel() for p in [*model.text_parameters(), *model.sight_parameters()]) / 1e6:.2f}M parameters",
        flush=True,
    )
    if args.hints is None:
        args.hints = 0.0 if args.init else 1.0
    if args.tower != "both":
        data.kernel.choose_space(data, args.projection)
    if args.text_minutes is None:
        args.text_minutes = 0 if args.init else 25
    if args.tower != "sight" and (args.text_minutes or args.text_steps):
        train_text(model, tok, data, args, rng)
        save()
        check_text(model, tok, val)
    if args.tower == "text":
        return
    begin = time.time()
    if args.tower == "sight":
        rows, val_rows = place_all(data), place_all(val)
    else:
        rows, val_rows = embed_all(model, tok, data), embed_all(model, tok, val)
    print(f"captions embedded, {time.time() - begin:.0f} s", flush=True)
    train_sight(model, hints, data, rows, val, val_rows, args, rng, save)
    save()
    if args.tower == "both":
        check_sight(model, tok, val)
