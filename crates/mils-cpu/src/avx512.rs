//! Products of a few rows with one panel, on CPUs with AVX-512: all of K in registers, so that a result is written once.
//!
//! A tile is up to [`ROWS`] rows by one panel of 32 columns: 24 accumulators, two registers of the panel, and the rows
//! read straight from their matrix, one element at a time for all columns. On a core that starts two multiply-adds a
//! cycle that keeps both busy; the rows need no packing, since a tile reads each of their lines once.
#![expect(unsafe_code, reason = "vector instructions on raw pointers; the lengths are checked where tiles are made")]

use crate::packed::{Kind, Line, PANEL};
use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm256_loadu_si256, _mm512_add_ps,
    _mm512_and_si512, _mm512_castsi512_ps, _mm512_cvtne2ps_pbh, _mm512_cvtph_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
};

/// Most rows of a tile.
pub(crate) const ROWS: usize = 12;

/// Whether this CPU has what [`tile`] needs.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
}

/// Whether this CPU multiplies pairs of bf16, for [`dot_tile`].
pub(crate) fn has_dot() -> bool {
    available() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

/// Whether those products are faster than those of f32. AMD's take one a cycle, of twice as many numbers. Intel's take two
/// cycles each where f32 has two a cycle: bf16 is meant for its matrix unit (AMX), and by vectors took 1.1 to 1.7 times as
/// long as f32 on an Emerald Rapids (docs/performance.md).
pub(crate) fn has_fast_dot() -> bool {
    let intel = raw_cpuid::CpuId::new().get_vendor_info().is_some_and(|vendor| vendor.as_str() == "GenuineIntel");
    has_dot() && !intel
}

/// Where a tile reads and writes. Elements of `a` are f32, or pairs of bf16 for [`dot_tile`].
#[derive(Clone, Copy)]
pub(crate) struct Tile<'b, A> {
    /// First element of the first row.
    pub a: *const A,
    /// Elements from one row to the next.
    pub row: usize,
    /// Elements of a row that are multiplied.
    pub k: usize,
    /// The panel.
    pub panel: &'b [Line],
    /// Where the first row's result begins.
    pub out: *mut f32,
    /// Elements from one row of the result to the next.
    pub out_row: usize,
    /// Columns of the panel that are written, 1 to [`PANEL`].
    pub columns: usize,
    /// Factor of the result.
    pub scale: f32,
    /// Added to the columns of every row.
    pub bias: Option<*const f32>,
    /// Added last; laid out as the result.
    pub residual: Option<*const f32>,
    /// Lines that are wanted after these, one a step at most: fetched into the core's own cache meanwhile.
    pub next: &'b [Line],
}

impl<A> Tile<'_, A> {
    /// Has the lines fetched meanwhile that are used after the sums.
    #[inline(always)]
    fn prefetch(&self, rows: usize) {
        for first in [Some(self.out.cast_const()), self.residual].into_iter().flatten() {
            for i in 0..rows {
                let row = first.wrapping_add(i * self.out_row);
                // SAFETY: a hint, which may be of any address. x86_64 has SSE.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(row.cast());
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(PANEL - 1).cast());
                }
            }
        }
    }

    /// Has a line of the next panel fetched into the core's own cache.
    #[inline(always)]
    fn prefetch_next(&self, step: usize) {
        if let Some(line) = self.next.get(step) {
            // SAFETY: a hint, of an address that is there. x86_64 has SSE.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast()) };
        }
    }
}

const F32: u8 = 0;
const F16: u8 = 1;
const BF16: u8 = 2;

/// One step along K: an element of each of M rows at `a` times 32 columns. A macro, so that the sums are the caller's own
/// variables, which stay in registers.
macro_rules! step {
    ($sums:ident, $a:expr, $row:expr, $columns:expr) => {
        let (a, columns): (*const f32, [__m512; 2]) = ($a, $columns);
        for i in 0..M {
            let x = _mm512_set1_ps(*a.add(i * $row));
            $sums[i][0] = _mm512_fmadd_ps(x, columns[0], $sums[i][0]);
            $sums[i][1] = _mm512_fmadd_ps(x, columns[1], $sums[i][1]);
        }
    };
}

