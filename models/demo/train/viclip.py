"""ViCLIP (arXiv 2307.06942), small: CLIP's image tower over the patches of all frames at once, CLIP's text tower with
32 positions, and the names of the published file."""

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
HEAD = 64


class Block(nn.Module):
    def __init__(self, width, mlp, layers):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        # Apart, for the optimizer makes every matrix orthogonal by itself.
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.c_fc, self.c_proj = nn.Linear(width, mlp), nn.Linear(mlp, width)
        for layer in (self.q, self.k, self.v, self.c_fc):
            nn.init.normal_(layer.weight, std=width**-0.5)
        for layer in (self.out, self.c_proj):
            nn.init.normal_(layer.weight, std=(2 * layers * width) ** -0.5)
        for layer in (self.q, self.k, self.v, self.out, self.c_fc, self.c_proj):
            nn.init.zeros_(layer.bias)

    def forward(self, x, causal):
        h = self.ln_1(x)
        q, k, v = (m(h).unflatten(-1, (-1, HEAD)).transpose(1, 2) for m in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.out(h.transpose(1, 2).flatten(2))
        h = self.c_fc(self.ln_2(x))
        return x + self.c_proj(h * torch.sigmoid(1.702 * h))

    def state(self):
        qkv = (self.q, self.k, self.v)
        return {
            "ln_1.weight": self.ln_1.weight, "ln_1.bias": self.ln_1.bias,
            "attn.in_proj_weight": torch.cat([m.weight for m in qkv]),
            "attn.in_proj_bias": torch.cat([m.bias for m in qkv]),
            "attn.out_proj.weight": self.out.weight, "attn.out_proj.bias": self.out.bias,
            "ln_2.weight": self.ln_2.weight, "ln_2.bias": self.ln_2.bias,
            "mlp.c_fc.weight": self.c_fc.weight, "mlp.c_fc.bias": self.c_fc.bias,
            "mlp.c_proj.weight": self.c_proj.weight, "mlp.c_proj.bias": self.c_proj.bias,
        }

    def load(self, state):
        own = self.state()
        with torch.no_grad():
            for name in own:
                if name.startswith("attn.in_proj"):
                    kind = name.removeprefix("attn.in_proj_")
                    for m, part in zip((self.q, self.k, self.v), state[name].chunk(3)):
                        getattr(m, kind).copy_(part)
                else:
                    own[name].copy_(state[name])


class Tower(nn.Module):
    """What both towers have: blocks, and the names of what is around them."""

    def __init__(self, width, mlp, layers):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, mlp, layers) for _ in range(layers))

    def state(self):
        out = {}
        for name, parameter in self.named_parameters():
            if not name.startswith("blocks."):
                out[name] = parameter
        for i, block in enumerate(self.blocks):
            out |= {f"transformer.resblocks.{i}.{name}": tensor for name, tensor in block.state().items()}
        return out

    def load(self, state):
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if not name.startswith("blocks."):
                    parameter.copy_(state[name])
        for i, block in enumerate(self.blocks):
            prefix = f"transformer.resblocks.{i}."
            block.load({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})

    def matrices(self):
        return [p for p in self.blocks.parameters() if p.ndim == 2]


class Vision(Tower):
    """Frames, u8 [batch, frames, height, width, 3], to embeddings [batch, dim]; also all tokens, the class token first
    and then frame by frame, and the class token before its projection."""

    def __init__(self, width, mlp, layers, dim, size, patch, frames):
        super().__init__(width, mlp, layers)
        self.patch = patch
        places = (size // patch) ** 2
        self.conv1 = nn.Module()
        self.conv1.weight = nn.Parameter(torch.randn(width, 3, 1, patch, patch) * (3 * patch * patch) ** -0.5)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        # Loud enough to be heard beside what lies on the patches: with a quarter of it, left was not told from right.
        loud = 4 * width**-0.5
        self.positional_embedding = nn.Parameter(torch.randn(places + 1, width) * loud)
        self.temporal_positional_embedding = nn.Parameter(torch.randn(1, frames, width) * loud)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, dim) * width**-0.5)

    def forward(self, frames):
        x = (frames.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        # [batch, frames, rows, y, columns, x, channels] to [batch, frames, places, channels and pixels]
        p = self.patch
        x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 1, 2, 4, 6, 3, 5).flatten(4).flatten(2, 3)
        x = F.linear(x, self.conv1.weight.flatten(1))
        x = x + self.positional_embedding[1:] + self.temporal_positional_embedding[0, :, None]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x.flatten(1, 2)], 1))
        for block in self.blocks:
            x = block(x, False)
        pooled = self.ln_post(x[:, 0])
        return pooled @ self.proj, x, pooled


class Text(Tower):
    """Token ids, [batch, tokens], with the largest id at their end and from there on, to embeddings [batch, dim]."""

    def __init__(self, width, mlp, layers, dim, vocab, context=32):
        super().__init__(width, mlp, layers)
        self.token_embedding = nn.Embedding(vocab, width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.positional_embedding = nn.Parameter(torch.randn(context, width) * 0.01)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, dim) * width**-0.5)

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, True)
        end = (ids != self.token_embedding.num_embeddings - 1).sum(1)
        return self.ln_final(x[torch.arange(len(ids)), end]) @ self.text_projection


class ViClip(nn.Module):
    """Both towers, as two_stage.py wants them."""

    def __init__(self, vision, text):
        super().__init__()
        self.vision_encoder, self.text_encoder = Vision(**vision), Text(**text)

    @classmethod
    def of(cls, state):
        """The model whose tensors these are."""
        shape = lambda name: state[name].shape  # noqa: E731
        layers = lambda tower: sum(n.startswith(tower) and n.endswith("ln_1.weight") for n in state)  # noqa: E731
        mlp = lambda tower: shape(f"{tower}.transformer.resblocks.0.mlp.c_fc.weight")[0]  # noqa: E731
        width, _, _, patch, _ = shape("vision_encoder.conv1.weight")
        dim = shape("vision_encoder.proj")[1]
        side = round((shape("vision_encoder.positional_embedding")[0] - 1) ** 0.5) * patch
        frames = shape("vision_encoder.temporal_positional_embedding")[1]
        vocab, text_width = shape("text_encoder.token_embedding.weight")
        model = cls(
            dict(width=width, mlp=mlp("vision_encoder"), layers=layers("vision_encoder"), dim=dim, size=side,
                 patch=patch, frames=frames),
            dict(width=text_width, mlp=mlp("text_encoder"), layers=layers("text_encoder"), dim=dim, vocab=vocab,
                 context=shape("text_encoder.positional_embedding")[0]),
        )
        for prefix, tower in (("vision_encoder.", model.vision_encoder), ("text_encoder.", model.text_encoder)):
            tower.load({n.removeprefix(prefix): t.float() for n, t in state.items() if n.startswith(prefix)})
        return model

    def state(self):
        towers = (("vision_encoder.", self.vision_encoder), ("text_encoder.", self.text_encoder))
        return {prefix + name: tensor for prefix, tower in towers for name, tensor in tower.state().items()}

    def text(self, ids):
        return self.text_encoder(ids)

    def sight(self, pixels):
        return self.vision_encoder(torch.as_tensor(pixels))

    def text_parameters(self):
        return list(self.text_encoder.parameters())

    def sight_parameters(self):
        return list(self.vision_encoder.parameters())

    def text_blocks(self):
        return self.text_encoder.matrices()

    def sight_blocks(self):
        return self.vision_encoder.matrices()
