//! How much main memory this machine has for us.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes of main memory, or of what a container lets us have of it; 0 where that cannot be told.
pub fn total() -> u64 {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let limit = system.cgroup_limits().map(|limits| limits.total_memory).filter(|limit| *limit > 0);
    limit.map_or(system.total_memory(), |limit| limit.min(system.total_memory()))
}
