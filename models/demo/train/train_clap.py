"""Trains the demo pack's CLAP: a small ClapModel that scores captions of recordings of ten sounds, one or two at once.

Input are recordings in ESC-10's layout, of which only `--folds` are looked at, and captions from
`demo-world sound texts` (see ../README.md). The output folder is an ordinary Hugging Face CLAP checkpoint: config.json,
preprocessor_config.json, tokenizer.json, model.safetensors (f16).

Every sound is given a direction of the shared space that is at right angles to all others, and what names or holds two
sounds is to lie between theirs: one right sound of two has a cosine of 0.71, so that a search can climb from a sound to a
mixture. Since both towers aim at the same fixed places, they do not need each other:
  - The text tower learns captions, and that what is no sentence lies apart.
  - The audio tower learns recordings. There are only some hundred, so that no two examples are alike: recordings are
    mixed, played faster or slower, shifted in time and pitch, filtered, made louder or quieter, covered with noise, and
    holes are cut into their spectrograms. Since power spectra of unrelated sounds add up, all that is done on
    spectrograms, which are computed once. The weights that are kept are an average over steps.
"""

import argparse
import copy
import itertools
import json
import math
import pathlib
import time

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from common import descend, optimizers, set_rate
from two_stage import soft_contrast

SOUNDS = 28  # of which recordings have the first ten
RECORDED = 10
MAX_TOKENS = 48
BOS, PAD, EOS, UNK = "<s>", "<pad>", "</s>", "<unk>"
# The features: as ClapFeatureExtractor's of the hub, but of 6 seconds, and with longer steps.
FEATURES = {
    "feature_size": 64, "sampling_rate": 48000, "hop_length": 1152, "max_length_s": 6, "fft_window_size": 2048,
    "padding": "repeat", "truncation": "rand_trunc", "frequency_min": 50, "frequency_max": 14000,
}
SPEEDS = [1, 0.8, 0.86, 0.93, 1.08, 1.16, 1.25]


def decibels(power):
    return 10 * torch.log10(power.clamp_min(1e-10))


class Features:
    """Mel power spectra of sounds, [frames, bands]: what ClapFeatureExtractor makes, before the logarithm."""

    def __init__(self):
        self.extractor = ClapFeatureExtractor(**FEATURES)
        self.bank = torch.from_numpy(self.extractor.mel_filters_slaney).float()
        self.window = torch.hann_window(self.extractor.fft_window_size, periodic=True)

    def __call__(self, samples):
        x = torch.from_numpy(np.resize(samples, self.extractor.nb_max_samples))
        s = torch.stft(
            x, self.extractor.fft_window_size, self.extractor.hop_length, window=self.window, return_complex=True
        )
        return (s.abs() ** 2).T @ self.bank


def read(path, speed=1.0):
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(1), rate * speed, FEATURES["sampling_rate"]).astype(np.float32)


def root_mean_square(samples):
    return float(np.sqrt((samples.astype(np.float64) ** 2).mean()))


class Recordings:
    """Spectra of all recordings of some folds at every speed, [recordings, speeds, frames, bands], each as loud as 1."""

    def __init__(self, root, folds):
        paths = [p for p in sorted(pathlib.Path(root).glob("*/*.ogg")) if int(p.name[0]) in folds]
        if not paths:
            raise SystemExit(f"{root} has no recordings of folds {folds}")
        features = Features()
        self.paths = paths
        self.sounds = np.array([int(p.parent.name[:3]) - 1 for p in paths])
        self.spectra = torch.stack([
            torch.stack([features(x) / root_mean_square(x) ** 2 for x in (read(p, s) for s in SPEEDS)]) for p in paths
        ])
        self.by_sound = [np.flatnonzero(self.sounds == s) for s in range(RECORDED)]


