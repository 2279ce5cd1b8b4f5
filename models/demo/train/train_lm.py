"""Trains the demo pack's generator: a small Llama-architecture model on the pack's own caption prompt.

An example is a list of scored captions, as it would stand in the prompt at some moment of a run, and the true
caption of the scene as the answer. A model that predicts the true caption from such lists has learnt the
posterior over scenes given the scores; sampling from it proposes in proportion to what the scores support.
The lists come from `demo-world lm-data` (a simulated, noisy scorer), or from runs against the real scorer.
The prompt text is read from packs/demo.toml, so training and use cannot drift apart.
"""

import argparse
import json
import math
import pathlib
import time
import tomllib

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


def render(pack, template, items, count=1):
    """Exactly what mils-optim's prompt module and llama.cpp's ChatML make of a request."""
    user = template.render(items=[{"label": label, "text": text} for label, text in items], count=count)
    system = pack["prompt"]["system"]
    return (
        f"{START}system\n{system.strip()}{END}\n{START}user\n{user.strip()}{END}\n{START}assistant\n"
    )


def answer(text):
    return f"1. {text}"


def build_tokenizer(texts, size=1024):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[START, END], show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    return tok


def encode(pack, template, tok, path, limit=None):
    """Token ids of prompt and answer, as two lists of arrays."""
    prompts, answers = [], []
    with open(path) as f:
        lines = f.readlines()[:limit]
    for start in range(0, len(lines), 2000):
        rows = [json.loads(line) for line in lines[start : start + 2000]]
        p = tok.encode_batch([render(pack, template, r["items"]) for r in rows])
        a = tok.encode_batch([answer(r["target"]) + END for r in rows])
        prompts += [np.array(e.ids, dtype=np.int16) for e in p]
        answers += [np.array(e.ids, dtype=np.int16) for e in a]
    return prompts, answers


