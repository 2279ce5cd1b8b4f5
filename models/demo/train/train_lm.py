"""Trains the demo pack's generator: a small Llama-architecture model on the pack's own caption prompt.

An example is a list of scored captions, as it would stand in the prompt at some moment of a run, and the true
caption of the scene as the answer. A model that predicts the true caption from such lists has learnt the
posterior over scenes given the scores; sampling from it proposes in proportion to what the scores support.
The lists come from `demo-world lm-data` (a simulated, noisy scorer), or from runs against the real scorer.
The prompt text is read from packs/demo.toml, so training and use cannot drift apart. One generator serves pictures,
videos and sounds, each with its own system message: `--data image=… --data video=… --data sound=…`.
"""

import argparse
import itertools
import json
import math
import pathlib
import re
import time
import tomllib
from collections import Counter

import gguf
import jinja2
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from common import descend, optimizers, set_rate

START, END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The `gpt-2` pre-tokenizer of llama.cpp: ByteLevel's own pattern.
IGNORE = -100


class Prompt:
    """A modality's prompt: the pack's [prompt] with what [<modality>.prompt] has in its place."""

    def __init__(self, pack, modality):
        texts = pack["prompt"] | pack.get(modality, {}).get("prompt", {})
        self.system = texts["system"].strip()
        # minijinja's defaults: the newline after a block stays, one trailing newline goes.
        self.user = jinja2.Environment(keep_trailing_newline=False).from_string(texts["user"])

    def render(self, items, count=1):
        """Exactly what mils-optim's prompt module and llama.cpp's ChatML make of a request."""
        user = self.user.render(items=[{"label": label, "text": text} for label, text in items], count=count).strip()
        return f"{START}system\n{self.system}{END}\n{START}user\n{user}{END}\n{START}assistant\n"


def answer(text):
    return f"1. {text}"


def byte_level(bpe):
    tok = Tokenizer(bpe)
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    return tok


def build_tokenizer(texts, size):
    tok = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[START, END], show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    return tok


