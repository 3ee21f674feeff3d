//! What each process of a command may use, as the kernel takes it.

use rustix::process::{Resource, Rlimit, getrlimit};

use super::open_files;
use crate::config::ExecLimits;

/// Seconds of processor time between SIGXCPU and SIGKILL.
const CPU_GRACE: u64 = 5;

/// What to set in a command before it starts. Nothing is raised above what the daemon may have.
pub(super) fn of(limits: &ExecLimits) -> Vec<(Resource, Rlimit)> {
    let limited = |resource: Resource, limit: u64, grace: u64| {
        let most = getrlimit(resource).maximum;
        let within = |limit: u64| Some(most.map_or(limit, |most| most.min(limit)));
        (resource, Rlimit { current: within(limit), maximum: within(limit + grace) })
    };
    let files = match limits.files {
        Some(files) => Some(limited(Resource::Nofile, files, 0)),
        None => open_files::given().map(|given| (Resource::Nofile, given)),
    };
    let memory = limits.memory.map(|bytes| limited(Resource::Data, bytes, 0));
    let cpu = limits.cpu.map(|cpu| limited(Resource::Cpu, cpu.as_secs(), CPU_GRACE));
    [files, memory, cpu].into_iter().flatten().collect()
}
