"""What the training scripts and the conformance fixtures share."""

import json

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(texts, size):
    """A byte-level BPE laid out as CLIP's, with at most `size` tokens learnt from `texts` before the specials."""
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
        vocab_size=size, end_of_word_suffix="</w>", initial_alphabet=alphabet, special_tokens=[], show_progress=False
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


def optimizers(blocks, params, lr):
    """Muon for the blocks' matrices, AdamW for everything else: embeddings, heads, norms and biases."""
    known = {id(p) for p in blocks}
    rest = [p for p in params if id(p) not in known]
    return [
        torch.optim.Muon(blocks, lr=lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.05},
             {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}], lr=lr, betas=(0.9, 0.98),
        ),
    ]


def set_rate(opts, lr):
    for group in (g for opt in opts for g in opt.param_groups):
        group["lr"] = lr


def descend(loss, opts, params):
    """One step of all optimizers, with clipped gradients."""
    for opt in opts:
        opt.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0)
    for opt in opts:
        opt.step()
