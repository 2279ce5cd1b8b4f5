//! Which adapter: the best that opens, and what was wrong with the others.

use crate::cooperative::{self, Use};
use mils_shaders::{Binding, Cooperative, Kernel, MOST_WORKGROUP_MEMORY};
use std::fmt;
use wgpu::{AdapterInfo, Backends, DeviceType, DownlevelFlags, Features, Limits};

/// Features that are made use of where an adapter has them: activations in f16, times
/// of kernels, and compiled kernels that can be kept.
const FEATURES: Features = Features::SHADER_F16.union(Features::TIMESTAMP_QUERY).union(Features::PIPELINE_CACHE);

/// An adapter that was tried in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// Its name and API.
    pub adapter: String,
    /// What it lacks, or the driver's words.
    pub problem: String,
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No driver offers an adapter.
    #[error("no GPU was found; install its Vulkan driver (mesa-vulkan-drivers has a software one), or use the CPU")]
    NoAdapter,
    /// No driver offers an adapter through the APIs that `WGPU_BACKEND` names.
    #[error("no GPU was found through WGPU_BACKEND={apis}; it names vulkan, metal or dx12, with commas")]
    NoAdapterOf {
        /// What was asked for.
        apis: String,
    },
    /// `WGPU_ADAPTER_NAME` is part of no adapter's name.
    #[error("WGPU_ADAPTER_NAME asks for `{wanted}`, but there is only: {}", found.join("; "))]
    NotNamed {
        /// What was asked for.
        wanted: String,
        /// The names of all adapters.
        found: Vec<String>,
    },
    /// Adapters were found, but none could be used; in the order in which they were tried.
    #[error("no GPU could be used: {}", list(.0))]
    Refused(Vec<Refusal>),
}

fn list(refusals: &[Refusal]) -> String {
    refusals.iter().map(|r| format!("{}: {}", r.adapter, r.problem)).collect::<Vec<_>>().join("; ")
}

/// What an adapter is; those that are preferred come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdapterKind {
    /// A GPU with its own memory.
    Discrete,
    /// A GPU that shares the CPU's memory.
    Integrated,
    /// A GPU of a virtual machine.
    Virtual,
    /// The driver does not say.
    Unknown,
    /// A driver that computes on the CPU.
    Software,
}

impl AdapterKind {
    pub(crate) fn of(info: &AdapterInfo) -> Self {
        match info.device_type {
            DeviceType::DiscreteGpu => Self::Discrete,
            DeviceType::IntegratedGpu => Self::Integrated,
            DeviceType::VirtualGpu => Self::Virtual,
            DeviceType::Other => Self::Unknown,
            DeviceType::Cpu => Self::Software,
        }
    }
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete GPU",
            Self::Integrated => "integrated GPU",
            Self::Virtual => "virtual GPU",
            Self::Unknown => "unknown type",
            Self::Software => "software driver",
        })
    }
}

/// What became of an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It gives a device that can run the kernels.
    Opens,
    /// It does not: what it lacks, or the driver's words.
    Refused(String),
    /// It was not tried: `WGPU_ADAPTER_NAME` is no part of its name.
    NotNamed,
}

/// Limits of an adapter that decide what fits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterLimits {
    /// Bytes of the largest buffer.
    pub buffer: u64,
    /// Bytes that can be bound at once.
    pub storage_binding: u64,
    /// Bytes that the threads of a workgroup share.
    pub workgroup_memory: u32,
    /// Threads of a workgroup.
    pub workgroup_threads: u32,
}

/// An adapter, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// `Vulkan`, `Metal` or `Dx12`.
    pub api: String,
    /// What it is.
    pub kind: AdapterKind,
    /// The driver and its version, as far as it says.
    pub driver: String,
    /// Its limits.
    pub limits: AdapterLimits,
    /// What it has of the features that the kernels make use of.
    pub features: Vec<String>,
    /// Whether it can be used.
    pub verdict: Verdict,
}

impl Adapter {
    fn new(info: &AdapterInfo, adapter: &wgpu::Adapter, verdict: Verdict) -> Self {
        let limits = adapter.limits();
        let used = adapter.features() & FEATURES;
        let mut features: Vec<String> = used.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let matrices = cooperative::of(Use::On, info, adapter);
        features.extend(matrices.map(|c| format!("cooperative_matrix_{0}x{0}", c.side)));
        Self {
            name: info.name.clone(),
            api: format!("{:?}", info.backend),
            kind: AdapterKind::of(info),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            limits: AdapterLimits {
                buffer: limits.max_buffer_size,
                storage_binding: limits.max_storage_buffer_binding_size,
                workgroup_memory: limits.max_compute_workgroup_storage_size,
                workgroup_threads: limits.max_compute_invocations_per_workgroup,
            },
            features,
            verdict,
        }
    }