def batches(prompts, answers, size, rng):
    """Full batches of like length, so that little is spent on padding and few shapes occur, in random order."""
    order = rng.permutation(len(prompts))
    for chunk in np.array_split(order, max(1, len(order) // (size * 40))):
        chunk = sorted(chunk, key=lambda i: len(prompts[i]) + len(answers[i]))
        groups = [chunk[i : i + size] for i in range(0, len(chunk) - size + 1, size)]
        rng.shuffle(groups) if len(groups) > 1 else None
        for group in groups:
            longest = max(len(prompts[i]) + len(answers[i]) for i in group)
            longest = -(-longest // 32) * 32
            x = np.zeros((len(group), longest), dtype=np.int64)
            y = np.full((len(group), longest), IGNORE, dtype=np.int64)
            for k, i in enumerate(group):
                p, a = prompts[i], answers[i]
                x[k, : len(p)], x[k, len(p) : len(p) + len(a)] = p, a
                y[k, len(p) - 1 : len(p) + len(a) - 1] = a
            yield torch.from_numpy(x), torch.from_numpy(y)


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


def evaluate(model, prompts, answers):
    model.eval()
    total = count = exact = rows = 0
    with torch.no_grad():
        for x, y in batches(prompts, answers, 50, np.random.default_rng(0)):
            rows += len(x)
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
    return total / count, exact / rows


def write_gguf(model, tok, config, path):
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

    def permute(t):
        # Hugging Face rotates halves, ggml's llama rotates neighbours: the rows of q and k change places.
        return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)

    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }
    state = {k: v.detach().float().numpy() for k, v in model.state_dict().items()}
    w.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].astype(np.float16))
    w.add_tensor("output_norm.weight", state["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            t = state[f"model.layers.{layer}.{theirs}.weight"]
            if theirs.endswith(("q_proj", "k_proj")):
                t = permute(t)
            w.add_tensor(f"blk.{layer}.{ours}.weight", t if t.ndim == 1 else t.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True, help="examples from demo-world lm-data")
    ap.add_argument("--val", required=True)
    ap.add_argument("--pack", default=str(pathlib.Path(__file__).parent.parent.parent / "packs" / "demo.toml"))
    ap.add_argument("--out", required=True, help="folder for generator.gguf, tokenizer.json and train.pt")
    ap.add_argument("--minutes", type=float, default=40)
    ap.add_argument("--steps", type=int, default=0, help="a step budget instead of --minutes: reproducible")
    ap.add_argument("--batch", type=int, default=64)
    ap.add_argument("--width", type=int, default=192)
    ap.add_argument("--layers", type=int, default=5)
    ap.add_argument("--heads", type=int, default=4)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--init", help="continue from this folder's train.pt and tokenizer.json")
    ap.add_argument("--threads", type=int, default=1)
    args = ap.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64
    rng = np.random.default_rng(args.seed)
    pack = tomllib.loads(pathlib.Path(args.pack).read_text())
    # minijinja's defaults: the newline after a block stays, one trailing newline goes.
    template = jinja2.Environment(keep_trailing_newline=False).from_string(pack["prompt"]["user"])
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)

    if args.init:
        tok = Tokenizer.from_file(str(pathlib.Path(args.init) / "tokenizer.json"))
    else:
        with open(args.data) as f:
            rows = [json.loads(line) for line, _ in zip(f, range(4000))]
        tok = build_tokenizer([t for r in rows for t in (render(pack, template, r["items"]), answer(r["target"]))])
    tok.save(str(out / "tokenizer.json"))
    prompts, answers = encode(pack, template, tok, args.data)
    val = encode(pack, template, tok, args.val, 1000)
    config = LlamaConfig(
        vocab_size=tok.get_vocab_size(), hidden_size=args.width, intermediate_size=args.width * 8 // 3 // 32 * 32,
        num_hidden_layers=args.layers, num_attention_heads=args.heads, num_key_value_heads=args.heads,
        max_position_embeddings=1024, tie_word_embeddings=True, rms_norm_eps=1e-5,
        bos_token_id=tok.token_to_id(START), eos_token_id=tok.token_to_id(END),
    )
    model = LlamaForCausalLM(config)
    if args.init:
        model.load_state_dict(torch.load(pathlib.Path(args.init) / "train.pt"))
    lengths = [len(p) for p in prompts]
    print(
        f"{len(prompts)} examples, prompt {np.mean(lengths):.0f} tokens (max {max(lengths)}), vocabulary "
        f"{tok.get_vocab_size()}, {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters", flush=True,
    )
    params = list(model.parameters())
    body = torch.compile(model.model, dynamic=False)
    opts = optimizers([p for p in model.model.layers.parameters() if p.ndim == 2], params, args.lr)
    begin, step, mean, seen = time.time(), 0, 0.0, 0
    finished = False
    while not finished:
        for x, y in batches(prompts, answers, args.batch, rng):
            done = step / args.steps if args.steps else (time.time() - begin) / (args.minutes * 60)
            if done >= 1:
                finished = True
                break
            set_rate(opts, args.lr * min(1, (step + 1) / 100) * (0.49 * (1 + math.cos(math.pi * done)) + 0.02))
            with torch.autocast("cpu", torch.bfloat16):
                loss, full = hidden_loss(model, body, x, y, 0.3 * max(0.0, 1 - 3 * done))
            descend(full, opts, params)
            step += 1
            seen += len(x)
            mean += loss.item()
            if step % 50 == 0:
                note = ""
                if step % 250 == 0:
                    note = " val loss %.3f exact %.3f" % evaluate(model, *val)
                    torch.save(model.state_dict(), out / "train.pt")
                print(
                    f"step {step} done {done:.2f} loss {mean / 50:.3f} {seen / (time.time() - begin):.0f}/s{note}",
                    flush=True,
                )
                mean = 0.0
    loss, exact = evaluate(model, *val)
    print(f"final val loss {loss:.3f} exact {exact:.3f} after {step} steps, {seen} examples, {time.time() - begin:.0f} s")
    torch.save(model.state_dict(), out / "train.pt")
    write_gguf(model, tok, config, out / "generator.gguf")


if __name__ == "__main__":
    main()
