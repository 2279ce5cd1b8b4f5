"""Trains the demo pack's CLIP: a small CLIPModel that scores captions of the demo world.

Input is what `demo-world train-images` wrote (see README.md beside this file). The output folder is an
ordinary Hugging Face CLIP checkpoint: config.json, preprocessor_config.json, tokenizer.json,
model.safetensors (f16).

Three things make training short enough for two CPU cores:
  * soft contrastive targets: the target of a picture over the batch's captions is a softmax of the F1 between
    their facts, so that a nearly right caption scores nearly as well, which is what a search climbs on;
  * hard negatives: captions with one to three facts changed are in the batch beside the true ones;
  * dense hints while training: every patch token says which object it lies on (heads dropped afterwards).
"""

import argparse
import json
import math
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPModel

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 32


def build_tokenizer(texts):
    """A byte-level BPE laid out as CLIP's, whose merges make each word of the grammar one token."""
    tok = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=EOS))
    tok.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(split, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1200, end_of_word_suffix="</w>", initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tok.train_from_iterator(texts, trainer)
    # The byte alphabet at the end of a word too, so that no input is unknown.
    spec = json.loads(tok.to_str())
    vocab = spec["model"]["vocab"]
    for byte in alphabet:
        vocab.setdefault(byte + "</w>", len(vocab))
    for special in (BOS, EOS):
        vocab[special] = len(vocab)
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.add_special_tokens([BOS, EOS])
    tok.post_processor = processors.RobertaProcessing(
        (EOS, vocab[EOS]), (BOS, vocab[BOS]), trim_offsets=False, add_prefix_space=False
    )
    tok.decoder = decoders.ByteLevel()
    return tok


class Data:
    """Pictures memory-mapped; captions tokenised once; facts as index lists."""

    def __init__(self, folder, size, tok):
        folder = pathlib.Path(folder)
        lines = (folder / "meta.jsonl").read_text().splitlines()
        meta = [json.loads(line) for line in lines]
        n = min(len(meta), (folder / "images.u8").stat().st_size // (size * size * 3))
        self.meta = meta[:n]
        self.images = np.memmap(folder / "images.u8", dtype=np.uint8, mode="r")[: n * size * size * 3]
        self.images = self.images.reshape(n, size, size, 3)
        self.truth, self.texts, self.text_atoms = [], [], []
        for m in self.meta:
            truth = m["atoms"]
            options = list(zip(m["captions"], m["caption_atoms"]))
            options.append((m["caption"], truth))
            negatives = list(zip(m["negatives"], m["neg_atoms"]))
            self.truth.append(truth)
            self.texts.append(([o for o in options if len(o[1]) == len(truth)], options, negatives))
        unique = sorted({t for group in self.texts for part in group[1:] for t, _ in part})
        ids = [e.ids for e in tok.encode_batch(unique)]
        assert max(map(len, ids)) <= MAX_TOKENS, max(map(len, ids))
        self.ids = dict(zip(unique, ids))

    def __len__(self):
        return len(self.meta)


def multi_hot(rows, width):
    out = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        out[i, row] = 1.0
    return out


def f1_matrix(truth, captions, width):
    a, b = multi_hot(truth, width), multi_hot(captions, width)
    return 2 * (a @ b.T) / (a.sum(1, keepdim=True) + b.sum(1))


def pad(ids, eos):
    longest = max(len(i) for i in ids)
    longest = min(MAX_TOKENS, -(-longest // 4) * 4)
    return torch.tensor([i + [eos] * (longest - len(i)) for i in ids])


def patch_labels(metas, grid):
    """noun (48 = none), colour (8 = none) and size (2 = none) under the centre of every patch."""
    out = np.full((len(metas), 3, grid, grid), 0, dtype=np.int64)
    out[:, 0], out[:, 1], out[:, 2] = 48, 8, 2
    centres = (np.arange(grid) + 0.5) / grid
    for i, m in enumerate(metas):
        for o in m["objects"]:
            x0, y0, x1, y1 = o["box"]
            xs = (centres >= x0) & (centres <= x1)
            ys = (centres >= y0) & (centres <= y1)
            mask = ys[:, None] & xs[None, :]
            out[i, 0][mask], out[i, 1][mask], out[i, 2][mask] = o["noun"], o["colour"], o["size"]
    return torch.from_numpy(out.reshape(len(metas), 3, -1))


class Hints(torch.nn.Module):
    """Training-only heads: patch labels, and which facts hold, from the class token."""

    def __init__(self, width, n_atoms):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.patch = torch.nn.Linear(width, 49 + 9 + 3)
        self.facts = torch.nn.Linear(width, n_atoms)

    def forward(self, tokens, pooled, labels, truth):
        logits = self.patch(self.norm(tokens[:, 1:]))
        loss = 0.0
        for part, target, none in zip(logits.split([49, 9, 3], -1), labels.unbind(1), (48, 8, 2)):
            ce = F.cross_entropy(part.flatten(0, 1).float(), target.flatten(), reduction="none")
            weight = torch.where(target.flatten() == none, 0.25, 1.0)
            loss = loss + (ce * weight).sum() / weight.sum()
        facts = F.binary_cross_entropy_with_logits(self.facts(pooled).float(), truth, reduction="none")
        return loss, facts.sum(1).mean()


def normalise(u8):
    x = torch.from_numpy(u8).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def evaluate(model, data, eos, n):
    """Share of pictures whose true caption beats its hard negatives, and mean rank score."""
    model.eval()
    wins = total = 0
    with torch.no_grad():
        for start in range(0, n, 50):
            idx = range(start, min(start + 50, n))
            with torch.autocast("cpu", torch.bfloat16):
                v = model.vision_model(normalise(data.images[list(idx)])).pooler_output
                v = F.normalize(model.visual_projection(v).float(), dim=-1)
                texts = [[data.texts[i][1][-1][0]] + [t for t, a in data.texts[i][2]] for i in idx]
                flat = [data.ids[t] for row in texts for t in row]
                t = model.text_model(input_ids=pad(flat, eos)).pooler_output
                t = F.normalize(model.text_projection(t).float(), dim=-1)
            at = 0
            for k, row in enumerate(texts):
                s = t[at : at + len(row)] @ v[k]
                at += len(row)
                wins += bool((s[0] > s[1:]).all())
                total += 1
    model.train()
    return wins / total


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True, help="folder written by demo-world train-images")
    ap.add_argument("--val", required=True, help="a second, smaller such folder with another seed")
    ap.add_argument("--atoms", required=True, help="output of demo-world atoms")
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=40, help="wall-clock budget; the learning rate follows it")
    ap.add_argument("--steps", type=int, default=0, help="a step budget instead of --minutes: reproducible")
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--size", type=int, default=112)
    ap.add_argument("--patch", type=int, default=14)
    ap.add_argument("--width", type=int, default=192)
    ap.add_argument("--layers", type=int, default=5)
    ap.add_argument("--text-width", type=int, default=128)
    ap.add_argument("--text-layers", type=int, default=3)
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--init", help="continue from this folder's train.pt")
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    torch.set_num_threads(2)
    atoms = pathlib.Path(args.atoms).read_text().split("\n")
    atoms = [a for a in atoms if a]
    dense = [i for i, a in enumerate(atoms) if not a.startswith("rel:")]

    sample = []
    with open(pathlib.Path(args.data) / "meta.jsonl") as f:
        for line, _ in zip(f, range(20000)):
            m = json.loads(line)
            sample += m["captions"] + m["negatives"]
    tok = build_tokenizer(sample)
    eos = tok.token_to_id(EOS)
    data = Data(args.data, args.size, tok)
    val = Data(args.val, args.size, tok)
    print(f"{len(data)} pictures, {len(data.ids)} captions, {tok.get_vocab_size()} tokens", flush=True)

    config = CLIPConfig(
        vision_config=dict(
            hidden_size=args.width, intermediate_size=4 * args.width, num_hidden_layers=args.layers,
            num_attention_heads=args.width // 32, image_size=args.size, patch_size=args.patch, hidden_act="quick_gelu",
        ),
        text_config=dict(
            hidden_size=args.text_width, intermediate_size=4 * args.text_width, num_hidden_layers=args.text_layers,
            num_attention_heads=args.text_width // 32, vocab_size=tok.get_vocab_size(),
            max_position_embeddings=MAX_TOKENS, hidden_act="quick_gelu",
            bos_token_id=tok.token_to_id(BOS), eos_token_id=eos, pad_token_id=eos,
        ),
        projection_dim=192,
    )
    model = CLIPModel(config)
    model.logit_scale.data.fill_(math.log(20.0))
    hints = Hints(args.width, len(dense))
    vision = torch.compile(model.vision_model, dynamic=False)
    params = list(model.parameters()) + list(hints.parameters())
    decay = [p for p in params if p.ndim >= 2]
    rest = [p for p in params if p.ndim < 2]
    opt = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=args.lr, betas=(0.9, 0.98),
    )
    if args.init:
        state = torch.load(pathlib.Path(args.init) / "train.pt")
        model.load_state_dict(state["model"])
        hints.load_state_dict(state["hints"])
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True)

    begin = time.time()
    step, order, at = 0, rng.permutation(len(data)), 0
    beta = 25.0
    means = np.zeros(4)
    while True:
        done = step / args.steps if args.steps else (time.time() - begin) / (args.minutes * 60)
        if done >= 1:
            break
        warm = min(1.0, (step + 1) / 200)
        for g in opt.param_groups:
            g["lr"] = args.lr * warm * (0.5 * (1 + math.cos(math.pi * done)) * 0.98 + 0.02)
        if at + args.batch > len(order):
            order, at = rng.permutation(len(data)), 0
        idx = order[at : at + args.batch]
        at += args.batch

        texts, text_atoms = [], []
        for column in range(2):
            for i in idx:
                full, options, negatives = data.texts[i]
                pool = full if column == 0 else options if rng.random() < 0.25 else negatives
                text, facts = pool[rng.integers(len(pool))]
                texts.append(data.ids[text])
                text_atoms.append(facts)
        truth = [data.truth[i] for i in idx]
        f1 = f1_matrix(truth, text_atoms, len(atoms))
        labels = patch_labels([data.meta[i] for i in idx], args.size // args.patch)
        facts = multi_hot(truth, len(atoms))[:, dense]
        pixels = normalise(data.images[np.sort(idx)][np.argsort(np.argsort(idx))])
        with torch.autocast("cpu", torch.bfloat16):
            out = vision(pixels)
            v = model.visual_projection(out.pooler_output)
            t = model.text_projection(model.text_model(input_ids=pad(texts, eos)).pooler_output)
            patch_loss, facts_loss = hints(out.last_hidden_state, out.pooler_output, labels, facts)
        v, t = F.normalize(v.float(), dim=-1), F.normalize(t.float(), dim=-1)
        logits = model.logit_scale.exp() * v @ t.T
        loss_i = F.cross_entropy(logits, (beta * f1).softmax(1))
        graded = F.cross_entropy(logits / 5, (beta / 5 * f1).softmax(1))
        n = len(idx)
        loss_t = F.cross_entropy(logits[:, :n].T, (beta * f1[:, :n].T).softmax(1))
        fade = 1 - 0.8 * done
        loss = loss_i + 0.5 * loss_t + 0.5 * graded + fade * (1.0 * patch_loss + 0.1 * facts_loss)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        means += [loss_i.item(), graded.item(), patch_loss.item(), facts_loss.item()]
        step += 1
        if step % 50 == 0:
            rate = step * args.batch / (time.time() - begin)
            acc = f" wins {evaluate(model, val, eos, 200):.3f}" if step % 200 == 0 else ""
            print(
                f"step {step} done {done:.2f} image {means[0] / 50:.3f} graded {means[1] / 50:.3f} patch "
                f"{means[2] / 50:.3f} facts {means[3] / 50:.2f} scale {model.logit_scale.exp().item():.1f} "
                f"{rate:.0f}/s{acc}", flush=True,
            )
            means[:] = 0
        if step % 500 == 0:
            save(model, tok, hints, args)
    print(f"final wins {evaluate(model, val, eos, len(val)):.3f} after {step} steps, {time.time() - begin:.0f} s")
    save(model, tok, hints, args)


def save(model, tok, hints, args):
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": model.state_dict(), "hints": hints.state_dict()}, out / "train.pt")
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tok.save(str(out / "tokenizer.json"))
    (out / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "crop_size": {"height": args.size, "width": args.size}, "do_center_crop": False,
                "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
                "image_mean": MEAN, "image_std": STD, "image_processor_type": "CLIPImageProcessor",
                "resample": 3, "rescale_factor": 1 / 255, "size": {"height": args.size, "width": args.size},
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
