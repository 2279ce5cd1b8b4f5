// The kernels and their variants. Compiled into the library and, to validate every variant, into build.rs.

/// How the elements of activations and of small weights lie in their buffers. All is computed in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Element {
    /// In f32: no feature beyond WebGPU's defaults is needed.
    #[default]
    F32,
    /// In f16: needs WebGPU's `shader-f16`.
    F16,
}

/// Elementwise functions of the kernels; the numbers are those of shared/activate.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// x
    None = 0,
    /// x * sigmoid(1.702 x)
    QuickGelu = 1,
    /// GELU by the error function.
    Gelu = 2,
    /// GELU by tanh.
    GeluTanh = 3,
    /// max(x, 0)
    Relu = 4,
    /// tanh x
    Tanh = 5,
}

/// How the elements of a matrix or a table lie in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// One a word; not where elements are f16.
    F32,
    /// IEEE half precision, two a word.
    F16,
    /// The upper half of an f32, two a word.
    BF16,
}

/// The block of a matrix product that one workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tile {
    /// 32 x 32 by 64 threads, for any sizes, element by element: gemm_any.wgsl.
    Any,
    /// 32 x 32 by 64 threads. This and the larger ones need K and N to be multiples of 4: gemm.wgsl.
    Small,
    /// 64 x 64 by 128 threads.
    Medium,
    /// 128 x 128 by 256 threads.
    Large,
    /// 32 x 32 or 64 x 64 by four subgroups, on cooperative matrices: gemm_cooperative.wgsl. As the others K and N must be
    /// multiples of 4, and elements and weight f16.
    Cooperative(Cooperative),
}

/// Matrices that the threads of a subgroup hold and multiply together: SIDE x SIDE, of f16 with sums in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cooperative {
    /// Rows and columns of a matrix.
    pub side: u32,
    /// Threads of a subgroup.
    pub subgroup: u32,
}

impl Cooperative {
    fn declarations(self) -> String {
        let Self { side, subgroup } = self;
        let matrix = format!("coop_mat{side}x{side}");
        format!(
            "const SIDE: u32 = {side}u;\nconst SUBGROUP: u32 = {subgroup}u;\nalias left = {matrix}<f16, A>;\n\
             alias right = {matrix}<f16, B>;\nalias accumulator = {matrix}<f32, C>;\n"
        )
    }
}

/// Every variant of cooperative matrices, the better first: as NVIDIA, AMD, Apple and Mesa's software driver have them.
pub const COOPERATIVE: [Cooperative; 4] = [
    Cooperative { side: 16, subgroup: 32 },
    Cooperative { side: 16, subgroup: 64 },
    Cooperative { side: 8, subgroup: 32 },
    Cooperative { side: 8, subgroup: 8 },
];

impl Tile {
    /// Rows and columns of the block.
    pub const fn block(self) -> [u32; 2] {
        match self {
            Self::Any | Self::Small => [32, 32],
            Self::Medium => [64, 64],
            Self::Large => [128, 128],
            Self::Cooperative(c) => [4 * c.side; 2],
        }
    }

    /// Rows and columns of the part that each thread, or each subgroup, holds in registers.
    pub const fn each(self) -> [u32; 2] {
        match self {
            Self::Any | Self::Small => [4, 4],
            Self::Medium => [8, 4],
            Self::Large => [8, 8],
            Self::Cooperative(c) => [2 * c.side; 2],
        }
    }
}

/// A variant of the matrix product. All tiles come with every epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// What a workgroup computes.
    pub tile: Tile,
    /// How the weight is held.
    pub weight: Stored,
    /// Adds a bias.
    pub bias: bool,
    /// Adds a residual, last.
    pub residual: bool,
    /// Applied after the bias.
    pub activation: Activation,
}

/// A variant of attention.wgsl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Queries of a workgroup.
    pub queries: u32,
    /// Threads that share a query.
    pub parts: u32,
    /// Quads of a head that each of them holds: a head has at most `4 * parts * quads` elements.
    pub quads: u32,
}

/// Every variant of attention.wgsl: for many queries and for few, by the size of a head. A thread holds at most 16
/// quads of a query and as many of its result, so that they stay in registers.
pub const ATTENTION: [Attention; 13] = {
    const fn of(queries: u32, parts: u32, quads: u32) -> Attention {
        Attention { queries, parts, quads }
    }
    [
        of(64, 1, 8),
        of(64, 1, 16),
        of(64, 2, 9),
        of(64, 2, 10),
        of(64, 2, 12),
        of(64, 2, 16),
        of(64, 4, 16),
        of(16, 4, 2),
        of(16, 4, 4),
        of(16, 4, 5),
        of(16, 4, 6),
        of(16, 4, 8),
        of(16, 4, 16),
    ]
};