/// Writes the sums of M rows; masks leave out what is beyond the tile's columns. A macro for the same reason.
macro_rules! store {
    ($sums:ident, $tile:ident) => {
        let scale = _mm512_set1_ps($tile.scale);
        let mask = u32::MAX >> (PANEL - $tile.columns);
        let masks = [mask as u16, (mask >> 16) as u16];
        // Lines that are masked out are not touched, but a pointer past them would still have to be one.
        let at = |first: *const f32, half: usize| first.wrapping_add(16 * half);
        let load = |first: Option<*const f32>, half: usize| {
            first.map_or(_mm512_setzero_ps(), |first| _mm512_maskz_loadu_ps(masks[half], at(first, half)))
        };
        let bias = [load($tile.bias, 0), load($tile.bias, 1)];
        for i in 0..M {
            let offset = i * $tile.out_row;
            let residual = $tile.residual.map(|first| first.wrapping_add(offset));
            for half in 0..2 {
                let mut sum = _mm512_fmadd_ps($sums[i][half], scale, bias[half]);
                if residual.is_some() {
                    sum = _mm512_add_ps(sum, load(residual, half));
                }
                let out = at($tile.out, half).cast_mut().wrapping_add(offset);
                _mm512_mask_storeu_ps(out, masks[half], sum);
            }
        }
    };
}

/// Calls `$f::<rows, …>` with the number of rows as a constant.
macro_rules! by_rows {
    ($rows:expr, $f:ident, [$($kind:ident)?], $tile:expr) => {
        match $rows {
            1 => $f::<1 $(, $kind)?>($tile),
            2 => $f::<2 $(, $kind)?>($tile),
            3 => $f::<3 $(, $kind)?>($tile),
            4 => $f::<4 $(, $kind)?>($tile),
            5 => $f::<5 $(, $kind)?>($tile),
            6 => $f::<6 $(, $kind)?>($tile),
            7 => $f::<7 $(, $kind)?>($tile),
            8 => $f::<8 $(, $kind)?>($tile),
            9 => $f::<9 $(, $kind)?>($tile),
            10 => $f::<10 $(, $kind)?>($tile),
            11 => $f::<11 $(, $kind)?>($tile),
            _ => $f::<12 $(, $kind)?>($tile),
        }
    };
}

/// `out[rows, columns] = scale · a[rows, k] · panelᵀ + bias + residual`, in f32, whatever type the panel has.
///
/// # Safety
/// [`available`] must hold; `rows` is 1 to [`ROWS`]; `panel` is of `kind` and of K = `k`; `rows` rows can be read at
/// `a` and written at `out`, and nobody else reads or writes the latter; `columns` elements can be read at `bias`, and
/// as many rows at `residual` as at `out`.
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn tile(rows: usize, kind: Kind, tile: Tile<'_, f32>) {
    debug_assert!((1..=ROWS).contains(&rows) && (1..=PANEL).contains(&tile.columns));
    // SAFETY: as this function's.
    unsafe {
        match kind {
            Kind::F32 => by_rows!(rows, run, [F32], tile),
            Kind::F16 => by_rows!(rows, run, [F16], tile),
            Kind::BF16 => by_rows!(rows, run, [BF16], tile),
        }
    }
}

/// The same with `a` of pairs of bf16 and a panel of bf16: products of pairs, sums in f32. `tile.k` and `tile.row`
/// count pairs.
///
/// # Safety
/// As [`tile`], and [`has_dot`] must hold.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn dot_tile(rows: usize, tile: Tile<'_, u32>) {
    debug_assert!((1..=ROWS).contains(&rows) && (1..=PANEL).contains(&tile.columns));
    // SAFETY: as this function's.
    unsafe { by_rows!(rows, run_dot, [], tile) }
}