    /// Name and API: what a backend on it is called.
    pub fn full_name(&self) -> String {
        format!("{} ({})", self.name, self.api)
    }
}

/// All adapters, in the order in which [`crate::Gpu::open`] tries them, each tried.
#[derive(Clone, Debug)]
pub struct Adapters {
    all: Vec<Adapter>,
    wanted: Wanted,
}

impl Adapters {
    /// Tries all adapters.
    pub fn list() -> Self {
        let wanted = Wanted::by_environment();
        let tried = ranked(enumerate(), &wanted).into_iter().map(|candidate| {
            let verdict =
                candidate.attempt(|info, adapter| request(info, adapter, Use::Off)).err().unwrap_or(Verdict::Opens);
            Adapter::new(&candidate.info, &candidate.adapter, verdict)
        });
        Self { all: tried.collect(), wanted }
    }

    /// All that there are.
    pub fn all(&self) -> &[Adapter] {
        &self.all
    }

    /// The one that [`crate::Gpu::open`] opens.
    ///
    /// # Errors
    /// As [`crate::Gpu::open`].
    pub fn chosen(&self) -> Result<&Adapter, GpuError> {
        let tried = || self.all.iter().map(|a| (a.full_name(), a.verdict.clone())).collect();
        self.all.iter().find(|a| a.verdict == Verdict::Opens).ok_or_else(|| none_opens(tried(), &self.wanted))
    }
}

/// What the environment asks for.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// `WGPU_ADAPTER_NAME`; empty fits all.
    name: String,
    /// `WGPU_BACKEND`, which wgpu itself obeys.
    apis: Option<String>,
}

impl Wanted {
    fn by_environment() -> Self {
        let name = std::env::var("WGPU_ADAPTER_NAME").unwrap_or_default();
        Self { name, apis: std::env::var("WGPU_BACKEND").ok() }
    }

    /// Whatever its case.
    fn fits(&self, info: &AdapterInfo) -> bool {
        info.name.to_lowercase().contains(&self.name.to_lowercase())
    }
}

/// A device and what it was opened with.
pub(crate) struct Opened {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) limits: Limits,
    pub(crate) info: AdapterInfo,
    /// Cooperative matrices that it can use.
    pub(crate) cooperative: Option<Cooperative>,
}

/// Opens the best adapter that gives a device.
pub(crate) fn open(matrices: Use) -> Result<Opened, GpuError> {
    let wanted = Wanted::by_environment();
    first_that_opens(ranked(enumerate(), &wanted), &wanted, |info, adapter| request(info, adapter, matrices))
}

pub(crate) fn name(info: &AdapterInfo) -> String {
    format!("{} ({:?})", info.name, info.backend)
}

fn enumerate() -> Vec<(AdapterInfo, wgpu::Adapter)> {
    let mut setup = wgpu::InstanceDescriptor::new_without_display_handle();
    setup.backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    // WGPU_BACKEND and wgpu's other variables.
    let instance = wgpu::Instance::new(setup.with_env());
    let found = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    found.into_iter().map(|a| (a.get_info(), a)).collect()
}

/// An adapter that may be tried.
struct Candidate<A> {
    info: AdapterInfo,
    adapter: A,
    /// Whether the environment lets it be.
    named: bool,
}

impl<A> Candidate<A> {
    fn attempt<T>(&self, open: impl FnOnce(&AdapterInfo, &A) -> Result<T, String>) -> Result<T, Verdict> {
        if self.named { open(&self.info, &self.adapter).map_err(Verdict::Refused) } else { Err(Verdict::NotNamed) }
    }
}

/// Best first; those that must not be tried come last.
fn ranked<A>(found: Vec<(AdapterInfo, A)>, wanted: &Wanted) -> Vec<Candidate<A>> {
    let candidate = |(info, adapter)| Candidate { named: wanted.fits(&info), info, adapter };
    let mut all: Vec<Candidate<A>> = found.into_iter().map(candidate).collect();
    all.sort_by_key(|c| (!c.named, AdapterKind::of(&c.info)));
    all
}