/// Quads of a head in the variants of attention_bias.wgsl. A thread holds two such rows.
pub const BIASED_QUADS: [u32; 3] = [8, 16, 32];

impl Attention {
    /// Keys that pass through workgroup memory at a time: as many as leave a part of it for a second workgroup.
    pub const fn keys(self) -> u32 {
        let each = 4 * self.queries * self.parts + 32 * self.parts * self.quads;
        let mut keys = 16;
        while keys * each > 12 << 10 {
            keys /= 2;
        }
        keys
    }
}

/// A compute shader in one of its variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// gemm.wgsl, gemm_any.wgsl or gemm_cooperative.wgsl
    Gemm(Gemm),
    /// attention.wgsl
    Attention(Attention),
    /// attention_row.wgsl
    AttentionRow,
    /// attention_bias.wgsl, for heads of at most so many quads
    AttentionBias(u32),
    /// layer_norm.wgsl
    LayerNorm,
    /// l2_normalize.wgsl
    L2Normalize,
    /// gather.wgsl, with how the table is held
    Gather(Stored),
    /// add.wgsl
    Add,
    /// activation.wgsl
    Activation(Activation),
    /// patchify.wgsl
    Patchify,
    /// prepend_token.wgsl
    PrependToken,
    /// rope.wgsl
    Rope,
    /// mean_rows.wgsl
    MeanRows,
    /// blend.wgsl
    Blend,
    /// unfold.wgsl
    Unfold,
    /// max_pool.wgsl
    MaxPool,
    /// gram.wgsl
    Gram,
    /// probe_arithmetic.wgsl, probe_bytes.wgsl or probe_matrices.wgsl
    Probe(Probe),
}

/// What a device is measured by. No part of any graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Arithmetic in f32.
    Arithmetic,
    /// Bytes read.
    Bytes,
    /// Products of cooperative matrices; only where elements are f16.
    Matrices(Cooperative),
}

impl Probe {
    /// What its elements are: it comes for no others.
    pub const fn element(self) -> Element {
        match self {
            Self::Arithmetic | Self::Bytes => Element::F32,
            Self::Matrices(_) => Element::F16,
        }
    }
}

const STORED: [Stored; 3] = [Stored::F32, Stored::F16, Stored::BF16];
const ACTIVATIONS: [Activation; 6] = [
    Activation::None,
    Activation::QuickGelu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Relu,
    Activation::Tanh,
];
const TILES: [Tile; 4] = [Tile::Any, Tile::Small, Tile::Medium, Tile::Large];
const BOTH: [bool; 2] = [false, true];

impl Kernel {
    /// Every variant that there is, with what its elements are.
    pub fn all() -> Vec<(Self, Element)> {
        [Element::F32, Element::F16].into_iter().flat_map(|e| Self::with(e).into_iter().map(move |k| (k, e))).collect()
    }

    fn with(element: Element) -> Vec<Self> {
        let mut all = vec![
            Self::AttentionRow,
            Self::LayerNorm,
            Self::L2Normalize,
            Self::Add,
            Self::Patchify,
            Self::PrependToken,
            Self::Rope,
            Self::MeanRows,
            Self::Blend,
            Self::Unfold,
            Self::MaxPool,
            Self::Gram,
        ];
        all.extend(BIASED_QUADS.map(Self::AttentionBias));
        all.extend(ATTENTION.map(Self::Attention));
        all.extend(ACTIVATIONS.map(Self::Activation));
        for weight in STORED.into_iter().filter(|s| element == Element::F32 || *s != Stored::F32) {
            all.push(Self::Gather(weight));
            for (tile, activation) in TILES.into_iter().flat_map(|t| ACTIVATIONS.map(|a| (t, a))) {
                for (bias, residual) in BOTH.into_iter().flat_map(|b| BOTH.map(|r| (b, r))) {
                    all.push(Self::Gemm(Gemm { tile, weight, bias, residual, activation }));
                }
            }
        }
        let probes = [Probe::Arithmetic, Probe::Bytes].into_iter().chain(COOPERATIVE.map(Probe::Matrices));
        all.extend(probes.filter(|p| p.element() == element).map(Self::Probe));
        if element == Element::F16 {
            for (c, activation) in COOPERATIVE.into_iter().flat_map(|c| ACTIVATIONS.map(|a| (c, a))) {
                for (bias, residual) in BOTH.into_iter().flat_map(|b| BOTH.map(|r| (b, r))) {
                    let tile = Tile::Cooperative(c);
                    all.push(Self::Gemm(Gemm { tile, weight: Stored::F16, bias, residual, activation }));
                }
            }
        }
        all
    }