def check_set(root, fold, mixtures=120):
    """Spectra in decibels of a fold's recordings and of mixtures of two at equal loudness, with their sounds."""
    paths = [p for p in sorted(pathlib.Path(root).glob("*/*.ogg")) if int(p.name[0]) == fold]
    sounds = [int(p.parent.name[:3]) - 1 for p in paths]
    waves, features, rng = [read(p) for p in paths], Features(), np.random.default_rng(fold)
    spectra, named = [decibels(features(x)) for x in waves], [(s,) for s in sounds]
    while len(spectra) < len(paths) + mixtures:
        a, b = rng.choice(len(paths), 2, replace=False)
        if sounds[a] == sounds[b]:
            continue
        length = max(len(waves[a]), len(waves[b]))
        mixed = sum(np.resize(waves[i] / root_mean_square(waves[i]), length) for i in (a, b))
        mixed *= min(0.1 / root_mean_square(mixed), 0.9 / np.abs(mixed).max())
        spectra.append(decibels(features(mixed)))
        named.append(tuple(sorted((sounds[a], sounds[b]))))
    return torch.stack(spectra)[:, None], named


class Augment:
    """Draws examples: spectra in decibels, [batch, 1, frames, bands], and the sets of sounds in them."""

    def __init__(self, recordings, rng, single):
        self.recordings, self.rng, self.single = recordings, rng, single
        self.frames, self.bands = recordings.spectra.shape[2:]

    def between(self, low, high):
        return float(self.rng.uniform(low, high))

    def source(self, sound):
        """One recording of a sound: at any speed, from any time, its pitch shifted by a band or two, filtered."""
        r, rng = self.recordings, self.rng
        x = r.spectra[rng.choice(r.by_sound[sound]), rng.integers(len(SPEEDS))]
        if rng.random() < 0.8:
            x = torch.roll(x, int(rng.integers(self.frames)), 0)
        shift = int(rng.integers(-2, 3)) if rng.random() < 0.5 else 0
        if shift > 0:
            x = torch.cat([x[:, :1].expand(-1, shift), x[:, :-shift]], 1)
        elif shift < 0:
            x = torch.cat([x[:, -shift:], x[:, -1:].expand(-1, -shift)], 1)
        knots = torch.from_numpy(rng.normal(0, 4, (1, 1, 6))).float()
        return x * 10 ** (F.interpolate(knots, self.bands, mode="linear", align_corners=True)[0] / 10)

    def holes(self, x):
        rng = self.rng
        for _ in range(2):
            for size, most in ((self.frames, 40), (self.bands, 10)):
                if rng.random() < 0.7:
                    n = int(rng.integers(1, most))
                    at = int(rng.integers(size - n))
                    hole = x[at : at + n] if size == self.frames else x[:, at : at + n]
                    hole[:] = x.min() if rng.random() < 0.5 else x.mean()
        return x

    def example(self):
        rng = self.rng
        kind = rng.random()
        sounds = rng.choice(RECORDED, 1 if kind < self.single else 2 if kind < 0.95 else 3, replace=False)
        x = torch.zeros(self.frames, self.bands)
        for sound in sounds:
            one = self.source(sound)
            if rng.random() < 0.2:
                one = one + self.source(sound) * 10 ** (self.between(-10, 3) / 10)
            x = x + one * 10 ** (self.between(-6, 6) / 10)
        x = x * 10 ** (self.between(-50, -6) / 10)
        tilt = torch.linspace(0, self.between(-20, 5), self.bands)
        noise = 10 ** ((self.between(-110, -45) + 12 + tilt) / 10) * torch.empty_like(x).exponential_()
        return self.holes(decibels(x + noise)), tuple(sorted(int(s) for s in sounds))

    def batch(self, size):
        spectra, sets = zip(*[self.example() for _ in range(size)])
        return torch.stack(spectra)[:, None], sets


def roberta_tokenizer(texts, size):
    """A byte-level BPE laid out as RoBERTa's, with at most `size` tokens."""
    tok = Tokenizer(models.BPE(unk_token=UNK))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[BOS, PAD, EOS, UNK], show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.RobertaProcessing(
        (EOS, tok.token_to_id(EOS)), (BOS, tok.token_to_id(BOS)), trim_offsets=True, add_prefix_space=False
    )
    return tok


def embed_texts(model, tok, texts):
    """Unit rows."""
    ids = [e.ids[:MAX_TOKENS] for e in tok.encode_batch(texts)]
    longest = -(-max(len(i) for i in ids) // 4) * 4
    pad = tok.token_to_id(PAD)
    rows = torch.tensor([i + [pad] * (longest - len(i)) for i in ids])
    pooled = model.text_model(input_ids=rows, attention_mask=(rows != pad).long()).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1)