fn first_that_opens<A, T>(
    candidates: Vec<Candidate<A>>,
    wanted: &Wanted,
    mut open: impl FnMut(&AdapterInfo, &A) -> Result<T, String>,
) -> Result<T, GpuError> {
    let mut tried = Vec::new();
    for candidate in candidates {
        match candidate.attempt(&mut open) {
            Ok(opened) => return Ok(opened),
            Err(verdict) => tried.push((name(&candidate.info), verdict)),
        }
    }
    Err(none_opens(tried, wanted))
}

/// Why there is no GPU, by what became of each adapter.
fn none_opens(tried: Vec<(String, Verdict)>, wanted: &Wanted) -> GpuError {
    match (&wanted.apis, tried.is_empty()) {
        (Some(apis), true) => return GpuError::NoAdapterOf { apis: apis.clone() },
        (None, true) => return GpuError::NoAdapter,
        _ => {}
    }
    if tried.iter().all(|(_, verdict)| *verdict == Verdict::NotNamed) {
        let found = tried.into_iter().map(|(name, _)| name).collect();
        return GpuError::NotNamed { wanted: wanted.name.clone(), found };
    }
    let refusal = |(adapter, verdict)| match verdict {
        Verdict::Refused(problem) => Some(Refusal { adapter, problem }),
        _ => None,
    };
    GpuError::Refused(tried.into_iter().filter_map(refusal).collect())
}

#[expect(unsafe_code, reason = "wgpu's cooperative matrices are experimental")]
fn request(info: &AdapterInfo, adapter: &wgpu::Adapter, matrices: Use) -> Result<Opened, String> {
    let limits = adapter.limits();
    if let Some(lack) = lack(adapter.get_downlevel_capabilities().flags, &limits) {
        return Err(lack);
    }
    let cooperative = cooperative::of(matrices, info, adapter);
    let (more, experimental_features) = match cooperative {
        // SAFETY: what may be undefined is our own use of them: one kernel, which keeps to what their specification asks
        // (whole matrices, uniform control flow, sizes that the adapter reports), and whose results are looked at before
        // it is used.
        Some(_) => (cooperative::FEATURES, unsafe { wgpu::ExperimentalFeatures::enabled() }),
        None => (Features::empty(), wgpu::ExperimentalFeatures::disabled()),
    };
    let asked = adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("mils"),
        required_features: adapter.features() & FEATURES | more,
        required_limits: limits.clone(),
        experimental_features,
        memory_hints: wgpu::MemoryHints::Performance,
        ..wgpu::DeviceDescriptor::default()
    });
    let (device, queue) = pollster::block_on(asked).map_err(|e| crate::fault::one_line(&e.to_string()))?;
    Ok(Opened { device, queue, limits, info: info.clone(), cooperative })
}

