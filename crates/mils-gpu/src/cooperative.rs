//! Cooperative matrices: which of those that an adapter reports fit the kernels, whether they are wanted, and whether
//! they multiply right.

use crate::Gpu;
use crate::adapter::AdapterKind;
use half::f16;
use mils_graph::{Activation, Backend, BackendError, Graph, HostTensor, Linear};
use mils_shaders::{COOPERATIVE, Cooperative};
use wgpu::{AdapterInfo, CooperativeMatrixProperties, CooperativeScalarType, Features};

/// What is asked of a device to use them.
pub(crate) const FEATURES: Features = Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(Features::SUBGROUP);

/// Whether they are used: `on`, `off`, or as it seems best.
const VARIABLE: &str = "MILS_COOPERATIVE";

/// Whether they are used where there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Never.
    Off,
    /// On hardware; a software driver only imitates them.
    Auto,
    /// On software drivers too.
    On,
}

impl Use {
    pub(crate) fn by_environment() -> Self {
        Self::of(std::env::var(VARIABLE).ok().as_deref())
    }

    fn of(value: Option<&str>) -> Self {
        match value {
            Some("on") => Self::On,
            Some("off") => Self::Off,
            _ => Self::Auto,
        }
    }
}

/// Those to use of an adapter, if any.
pub(crate) fn of(wanted: Use, info: &AdapterInfo, adapter: &wgpu::Adapter) -> Option<Cooperative> {
    let software = AdapterKind::of(info) == AdapterKind::Software;
    if wanted == Use::Off || wanted == Use::Auto && software || !adapter.features().contains(FEATURES) {
        return None;
    }
    fitting(info, &adapter.cooperative_matrix_properties())
}

/// The best that fits: factors in f16, sums in f32, and subgroups of one size, which the kernel's workgroups are made of.
fn fitting(info: &AdapterInfo, reported: &[CooperativeMatrixProperties]) -> Option<Cooperative> {
    let fits = |c: &Cooperative| {
        let is = |p: &CooperativeMatrixProperties| {
            [p.m_size, p.n_size, p.k_size] == [c.side; 3]
                && (p.ab_type, p.cr_type) == (CooperativeScalarType::F16, CooperativeScalarType::F32)
        };
        [info.subgroup_min_size, info.subgroup_max_size] == [c.subgroup; 2] && reported.iter().any(is)
    };
    COOPERATIVE.into_iter().find(fits)
}

/// Whether a product on them is right, ends of blocks and the epilogue included. They are young in wgpu and in drivers:
/// a device on which they are wrong, or fail, is opened without.
pub(crate) fn works(gpu: &Gpu) -> bool {
    multiplies(gpu).unwrap_or(false)
}

fn multiplies(gpu: &Gpu) -> Result<bool, BackendError> {
    let [m, n, k] = [70, 76, 44];
    // Whole numbers whose sums f16 holds too: all is exact, in any order.
    let number = |i: usize| (i * 7 % 11 % 5) as f32 - 2.0;
    let data = |count: usize| (0..count).map(number).collect::<Vec<_>>();
    let mut g = Graph::new();
    let failed = |e: mils_graph::GraphError| BackendError::Graph(e);
    let x = g.input("x", &[m, k]).map_err(failed)?;
    let residual = Some(g.input("residual", &[m, n]).map_err(failed)?);
    let weight = g.weight("weight", &[n, k]).map_err(failed)?;
    let bias = Some(g.weight("bias", &[n]).map_err(failed)?);
    let y = g.linear(Linear { x, weight, bias, activation: Activation::None, residual }).map_err(failed)?;
    g.output(y);
    let halves = data(n * k).into_iter().map(f16::from_f32).collect();
    let weights = vec![
        ("weight".to_owned(), HostTensor::f16(&[n, k], halves)?),
        ("bias".to_owned(), HostTensor::f32(&[n], data(n))?),
    ];
    let inputs = [HostTensor::f32(&[m, k], data(m * k))?, HostTensor::f32(&[m, n], data(m * n))?];
    let found = gpu.load(weights)?.compile(&g)?.run(&inputs)?;
    let right = |i: usize| {
        let (row, column) = (i / n, i % n);
        let product: f32 = (0..k).map(|j| number(row * k + j) * number(column * k + j)).sum();
        product + number(column) + number(i)
    };
    let found = found.first().and_then(|t| t.as_f32()).unwrap_or_default();
    Ok(found.len() == m * n && found.iter().enumerate().all(|(i, &v)| v == right(i)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(subgroup: [u32; 2]) -> AdapterInfo {
        let mut info = AdapterInfo::new(wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Vulkan);
        [info.subgroup_min_size, info.subgroup_max_size] = subgroup;
        info
    }

    fn matrix([m_size, n_size, k_size]: [u32; 3], cr_type: CooperativeScalarType) -> CooperativeMatrixProperties {
        let ab_type = CooperativeScalarType::F16;
        CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, saturating_accumulation: false }
    }

    #[test]
    fn only_what_fits_is_used() {
        use CooperativeScalarType::{F16, F32};
        let some = |side, subgroup| Some(Cooperative { side, subgroup });
        let all = [matrix([8; 3], F32), matrix([16; 3], F16), matrix([16, 8, 16], F32), matrix([16; 3], F32)];
        assert_eq!(fitting(&info([32; 2]), &all), some(16, 32), "the larger first");
        assert_eq!(fitting(&info([64; 2]), &all), some(16, 64));
        assert_eq!(fitting(&info([8; 2]), &all), some(8, 8));
        assert_eq!(fitting(&info([32; 2]), &all[..3]), some(8, 32), "neither sums in f16 nor oblong ones");
        assert_eq!(fitting(&info([32, 64]), &all), None, "the workgroup's size would be a guess");
        assert_eq!((fitting(&info([32; 2]), &[]), fitting(&info([16; 2]), &all)), (None, None));
    }

    #[test]
    fn the_environment_says_whether() {
        assert_eq!([None, Some(""), Some("on"), Some("off")].map(Use::of), [Use::Auto, Use::Auto, Use::On, Use::Off]);
    }
}