def stated(sets, garbled=None):
    """Unit rows whose dot products are what captions have in common: the sounds, and that it is no sentence."""
    out = torch.zeros(len(sets), SOUNDS + 1)
    for i, sounds in enumerate(sets):
        out[i, list(sounds)] = 1.0
        out[i, SOUNDS] = float(bool(garbled and garbled[i]))
    return F.normalize(out, dim=1)


def directions(width):
    """The fixed directions of the sounds, and of what is no sentence: unit rows at right angles."""
    drawn = torch.randn(width, SOUNDS + 1, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(drawn).Q.T


def rate(step, done):
    return min(1.0, (step + 1) / 100) * (0.49 * (1 + math.cos(math.pi * min(1.0, done))) + 0.02)


def train_text(model, tok, rows, args, rng):
    """A caption comes to stand where what it states stands."""
    params = [*model.text_model.parameters(), *model.text_projection.parameters()]
    opts = optimizers([p for p in model.text_model.encoder.parameters() if p.ndim == 2], params, args.text_lr)
    places = directions(args.projection)
    begin, step, total = time.time(), 0, np.zeros(2)
    while step < args.text_steps:
        done = step / args.text_steps
        set_rate(opts, args.text_lr * rate(step, done))
        picked = [rows[i] for i in rng.integers(len(rows), size=96)]
        v = stated([r["sounds"] for r in picked], [r["garbled"] for r in picked])
        t = embed_texts(model, tok, [r["text"] for r in picked])
        pull = (1 - (t * (v @ places)).sum(1)).mean()
        contrast = soft_contrast(t @ (v @ places).T, v @ v.T, 15.0)
        descend(contrast + 5 * pull, opts, params)
        step += 1
        total += [contrast.item(), pull.item()]
        if step % 100 == 0:
            c, p = total / 100
            print(f"text {step} done {done:.2f} contrast {c:.4f} cosine {1 - p:.4f}", flush=True)
            total[:] = 0
    print(f"text tower: {step} steps, {time.time() - begin:.0f} s", flush=True)


def check_text(model, tok, rows):
    """Prints cosines of captions that it was not trained on, by what they have in common."""
    with torch.no_grad():
        t = embed_texts(model, tok, [r["text"] for r in rows])
    truth = stated([r["sounds"] for r in rows], [r["garbled"] for r in rows])
    truth, similarity = truth @ truth.T, t @ t.T
    apart = ~torch.eye(len(rows), dtype=bool)
    for value in sorted({round(float(v), 2) for v in truth.unique()}):
        at = ((truth - value).abs() < 0.01) & apart
        if at.sum() > 20:
            s = similarity[at]
            print(f"wanted {value:.2f}: cosine {s.mean():.3f}, from {s.min():.3f} to {s.max():.3f}", flush=True)


class Audio(torch.nn.Module):
    """The audio tower, its projection, and a head that is dropped after training: which sounds are there."""

    def __init__(self, model):
        super().__init__()
        self.tower, self.projection = model.audio_model, model.audio_projection
        self.head = torch.nn.Linear(model.config.audio_config.hidden_size, RECORDED)

    def forward(self, x):
        pooled = self.tower(x).pooler_output
        return self.projection(pooled), self.head(pooled)

    def prepare(self, draw):
        """The input's norm as examples have it, and patches as their principal components: nothing that needs learning."""
        encoder = self.tower.audio_encoder
        norm, patches = encoder.batch_norm, encoder.patch_embed.proj
        with torch.no_grad():
            x = torch.cat([draw()[0] for _ in range(8)])
            norm.running_mean.copy_(x.mean((0, 1, 2)))
            norm.running_var.copy_(x.var((0, 1, 2)))
            z = encoder.reshape_mel2img((x - norm.running_mean) / (norm.running_var + norm.eps).sqrt())
            side = patches.kernel_size[0]
            z = F.unfold(z, side, stride=side).transpose(1, 2).reshape(-1, side * side)
            values, vectors = torch.linalg.eigh(torch.cov(z.T))
            kept = min(len(patches.weight), side * side)
            rows = 0.5 * (vectors[:, -kept:] / values[-kept:].clamp_min(1e-3).sqrt()).T
            patches.weight[:kept] = rows.reshape(kept, 1, side, side)


def evaluate(audio, held, sets, rows):
    """Of recordings of one sound, the share whose nearest single caption is right, and of mixtures the share of which
    both sounds are in the nearest caption of all and whose two nearest single ones are right."""
    spectra, named = held
    audio.eval()
    with torch.no_grad():
        e = torch.cat([F.normalize(audio(x)[0].float(), dim=-1) for x in spectra.split(40)])
    audio.train()
    captions = [i for i, s in enumerate(sets) if len(s) < 3]
    singles = [sets.index((s,)) for s in range(RECORDED)]
    best = [sets[captions[i]] for i in (e @ rows[captions].T).argmax(1)]
    scores = e @ rows[singles].T
    one = [i for i, s in enumerate(named) if len(s) == 1]
    two = [i for i, s in enumerate(named) if len(s) == 2]
    share = lambda hits: sum(hits) / max(1, len(hits))
    right = share([int(scores[i].argmax()) == named[i][0] for i in one])
    exact = share([best[i] == named[i] for i in one])
    both = share([best[i] == named[i] for i in two])
    nearest = share([set(scores[i].topk(2).indices.tolist()) == set(named[i]) for i in two])
    return f"sound {right:.3f} (alone {exact:.3f}) mixtures: both named {both:.3f}, two nearest {nearest:.3f}"


def train_audio(model, recordings, held, args, rng):
    """A recording comes to stand where its captions stand. Leaves the averaged weights in the model."""
    sets = [s for n in (1, 2, 3) for s in itertools.combinations(range(RECORDED), n)]
    sets += [(s,) for s in range(RECORDED, SOUNDS)]
    rows = stated(sets) @ directions(args.projection)
    draw, audio = Augment(recordings, rng, args.single), Audio(model)
    if not args.init:
        audio.prepare(lambda: draw.batch(args.batch))
    average = copy.deepcopy(audio)
    params = list(audio.parameters())
    blocks = [p for p in audio.tower.audio_encoder.layers.parameters() if p.ndim == 2 and min(p.shape) > 8]
    opts = optimizers(blocks, params, args.lr)
    truth, index = stated(sets), {s: i for i, s in enumerate(sets)}
    captions = [i for i, s in enumerate(sets) if len(s) < 3]
    begin, step, total = time.time(), 0, np.zeros(3)
    audio.train()
    while step < args.steps:
        done = step / args.steps
        set_rate(opts, args.lr * rate(step, done))
        x, drawn = draw.batch(args.batch)
        y = torch.tensor([index[s] for s in drawn])
        with torch.autocast("cpu", torch.bfloat16):
            e, heard = audio(x)
        e = F.normalize(e.float(), dim=-1)
        contrast = soft_contrast(e @ rows[captions].T, truth[y] @ truth[captions].T, 15.0)
        pull = (1 - (e * rows[y]).sum(1)).mean()
        hint = F.binary_cross_entropy_with_logits(heard.float(), (truth[y, :RECORDED] > 0).float())
        descend(contrast + 2 * pull + hint, opts, params)
        step += 1
        total += [contrast.item(), pull.item(), hint.item()]
        keep = min(0.998, 1 - 1 / (step / 10 + 1))
        with torch.no_grad():
            for mean, now in zip(average.state_dict().values(), audio.state_dict().values()):
                mean.lerp_(now, 1 - keep) if mean.is_floating_point() else mean.copy_(now)
        if step % 100 == 0:
            m = total / 100
            note = " | " + evaluate(average, held, sets, rows) if held and step % 300 == 0 else ""
            speed = step * args.batch / (time.time() - begin)
            print(
                f"step {step} done {done:.2f} contrast {m[0]:.3f} cosine {1 - m[1]:.3f} sounds {m[2]:.3f} "
                f"{speed:.0f}/s{note}", flush=True,
            )
            total[:] = 0
    audio.load_state_dict(average.state_dict())
    note = evaluate(audio, held, sets, rows) if held else ""
    print(f"audio tower: {step} steps, {time.time() - begin:.0f} s {note}", flush=True)


def build(tok, args):
    widths = [args.width * 2**i for i in range(len(args.depths))]
    return ClapModel(ClapConfig(
        audio_config=dict(
            spec_size=128, num_mel_bins=FEATURES["feature_size"], patch_size=8, patch_stride=[8, 8], window_size=4,
            patch_embeds_hidden_size=args.width, hidden_size=widths[-1], depths=args.depths,
            num_hidden_layers=len(args.depths), num_attention_heads=[max(1, w // 16) for w in widths],
            mlp_ratio=args.expand, hidden_dropout_prob=0.1, drop_path_rate=0.1,
        ),
        text_config=dict(
            vocab_size=tok.get_vocab_size(), hidden_size=args.text_width, num_hidden_layers=2,
            num_attention_heads=args.text_width // 32, intermediate_size=3 * args.text_width,
            max_position_embeddings=MAX_TOKENS + 2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            bos_token_id=tok.token_to_id(BOS), pad_token_id=tok.token_to_id(PAD), eos_token_id=tok.token_to_id(EOS),
        ),
        projection_dim=args.projection,
    ))


def save(model, tok, out):
    out = pathlib.Path(out)
    half = ClapModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(out)
    tok.save(str(out / "tokenizer.json"))
    ClapFeatureExtractor(**FEATURES).save_pretrained(out)
    spec = json.loads((out / "preprocessor_config.json").read_text())
    (out / "preprocessor_config.json").write_text(json.dumps(spec, indent=2, sort_keys=True) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--recordings", required=True, help="ESC-10: a folder a sound, the fold first in a file's name")
    ap.add_argument("--folds", default="1,2,3,4", help="what is trained on; fold 5 is what the benchmark holds out")
    ap.add_argument("--check", type=int, help="a fold that is not trained on, for figures on the way")
    ap.add_argument("--texts", required=True, help="captions from `demo-world sound texts`")
    ap.add_argument("--out", required=True)
    ap.add_argument("--init", help="train this checkpoint further")
    ap.add_argument("--text-from", help="take tokenizer and text tower of this checkpoint")
    ap.add_argument("--steps", type=int, default=3000, help="of the audio tower; 0 leaves it as it is")
    ap.add_argument("--text-steps", type=int, default=2500, help="of the text tower; 0 leaves it as it is")
    ap.add_argument("--single", type=float, default=0.4, help="share of examples that are of one sound")
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--width", type=int, default=32)
    ap.add_argument("--depths", type=lambda s: [int(n) for n in s.split(",")], default=[2, 2, 2])
    ap.add_argument("--expand", type=float, default=3.0, help="width of an MLP over the width of its layer")
    ap.add_argument("--text-width", type=int, default=64)
    ap.add_argument("--projection", type=int, default=64)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--text-lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(args.seed)
    folds = {int(f) for f in args.folds.split(",")}
    if args.check in folds:
        raise SystemExit(f"fold {args.check} is trained on: it tells nothing")
    with open(args.texts) as f:
        rows = [json.loads(line) for line in f]
    given = args.text_from or args.init
    if given:
        tok = Tokenizer.from_file(str(pathlib.Path(given) / "tokenizer.json"))
    else:
        tok = roberta_tokenizer([r["text"] for r in rows if not r["garbled"]], 700)
    if args.init:
        model = ClapModel.from_pretrained(args.init, dtype=torch.float32)
        args.projection = model.config.projection_dim
    else:
        model = build(tok, args)
    if args.text_from:
        other = ClapModel.from_pretrained(args.text_from, dtype=torch.float32)
        model.text_model.load_state_dict(other.text_model.state_dict())
        model.text_projection.load_state_dict(other.text_projection.state_dict())
    model.logit_scale_a.data.fill_(math.log(15.0))
    model.logit_scale_t.data.fill_(math.log(15.0))
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{len(rows)} captions, {tok.get_vocab_size()} tokens, {size:.2f}M parameters", flush=True)
    model.train()
    if args.text_steps:
        train_text(model, tok, rows[400:], args, rng)
        save(model, tok, args.out)
    model.eval()
    check_text(model, tok, rows[:400])
    if args.steps:
        begin = time.time()
        recordings = Recordings(args.recordings, folds)
        held = check_set(args.recordings, args.check) if args.check else None
        print(f"{len(recordings.paths)} recordings, {time.time() - begin:.0f} s", flush=True)
        train_audio(model, recordings, held, args, rng)
    save(model, tok, args.out)


if __name__ == "__main__":
    main()