/// What an adapter lacks to run the kernels.
fn lack(flags: DownlevelFlags, limits: &Limits) -> Option<String> {
    if !flags.contains(DownlevelFlags::COMPUTE_SHADERS) {
        return Some("it cannot run compute shaders".into());
    }
    let (mut threads, mut storage, mut wide) = (0, 0, 0);
    for (kernel, element) in Kernel::all() {
        let interface = kernel.interface(element);
        threads = threads.max(interface.workgroup_size.iter().product());
        wide = wide.max(interface.workgroup_size[0]);
        storage = storage.max(interface.bindings.iter().filter(|b| **b != Binding::Uniform).count());
    }
    let needs = [
        ("threads in a workgroup", limits.max_compute_invocations_per_workgroup, threads),
        ("threads along x", limits.max_compute_workgroup_size_x, wide),
        ("storage buffers in a shader", limits.max_storage_buffers_per_shader_stage, storage as u32),
        ("bytes of workgroup memory", limits.max_compute_workgroup_storage_size, MOST_WORKGROUP_MEMORY),
    ];
    let (what, has, needed) = needs.into_iter().find(|(_, has, needed)| has < needed)?;
    Some(format!("it allows {has} {what}, but {needed} are needed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapters(types: &[(&str, DeviceType)]) -> Vec<(AdapterInfo, usize)> {
        let info = |&(name, device_type): &(&str, DeviceType)| {
            let mut info = AdapterInfo::new(device_type, wgpu::Backend::Vulkan);
            info.name = name.to_owned();
            info
        };
        types.iter().map(info).zip(0..).collect()
    }

    const FOUR: [(&str, DeviceType); 4] = [
        ("llvmpipe", DeviceType::Cpu),
        ("Small GPU", DeviceType::IntegratedGpu),
        ("Virtual GPU", DeviceType::VirtualGpu),
        ("Large GPU", DeviceType::DiscreteGpu),
    ];

    fn wanted(name: &str) -> Wanted {
        Wanted { name: name.to_owned(), apis: None }
    }

    /// The numbers of those that are tried, in order, and of those that are not.
    fn order(types: &[(&str, DeviceType)], name: &str) -> (Vec<usize>, Vec<usize>) {
        let (tried, rest): (Vec<_>, Vec<_>) =
            ranked(adapters(types), &wanted(name)).into_iter().partition(|candidate| candidate.named);
        let numbers = |all: Vec<Candidate<usize>>| all.into_iter().map(|c| c.adapter).collect();
        (numbers(tried), numbers(rest))
    }

    /// What comes of trying all, where those at `open` open; the choice must be the same by each first verdict.
    fn choose(types: &[(&str, DeviceType)], wanted: &Wanted, open: &[usize]) -> Result<usize, GpuError> {
        let try_one = |_: &AdapterInfo, at: &usize| {
            if open.contains(at) { Ok(*at) } else { Err(format!("reason {at}")) }
        };
        let one_by_one = first_that_opens(ranked(adapters(types), wanted), wanted, try_one);
        let all = ranked(adapters(types), wanted).into_iter().map(|c| (name(&c.info), c.attempt(try_one))).collect();
        let all: Vec<(String, Result<usize, Verdict>)> = all;
        let first = all.iter().find_map(|(_, tried)| tried.as_ref().ok().copied());
        let verdicts = all.into_iter().map(|(name, tried)| (name, tried.err().unwrap_or(Verdict::Opens))).collect();
        assert_eq!(one_by_one, first.ok_or_else(|| none_opens(verdicts, wanted)), "a list and a choice agree");
        one_by_one
    }

    #[test]
    fn the_best_that_opens_is_taken() {
        assert_eq!(order(&FOUR, "").0, [3, 1, 2, 0], "discrete, integrated, virtual, software");
        assert_eq!(choose(&FOUR, &wanted(""), &[0, 2]), Ok(2));
        assert_eq!(choose(&FOUR, &wanted("llvm"), &[0, 2]), Ok(0));
    }

    #[test]
    fn an_error_lists_all_that_were_tried() {
        let error = choose(&FOUR, &wanted(""), &[]).unwrap_err();
        let text = error.to_string();
        for part in ["Large GPU (Vulkan): reason 3; Small GPU (Vulkan): reason 1", "llvmpipe (Vulkan): reason 0"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(matches!(error, GpuError::Refused(list) if list.len() == 4));
        let named = choose(&FOUR, &wanted("small"), &[0]).unwrap_err();
        assert!(matches!(named, GpuError::Refused(list) if list.len() == 1), "the others were not tried");
    }

    #[test]
    fn a_name_narrows_the_choice() {
        assert_eq!(order(&FOUR, "GPU"), (vec![3, 1, 2], vec![0]));
        assert_eq!(order(&FOUR, "LLVM"), (vec![0], vec![3, 1, 2]));
        let error = choose(&FOUR, &wanted("other"), &[0]).unwrap_err();
        assert!(error.to_string().contains("`other`") && error.to_string().contains("Small GPU"), "{error}");
        assert_eq!(choose(&[], &wanted("other"), &[]), Err(GpuError::NoAdapter));
        let apis = Wanted { apis: Some("gl".into()), ..Wanted::default() };
        assert!(choose(&[], &apis, &[]).unwrap_err().to_string().contains("WGPU_BACKEND=gl"));
    }

    #[test]
    fn a_list_and_a_choice_agree_on_this_machine() {
        if mils_tests::skips_gpu() {
            return;
        }
        let adapters = Adapters::list();
        match (adapters.chosen(), open(Use::Off)) {
            (Ok(listed), Ok(opened)) => assert_eq!(listed.full_name(), name(&opened.info)),
            (Err(listed), Err(opened)) => assert_eq!(listed, opened),
            (listed, opened) => panic!("{listed:?}, but {:?}", opened.map(|o| o.info)),
        }
    }

    #[test]
    fn adapters_that_cannot_run_the_kernels_are_told_so() {
        let compute = DownlevelFlags::COMPUTE_SHADERS;
        assert_eq!(lack(compute, &Limits::default()), None);
        assert!(lack(DownlevelFlags::empty(), &Limits::default()).is_some());
        let small = Limits { max_compute_workgroup_storage_size: 8192, ..Limits::default() };
        assert!(lack(compute, &small).unwrap().contains("allows 8192 bytes of workgroup memory"));
        let few = Limits { max_storage_buffers_per_shader_stage: 4, ..Limits::default() };
        assert!(lack(compute, &few).unwrap().contains("storage buffers"));
    }
}
