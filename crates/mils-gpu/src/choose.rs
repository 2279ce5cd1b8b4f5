//! Which variant of a kernel, by the sizes of a problem and what kind of device it is.

use crate::AdapterKind;
use mils_shaders::{ATTENTION, Attention, BIASED_QUADS, Kernel, Tile};
use std::time::Duration;

/// What decides how a problem is cut, of a device. wgpu tells no number of cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// With its own memory, or of a virtual machine: some hundred workgroups at a time.
    Large,
    /// Shares the CPU's memory, or does not say: some dozens.
    Small,
    /// Computes on the CPU, one workgroup after the other on each core.
    Software,
}

impl Class {
    pub(crate) fn of(kind: AdapterKind) -> Self {
        match kind {
            AdapterKind::Discrete | AdapterKind::Virtual => Self::Large,
            AdapterKind::Integrated | AdapterKind::Unknown => Self::Small,
            AdapterKind::Software => Self::Software,
        }
    }

    /// How long it may take to do what was submitted before it counts as hung: no command of a GPU takes minutes, but a
    /// software driver computes a large batch for long.
    pub(crate) fn patience(self) -> Duration {
        Duration::from_secs(if self == Self::Software { 3600 } else { 300 })
    }

    /// Threads in workgroups that it runs at the same time, in workgroups of 64: below this number, more workgroups cost
    /// no more time. A guess at the middle of each class: 64 cores that run four such groups each, 10 cores, 2 cores.
    fn slots(self) -> u64 {
        match self {
            Self::Large => 256,
            Self::Small => 40,
            Self::Software => 2,
        }
    }
}

/// The block of a matrix product [M, K] x [N, K] that each workgroup computes: the one with the least time by a simple
/// model. Larger blocks read each operand fewer times, and their threads fewer elements from workgroup memory for the
/// same arithmetic; smaller ones waste less beyond the edges, and there are more of them to fill the device. A
/// workgroup's time grows with its block (`area`), and with what it reads for a unit of that (`reads`); the device takes
/// as many rounds as it needs for all workgroups, and at least one.
///
/// What is not a whole number of quads takes the kernel that reads single elements.
pub(crate) fn tile(m: usize, n: usize, k: usize, class: Class) -> Tile {
    if !n.is_multiple_of(4) || !k.is_multiple_of(4) {
        return Tile::Any;
    }
    let time = |tile: Tile| {
        let [rows, columns] = tile.block().map(|side| side as usize);
        let [m_each, n_each] = tile.each().map(f64::from);
        let groups = (m.div_ceil(rows) * n.div_ceil(columns)) as u64;
        // Threads of a group in 64s: larger groups take up more of the device at a time.
        let weight = (rows * columns) as f64 / (m_each * n_each) / 64.0;
        // The last round is not full, but the device does not wait for it to begin the next kernel either.
        let full = (groups as f64 * weight / class.slots() as f64).max(1.0);
        let rounds = f64::midpoint(full, full.ceil());
        // Quads read from workgroup memory for a quad of results, beside the four multiplications.
        let reads = 1.0 + (m_each + n_each) / (m_each * n_each) * 2.0;
        rounds * m_each * n_each * reads
    };
    // Of equals the smallest: it comes first.
    [Tile::Small, Tile::Medium, Tile::Large]
        .into_iter()
        .min_by(|&a, &b| time(a).total_cmp(&time(b)))
        .unwrap_or(Tile::Small)
}

/// Most elements of a head that attention can hold.
pub(crate) const MOST_HEAD_DIM: u64 = 256;

/// The kernel of an attention, for heads of at most [`MOST_HEAD_DIM`] elements. A handful of queries leaves the kernel that
/// shares keys among queries with idle threads, so that they, and heads that are not made of quads, take a kernel whose
/// threads share a query. Up to 32 queries (short texts) are computed 16 to a workgroup, more of them 64.
pub(crate) fn attention(queries: usize, head_dim: usize) -> Kernel {
    if queries < 5 || !head_dim.is_multiple_of(4) {
        return Kernel::AttentionRow;
    }
    let block = if queries <= 32 { 16 } else { 64 };
    let fits = |a: &Attention| a.queries == block && (4 * a.parts * a.quads) as usize >= head_dim;
    // Listed by size.
    ATTENTION.into_iter().find(fits).map_or(Kernel::AttentionRow, Kernel::Attention)
}

/// Most elements of a head that attention with a bias can hold.
pub(crate) const MOST_BIASED_HEAD_DIM: u64 = 4 * BIASED_QUADS[BIASED_QUADS.len() - 1] as u64;

/// The kernel of an attention with a bias, for heads of at most [`MOST_BIASED_HEAD_DIM`] elements.
pub(crate) fn biased_attention(head_dim: usize) -> Kernel {
    let quads = BIASED_QUADS.into_iter().find(|&quads| 4 * quads as usize >= head_dim);
    Kernel::AttentionBias(quads.unwrap_or(BIASED_QUADS[BIASED_QUADS.len() - 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_cut_to_fill_the_device() {
        let on = |class| move |m, n, k| tile(m, n, k, class);
        let large = on(Class::Large);
        // One row, a pooled batch, a short text: too little for large blocks.
        assert_eq!([large(1, 512, 512), large(8, 768, 768), large(50, 2048, 512)], [Tile::Small; 3]);
        // 8 images of ViT-B/32: 400 rows.
        assert_eq!([large(400, 768, 768), large(400, 768, 3072)], [Tile::Small; 2]);
        assert_eq!(large(400, 3072, 768), Tile::Medium);
        // 64 images of ViT-B/16.
        assert_eq!([large(12_544, 768, 768), large(12_544, 3072, 768)], [Tile::Large; 2]);
        let small = on(Class::Small);
        assert_eq!((small(8, 768, 768), small(400, 3072, 768)), (Tile::Small, Tile::Large));
        let software = on(Class::Software);
        assert_eq!((software(8, 768, 768), software(400, 768, 768)), (Tile::Small, Tile::Large));
        // Whatever the device, the sizes decide whether quads can be read.
        for class in [Class::Large, Class::Small, Class::Software] {
            assert_eq!([tile(400, 770, 768, class), tile(400, 768, 770, class)], [Tile::Any; 2]);
        }
    }

    #[test]
    fn attention_fits_its_heads() {
        let of = |queries, parts, quads| Kernel::Attention(Attention { queries, parts, quads });
        assert_eq!(attention(197, 64), of(64, 1, 16));
        // So400m: 72; others of that size: 80 and 88.
        assert_eq!((attention(256, 72), attention(256, 80)), (of(64, 2, 9), of(64, 2, 10)));
        assert_eq!((attention(256, 88), attention(256, 128)), (of(64, 2, 12), of(64, 2, 16)));
        assert_eq!((attention(16, 64), attention(33, 64)), (of(16, 4, 4), of(64, 1, 16)));
        assert_eq!([attention(1, 64), attention(100, 66)], [Kernel::AttentionRow; 2]);
        for head_dim in (4..=MOST_HEAD_DIM as usize).step_by(4) {
            for queries in [5, 16, 32, 33, 1000] {
                let Kernel::Attention(a) = attention(queries, head_dim) else { panic!("{head_dim}") };
                assert!((4 * a.parts * a.quads) as usize >= head_dim, "{a:?} holds no head of {head_dim}");
            }
        }
    }
}