def extend_tokenizer(tok, texts, size):
    """Learns merges after those that are there, so that what `tok` has whole words for is cut as before.

    Byte-pair encoding goes on where it was stopped: the most frequent pair of neighbours becomes a token until the
    vocabulary has `size` or every word that occurs twice is one token.
    """
    words = Counter()
    for text in texts:
        for part in re.split(f"{re.escape(START)}|{re.escape(END)}", text):
            words.update(word for word, _ in tok.pre_tokenizer.pre_tokenize_str(part))
    pieces = {word: [t.value for t in tok.model.tokenize(word)] for word in words}
    spec = json.loads(tok.to_str())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    while len(vocab) < size:
        pairs = Counter()
        for word, parts in pieces.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] += words[word]
        best = max(pairs, key=lambda pair: (pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(list(best))
        vocab.setdefault("".join(best), len(vocab))
        for word, parts in pieces.items():
            joined, i = [], 0
            while i < len(parts):
                step = 2 if tuple(parts[i : i + 2]) == best else 1
                joined.append("".join(parts[i : i + step]))
                i += step
            pieces[word] = joined
    return Tokenizer.from_str(json.dumps(spec))


def encode(prompt, tok, path, limit=None):
    """Token ids of prompt and answer, as two lists of arrays."""
    prompts, answers = [], []
    with open(path) as f:
        lines = f.readlines()[:limit]
    for start in range(0, len(lines), 2000):
        rows = [json.loads(line) for line in lines[start : start + 2000]]
        p = tok.encode_batch([prompt.render(r["items"]) for r in rows])
        a = tok.encode_batch([answer(r["target"]) + END for r in rows])
        prompts += [np.array(e.ids, dtype=np.int16) for e in p]
        answers += [np.array(e.ids, dtype=np.int16) for e in a]
    return prompts, answers


def collate(examples):
    """Tokens and targets of like examples, padded to few lengths: every length is compiled once."""
    longest = max(len(p) + len(a) for p, a in examples)
    longest = -(-longest // 64) * 64
    x = np.zeros((len(examples), longest), dtype=np.int64)
    y = np.full((len(examples), longest), IGNORE, dtype=np.int64)
    for k, (p, a) in enumerate(examples):
        x[k, : len(p)], x[k, len(p) : len(p) + len(a)] = p, a
        y[k, len(p) - 1 : len(p) + len(a) - 1] = a
    return torch.from_numpy(x), torch.from_numpy(y)


def by_length(examples, size):
    """Batches of like length, so that little is spent on padding."""
    examples = sorted(examples, key=lambda e: len(e[0]) + len(e[1]))
    return [examples[i : i + size] for i in range(0, len(examples), size)]


def endless(examples, rng):
    """All examples in random order, again and again."""
    while True:
        for i in rng.permutation(len(examples)):
            yield examples[i]


def mixture(sets, shares, size, rng):
    """Endless batches in which every modality has its share."""
    streams = {name: endless(examples, rng) for name, examples in sets.items()}
    total = sum(shares.values())
    while True:
        # Of 40 batches each modality has what is due to it, to the nearest whole example.
        ends = np.rint(np.cumsum([size * 40 * shares[name] / total for name in streams])).astype(int)
        counts = np.diff(ends, prepend=0)
        chunk = [e for stream, n in zip(streams.values(), counts) for e in itertools.islice(stream, int(n))]
        groups = by_length(chunk, size)
        for i in rng.permutation(len(groups)):
            yield collate(groups[i])


def hidden_loss(model, body, x, y, context_weight):
    h = body(input_ids=x, use_cache=False).last_hidden_state
    where = y != IGNORE
    loss = F.cross_entropy(model.lm_head(h[where]).float(), y[where])
    if context_weight:
        # A little of the loss on the list itself: it teaches the grammar early.
        pick = torch.rand(x.shape[0], x.shape[1] - 1) < 0.15
        extra = F.cross_entropy(model.lm_head(h[:, :-1][pick]).float(), x[:, 1:][pick])
        return loss, loss + context_weight * extra
    return loss, loss


def evaluate(model, examples):
    """Loss per token of the answers, and the share of answers whose every token is the likeliest."""
    model.eval()
    total = count = exact = 0
    with torch.no_grad():
        for x, y in map(collate, by_length(examples, 50)):
            with torch.autocast("cpu", torch.bfloat16):
                h = model.model(input_ids=x).last_hidden_state
                where = y != IGNORE
                logits = model.lm_head(h[where]).float()
            total += F.cross_entropy(logits, y[where], reduction="sum").item()
            count += int(where.sum())
            hit = torch.ones_like(y, dtype=torch.bool)
            hit[where] = logits.argmax(-1) == y[where]
            exact += int(hit.all(1).sum())
    model.train()
    return total / count, exact / len(examples)


def report(model, sets, limit=None):
    figures = ((name, *evaluate(model, examples[:limit])) for name, examples in sets.items())
    return "".join(f" | {name} val loss {loss:.3f} exact {exact:.3f}" for name, loss, exact in figures)


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def tensor_names(layers):
    """Names in a Hugging Face Llama's state and in the GGUF, without the tied output."""
    yield "model.embed_tokens.weight", "token_embd.weight"
    yield "model.norm.weight", "output_norm.weight"
    for layer in range(layers):
        for theirs, ours in NAMES.items():
            yield f"model.layers.{layer}.{theirs}.weight", f"blk.{layer}.{ours}.weight"


def swap_rotation(t, heads, inner):
    """Hugging Face rotates halves, ggml's llama rotates neighbours: the rows of q and k change places.

    `inner` is how each head's rows are laid out: (2, half) on the way to ggml, (half, 2) on the way back.
    """
    return t.reshape(heads, *inner, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def is_rotated(name):
    return ".attn_q." in name or ".attn_k." in name


def llama(tok, **shape):
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=tok.get_vocab_size(), max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=tok.token_to_id(START), eos_token_id=tok.token_to_id(END), **shape,
    ))


def read_gguf(path):
    """Tokenizer and model of a file that [`write_gguf`] wrote."""
    reader = gguf.GGUFReader(str(path))

    def field(name):
        return reader.fields[name].contents()

    tokens = field("tokenizer.ggml.tokens")
    tok = byte_level(models.BPE(
        vocab={text: i for i, text in enumerate(tokens)},
        merges=[tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")],
    ))
    tok.add_special_tokens([START, END])
    heads = field("llama.attention.head_count")
    model = llama(
        tok, hidden_size=field("llama.embedding_length"), intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"), num_attention_heads=heads, num_key_value_heads=heads,
    )
    data = {t.name: np.array(t.data, dtype=np.float32) for t in reader.tensors}
    state = {}
    for theirs, ours in tensor_names(model.config.num_hidden_layers):
        t = data.pop(ours)
        if is_rotated(ours):
            t = swap_rotation(t, heads, (t.shape[0] // heads // 2, 2))
        state[theirs] = torch.from_numpy(t)
    if data:
        raise SystemExit(f"{path} holds {sorted(data)}, which this script does not know")
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return tok, model


def adopt(model, old, new):
    """The model with the tokenizer `new`: a token keeps its row; one that `old` lacks gets the mean of its pieces'."""
    rows = model.model.embed_tokens.weight.detach()
    known = old.get_vocab()
    made = torch.empty(new.get_vocab_size(), rows.shape[1])
    for text, i in new.get_vocab().items():
        ids = [known[text]] if text in known else [t.id for t in old.model.tokenize(text)]
        made[i] = rows[ids].mean(0)
    model.resize_token_embeddings(len(made), mean_resizing=False)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(made)
    model.tie_weights()
    return model


def write_gguf(model, tok, path):
    config = model.config
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_name("MILS demo generator")
    w.add_license("MIT OR Apache-2.0")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    spec = json.loads(tok.to_str())
    tokens = [None] * tok.get_vocab_size()
    for text, i in tok.get_vocab().items():
        tokens[i] = text
    types = [gguf.TokenType.CONTROL if t in (START, END) else gguf.TokenType.NORMAL for t in tokens]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(types)
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    w.add_bos_token_id(tok.token_to_id(START))
    w.add_eos_token_id(tok.token_to_id(END))
    w.add_pad_token_id(tok.token_to_id(END))
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)

    heads = config.num_attention_heads
    state = model.state_dict()
    for theirs, ours in tensor_names(config.num_hidden_layers):
        t = state[theirs].detach().float().numpy()
        if is_rotated(ours):
            t = swap_rotation(t, heads, (2, t.shape[0] // heads // 2))
        w.add_tensor(ours, t if t.ndim == 1 else t.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def named(text):
    """`image=path` as a pair."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form image=value")
    return name, value


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True, action="append", type=named, metavar="MODALITY=FILE",
                    help="examples from demo-world lm-data; the modality is the section of the pack's file with its "
                    "prompt; once for each")
    ap.add_argument("--val", required=True, action="append", type=named, metavar="MODALITY=FILE")
    ap.add_argument("--share", default=[], action="append", type=named, metavar="MODALITY=WEIGHT",
                    help="how much of the training a modality gets, against the others' (default: 1)")
    ap.add_argument("--pack", default=str(pathlib.Path(__file__).parent.parent.parent / "packs" / "demo.toml"))
    ap.add_argument("--out", required=True, help="folder for generator.gguf, tokenizer.json and train.pt")
    ap.add_argument("--minutes", type=float, default=40)
    ap.add_argument("--steps", type=int, default=0, help="a step budget instead of --minutes: reproducible")
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--vocabulary", type=int, default=1280, help="tokens at the most")
    ap.add_argument("--width", type=int, default=192)
    ap.add_argument("--layers", type=int, default=5)
    ap.add_argument("--heads", type=int, default=4)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--list-loss", type=float, default=0.3, help="weight of the loss on the list itself at the start")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--init", type=pathlib.Path,
                    help="continue from this generator.gguf, or from a folder's train.pt and tokenizer.json")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    args.data, args.val = dict(args.data), dict(args.val)
    args.share = {name: 1.0 for name in args.data} | {name: float(weight) for name, weight in args.share}
    if set(args.share) != set(args.data):
        ap.error("--share names a modality that --data does not")
    return args


def sample_texts(prompts, paths):
    """What a tokenizer learns from: as many prompts and answers of each modality."""
    for name, path in paths.items():
        with open(path) as f:
            for line in itertools.islice(f, 4000):
                row = json.loads(line)
                yield prompts[name].render(row["items"])
                yield answer(row["target"])


def start(args, prompts):
    """Tokenizer and model to begin with."""
    shape = dict(
        hidden_size=args.width, intermediate_size=args.width * 8 // 3 // 32 * 32, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, num_key_value_heads=args.heads,
    )
    texts = sample_texts(prompts, args.data)
    if not args.init:
        tok = build_tokenizer(texts, args.vocabulary)
        return tok, llama(tok, **shape)
    if args.init.suffix == ".gguf":
        old, model = read_gguf(args.init)
    else:
        old = Tokenizer.from_file(str(args.init / "tokenizer.json"))
        model = llama(old, **shape)
        model.load_state_dict(torch.load(args.init / "train.pt"))
    tok = extend_tokenizer(old, texts, args.vocabulary)
    return tok, adopt(model, old, tok)


def save(model, tok, out):
    torch.save(model.state_dict(), out / "train.pt")
    write_gguf(model, tok, out / "generator.gguf")


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64
    rng = np.random.default_rng(args.seed)
    pack = tomllib.loads(pathlib.Path(args.pack).read_text())
    prompts = {name: Prompt(pack, name) for name in args.data | args.val}
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    tok, model = start(args, prompts)
    tok.save(str(out / "tokenizer.json"))
    print(f"vocabulary {tok.get_vocab_size()}, {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters")
    data = {name: list(zip(*encode(prompts[name], tok, path))) for name, path in args.data.items()}
    val = {name: list(zip(*encode(prompts[name], tok, path, 1000))) for name, path in args.val.items()}
    for name, examples in data.items():
        lengths = [len(p) + len(a) for p, a in examples]
        print(f"{name}: {len(examples)} examples of {np.mean(lengths):.0f} tokens (max {max(lengths)})", flush=True)
        if max(lengths) > model.config.max_position_embeddings:
            raise SystemExit(f"an example of {name} is longer than the context")
    print(f"before{report(model, val)}", flush=True)
    params = list(model.parameters())
    body = torch.compile(model.model, dynamic=False)
    opts = optimizers([p for p in model.model.layers.parameters() if p.ndim == 2], params, args.lr)
    begin, mean, seen = time.time(), 0.0, 0
    for step, (x, y) in enumerate(mixture(data, args.share, args.batch, rng)):
        done = step / args.steps if args.steps else (time.time() - begin) / (args.minutes * 60)
        if step and step % 50 == 0:
            note = ""
            if step % 250 == 0:
                note = report(model, val, 500)
            rate = seen / (time.time() - begin)
            print(f"step {step} done {done:.2f} loss {mean / 50:.3f} {rate:.0f}/s{note}", flush=True)
            mean = 0.0
            save(model, tok, out)
        if done >= 1:
            break
        set_rate(opts, args.lr * min(1, (step + 1) / 100) * (0.49 * (1 + math.cos(math.pi * done)) + 0.02))
        with torch.autocast("cpu", torch.bfloat16):
            loss, full = hidden_loss(model, body, x, y, args.list_loss * max(0.0, 1 - 3 * done))
        descend(full, opts, params)
        seen += len(x)
        mean += loss.item()
    print(f"final{report(model, val)} after {step} steps, {seen} examples, {time.time() - begin:.0f} s")
    save(model, tok, out)


if __name__ == "__main__":
    main()
