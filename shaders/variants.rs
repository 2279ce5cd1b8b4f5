// The kernels and their variants. Compiled into the library and, to validate every variant, into build.rs.

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
}

/// How the elements of a weight lie in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stored {
    /// One a word.
    F32,
    /// IEEE half precision, two a word.
    F16,
    /// The upper half of an f32, two a word.
    BF16,
}

/// A variant of the matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemm {
    /// Side of the block that a workgroup computes: 32 or 64.
    pub tile: u32,
    /// Reads four elements at a time; K must be a multiple of 4.
    pub vec4: bool,
    /// How the weight is held.
    pub weight: Stored,
    /// Adds a bias.
    pub bias: bool,
    /// Adds a residual, last.
    pub residual: bool,
    /// Applied after the bias.
    pub activation: Activation,
}

/// A compute shader in one of its variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// gemm.wgsl
    Gemm(Gemm),
    /// attention.wgsl
    Attention,
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
}

const STORED: [Stored; 3] = [Stored::F32, Stored::F16, Stored::BF16];
const ACTIVATIONS: [Activation; 4] =
    [Activation::None, Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh];

impl Kernel {
    /// Every variant that there is.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Attention,
            Self::LayerNorm,
            Self::L2Normalize,
            Self::Add,
            Self::Patchify,
            Self::PrependToken,
            Self::Rope,
        ];
        for activation in ACTIVATIONS {
            all.push(Self::Activation(activation));
            for bits in 0..48 {
                let tile = if bits & 8 == 0 { 32 } else { 64 };
                let (vec4, bias, residual) = (bits & 4 != 0, bits & 2 != 0, bits & 1 != 0);
                all.push(Self::Gemm(Gemm { tile, vec4, weight: STORED[bits / 16], bias, residual, activation }));
            }
        }
        all.extend(STORED.map(Self::Gather));
        all
    }

    /// The WGSL: a prelude of constants, shared parts, and the file. WGSL lets declarations come in any order.
    pub fn source(self) -> String {
        let activate = include_str!("shared/activate.wgsl");
        let reduce = include_str!("shared/reduce.wgsl");
        let stored = |s: Stored| match s {
            Stored::F32 => include_str!("shared/stored_f32.wgsl"),
            Stored::F16 => include_str!("shared/stored_f16.wgsl"),
            Stored::BF16 => include_str!("shared/stored_bf16.wgsl"),
        };
        let function = |a: Activation| format!("const ACTIVATION: u32 = {}u;\n", a as u32);
        match self {
            Self::Gemm(g) => {
                let loads = [include_str!("shared/load_scalar.wgsl"), include_str!("shared/load_vec4.wgsl")];
                let load = loads[usize::from(g.vec4)];
                let constants = format!(
                    "const TILE: u32 = {}u;\nconst BIAS: bool = {};\nconst RESIDUAL: bool = {};\n{}",
                    g.tile,
                    g.bias,
                    g.residual,
                    function(g.activation)
                );
                [&constants, activate, stored(g.weight), load, include_str!("gemm.wgsl")].concat()
            }
            Self::Activation(a) => [&function(a), activate, include_str!("activation.wgsl")].concat(),
            Self::LayerNorm => [reduce, include_str!("layer_norm.wgsl")].concat(),
            Self::L2Normalize => [reduce, include_str!("l2_normalize.wgsl")].concat(),
            Self::Attention => include_str!("attention.wgsl").to_owned(),
            Self::Gather(s) => [stored(s), include_str!("gather.wgsl")].concat(),
            Self::Add => include_str!("add.wgsl").to_owned(),
            Self::Patchify => include_str!("patchify.wgsl").to_owned(),
            Self::PrependToken => include_str!("prepend_token.wgsl").to_owned(),
            Self::Rope => include_str!("rope.wgsl").to_owned(),
        }
    }
}
