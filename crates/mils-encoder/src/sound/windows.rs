//! The order of tokens in shifted windows (Swin), and the biases of attention within them.
//!
//! A tower keeps its rows in the order of the windows that it attends in, so that between layers there is one gather, and
//! none where the order stays. Reference: `window_partition`, `ClapAudioLayer` and `ClapAudioPatchMerging` of
//! transformers' `modeling_clap.py`.

/// Added to the scores of keys of another region, which were brought beside a query by the cyclic shift.
const HIDDEN: f32 = -100.0;

/// Windows of a square grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Rows and columns of the grid: a multiple of the window's.
    pub(crate) side: usize,
    /// Rows and columns of a window.
    pub(crate) window: usize,
    /// How far the grid is rolled up and left, cyclically.
    pub(crate) shift: usize,
}

impl Windows {
    /// Tokens of the grid.
    pub(crate) fn tokens(self) -> usize {
        self.side * self.side
    }

    /// Row and column of a window's token in the grid as it was rolled, window after window.
    fn rolled(self) -> impl Iterator<Item = [usize; 2]> {
        let Self { side, window, .. } = self;
        let (count, area) = (side / window, window * window);
        (0..side * side).map(move |i| {
            let (w, inside) = (i / area, i % area);
            [w / count * window + inside / window, w % count * window + inside % window]
        })
    }

    /// Which token of the grid, row by row, stands at each place.
    pub(crate) fn order(self) -> Vec<usize> {
        let Self { side, shift, .. } = self;
        self.rolled().map(|[y, x]| (y + shift) % side * side + (x + shift) % side).collect()
    }

    /// Rows that bring what stands in this order into the other's, of the same grid.
    pub(crate) fn moves(self, to: Self) -> Vec<usize> {
        let places = self.places();
        to.order().into_iter().map(|token| places[token]).collect()
    }

    /// Rows that bring four neighbours together for each token of a grid of half the side, in its order: left above, left
    /// below, right above, right below.
    pub(crate) fn merges(self, to: Self) -> Vec<usize> {
        let places = self.places();
        let neighbours = |token: usize| {
            let (y, x) = (token / to.side * 2, token % to.side * 2);
            [[y, x], [y + 1, x], [y, x + 1], [y + 1, x + 1]].map(|[y, x]| places[y * self.side + x])
        };
        to.order().into_iter().flat_map(neighbours).collect()
    }

    /// Where each token of the grid stands.
    fn places(self) -> Vec<usize> {
        let mut places = vec![0; self.tokens()];
        self.order().into_iter().enumerate().for_each(|(place, token)| places[token] = place);
        places
    }

    /// How many biases there are: one for all windows, or where they are shifted one each.
    pub(crate) fn groups(self) -> usize {
        if self.shift == 0 { 1 } else { (self.side / self.window).pow(2) }
    }

    /// Biases [groups, heads, window², window²] of a table [(2 window - 1)², heads] by the offset of key from query, with
    /// the regions of shifted windows hidden from each other.
    pub(crate) fn biases(self, table: &[f32], heads: usize) -> Vec<f32> {
        let Self { side, window, shift } = self;
        let area = window * window;
        // On each axis the last window has two regions, cut where the grid's end was.
        let region = |at: usize| usize::from(at + window >= side) + usize::from(at + shift >= side);
        let regions: Vec<[usize; 2]> = self.rolled().map(|place| place.map(region)).collect();
        let mut out = Vec::with_capacity(self.groups() * heads * area * area);
        for regions in regions.chunks_exact(area).take(self.groups()) {
            for head in 0..heads {
                for query in 0..area {
                    for key in 0..area {
                        let y = query / window + window - 1 - key / window;
                        let x = query % window + window - 1 - key % window;
                        let hidden = shift > 0 && regions[query] != regions[key];
                        let bias = table[(y * (2 * window - 1) + x) * heads + head];
                        out.push(bias + if hidden { HIDDEN } else { 0.0 });
                    }
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_window_by_window() {
        let plain = Windows { side: 4, window: 2, shift: 0 };
        assert_eq!(plain.order(), [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
        let shifted = Windows { shift: 1, ..plain };
        assert_eq!(shifted.order()[..8], [5, 6, 9, 10, 7, 4, 11, 8]);
        assert_eq!(shifted.order()[12..], [15, 12, 3, 0]);
        // There and back again.
        let (there, back) = (plain.moves(shifted), shifted.moves(plain));
        assert!((0..16).all(|i| there[back[i]] == i));
        assert_eq!(there.iter().map(|&row| plain.order()[row]).collect::<Vec<_>>(), shifted.order());
    }

    #[test]
    fn merging_takes_squares_column_by_column() {
        let from = Windows { side: 4, window: 2, shift: 1 };
        let to = Windows { side: 2, window: 2, shift: 0 };
        let tokens: Vec<usize> = from.merges(to).iter().map(|&row| from.order()[row]).collect();
        assert_eq!(tokens, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }

    #[test]
    fn biases_are_by_offset_and_hide_other_regions() {
        let table: Vec<f32> = (0..9 * 2).map(|i| i as f32).collect();
        let plain = Windows { side: 4, window: 2, shift: 0 };
        let all = plain.biases(&table, 2);
        assert_eq!((plain.groups(), all.len()), (1, 2 * 16));
        // Query (1, 0) and key (0, 1): offsets 1 and -1, entry (1 + 1) * 3 + (-1 + 1); of head 1.
        assert_eq!(all[16 + 2 * 4 + 1], table[6 * 2 + 1]);
        let shifted = Windows { shift: 1, ..plain };
        let all = shifted.biases(&table, 2);
        assert_eq!((shifted.groups(), all.len()), (4, 4 * 2 * 16));
        let hidden = |group: usize| (0..16).filter(|i| all[group * 32 + i] < -50.0).count();
        // Nothing in the first window; halves in the next two; quarters in the last.
        assert_eq!([0, 1, 2, 3].map(hidden), [0, 8, 8, 12]);
    }
}