    /// The cooperative matrices that it needs, beside what its elements need; and subgroups of that size.
    pub const fn cooperative(self) -> Option<Cooperative> {
        match self {
            Self::Gemm(Gemm { tile: Tile::Cooperative(c), .. }) | Self::Probe(Probe::Matrices(c)) => Some(c),
            _ => None,
        }
    }

    /// The WGSL: a prelude of constants, shared parts, and the file. WGSL lets declarations come in any order.
    pub fn source(self, element: Element) -> String {
        let elements = match element {
            Element::F32 => include_str!("shared/elements_f32.wgsl"),
            Element::F16 => include_str!("shared/elements_f16.wgsl"),
        };
        let activate = include_str!("shared/activate.wgsl");
        let reduce = include_str!("shared/reduce.wgsl");
        let stored = |s: Stored| match (s, element) {
            (Stored::F32, _) => include_str!("shared/stored_f32.wgsl"),
            (Stored::F16, Element::F32) => include_str!("shared/stored_f16.wgsl"),
            (Stored::F16, Element::F16) => include_str!("shared/stored_native_f16.wgsl"),
            (Stored::BF16, _) => include_str!("shared/stored_bf16.wgsl"),
        };
        let function = |a: Activation| format!("const ACTIVATION: u32 = {}u;\n", a as u32);
        let parts = match self {
            Self::Gemm(g) => {
                let ([rows, columns], [m_each, n_each]) = (g.tile.block(), g.tile.each());
                let epilogue = format!("const BIAS: bool = {};\nconst RESIDUAL: bool = {};\n", g.bias, g.residual);
                let epilogue = [&epilogue, &function(g.activation), activate].concat();
                match g.tile {
                    Tile::Any => [&epilogue, stored(g.weight), include_str!("gemm_any.wgsl")].concat(),
                    Tile::Cooperative(c) => {
                        [&c.declarations(), &epilogue, include_str!("gemm_cooperative.wgsl")].concat()
                    }
                    Tile::Small | Tile::Medium | Tile::Large => {
                        let sizes = format!(
                            "const ROWS: u32 = {rows}u;\nconst COLUMNS: u32 = {columns}u;\n\
                             const M_EACH: u32 = {m_each}u;\nconst N_EACH: u32 = {n_each}u;\n"
                        );
                        [&sizes, &epilogue, stored(g.weight), include_str!("gemm.wgsl")].concat()
                    }
                }
            }
            Self::Attention(a) => {
                let Attention { queries, parts, quads } = a;
                let sizes = format!(
                    "const QUERIES: u32 = {queries}u;\nconst PARTS: u32 = {parts}u;\nconst QUADS: u32 = {quads}u;\n\
                     const KEYS: u32 = {}u;\n",
                    a.keys()
                );
                [&sizes, include_str!("attention.wgsl")].concat()
            }
            Self::Activation(a) => [&function(a), activate, include_str!("activation.wgsl")].concat(),
            Self::LayerNorm => [reduce, include_str!("layer_norm.wgsl")].concat(),
            Self::L2Normalize => [reduce, include_str!("l2_normalize.wgsl")].concat(),
            Self::AttentionRow => include_str!("attention_row.wgsl").to_owned(),
            Self::Gather(s) => [stored(s), include_str!("gather.wgsl")].concat(),
            Self::Add => include_str!("add.wgsl").to_owned(),
            Self::Patchify => include_str!("patchify.wgsl").to_owned(),
            Self::PrependToken => include_str!("prepend_token.wgsl").to_owned(),
            Self::Rope => include_str!("rope.wgsl").to_owned(),
            Self::Probe(Probe::Arithmetic) => include_str!("probe_arithmetic.wgsl").to_owned(),
            Self::Probe(Probe::Bytes) => include_str!("probe_bytes.wgsl").to_owned(),
            Self::Probe(Probe::Matrices(c)) => [&c.declarations(), include_str!("probe_matrices.wgsl")].concat(),
            Self::AttentionBias(quads) => {
                let sizes = format!("const QUADS: u32 = {quads}u;\nconst KEYS: u32 = {}u;\n", 256 / quads);
                [&sizes, include_str!("attention_bias.wgsl")].concat()
            }
            Self::MeanRows => include_str!("mean_rows.wgsl").to_owned(),
            Self::Blend => include_str!("blend.wgsl").to_owned(),
            Self::Unfold => include_str!("unfold.wgsl").to_owned(),
            Self::MaxPool => include_str!("max_pool.wgsl").to_owned(),
            Self::Gram => include_str!("gram.wgsl").to_owned(),
        };
        // Directives come before all else. Subgroups want none of naga yet.
        let directives =
            if self.cooperative().is_some() { "enable wgpu_cooperative_matrix;\n" } else { "" };
        [directives, elements, &parts].concat()
    }
}
