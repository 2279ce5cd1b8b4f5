//! Averages of embeddings: of a video's frames, and of a sound's windows.

/// The mean of rows of length 1, brought to length 1; of rows that cancel out, zeros.
pub(crate) fn mean(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f64; dim];
    for row in rows.chunks_exact(dim) {
        sum.iter_mut().zip(row).for_each(|(sum, &v)| *sum += f64::from(v));
    }
    let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    sum.into_iter().map(|v| (v / length) as f32).collect()
}

/// One row for each count: the next so many rows' mean, and one row alone as it is. There are as many rows as the counts
/// say.
pub(crate) fn means(mut rows: &[f32], counts: impl IntoIterator<Item = usize>, dim: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for count in counts {
        let (own, rest) = rows.split_at(count * dim);
        rows = rest;
        if count == 1 { out.extend(own) } else { out.extend(mean(own, dim)) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_has_length_one() {
        let half = 0.5_f32.sqrt();
        assert!(mean(&[1.0, 0.0, 0.0, 1.0], 2).iter().all(|v| (v - half).abs() < 1e-6));
        assert_eq!(mean(&[1.0, 0.0, -1.0, 0.0], 2), [0.0, 0.0]);
        assert_eq!(mean(&[0.6, 0.8], 2), [0.6, 0.8]);
    }

    #[test]
    fn each_gets_the_mean_of_its_own_rows() {
        let rows = [0.25, 0.0, 0.0, 1.0, 1.0, 0.0, -1.0, 0.0];
        assert_eq!(means(&rows, [1, 1, 2], 2), [0.25, 0.0, 0.0, 1.0, 0.0, 0.0], "a single row is not touched");
    }
}