type Sums<const M: usize> = [[__m512; 2]; M];

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f")]
unsafe fn run<const M: usize, const KIND: u8>(tile: Tile<'_, f32>) {
    // SAFETY: `a` can be read for `k` elements in each of M rows `row` apart; the panel has as many lines as its kind
    // has for `k`.
    unsafe {
        tile.prefetch(M);
        let mut sums: Sums<M> = [[_mm512_setzero_ps(); 2]; M];
        let (mut a, mut b) = (tile.a, tile.panel.as_ptr());
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        match KIND {
            F32 => {
                for i in 0..tile.k {
                    tile.prefetch_next(i);
                    step!(sums, a, tile.row, [load(b), load(b.add(1))]);
                    (a, b) = (a.add(1), b.add(2));
                }
            }
            F16 => {
                for i in 0..tile.k {
                    tile.prefetch_next(i);
                    let half = |at: usize| {
                        let bits: __m256i = _mm256_loadu_si256(b.cast::<__m256i>().add(at));
                        _mm512_cvtph_ps(bits)
                    };
                    step!(sums, a, tile.row, [half(0), half(1)]);
                    (a, b) = (a.add(1), b.add(1));
                }
            }
            _ => {
                // The even element of a pair is the low half of its lane, the odd one the high half: both halves of
                // an f32's bits.
                let even = |pairs: __m512i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
                let odd = |pairs: __m512i| _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
                let pairs = |at: *const Line| _mm512_loadu_si512(at.cast());
                // Nothing is fetched ahead: with it this loop takes 1.6 times as long.
                for _ in 0..tile.k / 2 {
                    let (p, q) = (pairs(b), pairs(b.add(1)));
                    step!(sums, a, tile.row, [even(p), even(q)]);
                    step!(sums, a.add(1), tile.row, [odd(p), odd(q)]);
                    (a, b) = (a.add(2), b.add(2));
                }
                if tile.k % 2 == 1 {
                    step!(sums, a, tile.row, [even(pairs(b)), even(pairs(b.add(1)))]);
                }
            }
        }
        store!(sums, tile);
    }
}

/// # Safety
/// As [`dot_tile`].
#[expect(clippy::needless_range_loop, reason = "the form that the compiler keeps in registers, as `step!` has it")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn run_dot<const M: usize>(tile: Tile<'_, u32>) {
    // SAFETY: as in `run`, with pairs as elements. A register of 16 lanes is one of 32 halves.
    unsafe {
        tile.prefetch(M);
        let mut sums: Sums<M> = [[_mm512_setzero_ps(); 2]; M];
        let (mut a, mut b) = (tile.a, tile.panel.as_ptr());
        let halves = |lanes: __m512i| std::mem::transmute::<__m512i, __m512bh>(lanes);
        for step in 0..tile.k {
            tile.prefetch_next(step);
            let columns = [halves(_mm512_loadu_si512(b.cast())), halves(_mm512_loadu_si512(b.add(1).cast()))];
            for i in 0..M {
                let x = halves(_mm512_set1_epi32(*a.add(i * tile.row) as i32));
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, columns[0]);
                sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, columns[1]);
            }
            (a, b) = (a.add(1), b.add(2));
        }
        store!(sums, tile);
    }
}

/// # Safety
/// A whole line can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(line: *const Line) -> __m512 {
    // SAFETY: as this function's.
    unsafe { _mm512_loadu_ps(line.cast()) }
}

/// Rounds to bf16, to nearest, ties to even; the lengths are equal.
///
/// # Safety
/// [`has_dot`] must hold.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(crate) unsafe fn round_to_bf16(out: &mut [u16], x: &[f32]) {
    let (x, rest) = x.as_chunks::<32>();
    let (out, out_rest) = out.as_chunks_mut::<32>();
    for (out, x) in out.iter_mut().zip(x) {
        // SAFETY: both are 32 elements long.
        unsafe {
            let rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x.as_ptr().add(16)), _mm512_loadu_ps(x.as_ptr()));
            out.as_mut_ptr().cast::<__m512bh>().write_unaligned(rounded);
        }
    }
    out_rest.iter_mut().zip(rest).for_each(|(o, &v)| *o = half::bf16::from_f32(v).to_bits());
}
