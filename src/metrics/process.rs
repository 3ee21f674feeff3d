//! The series of the process: those of the prometheus crate, with processor time in parts of seconds.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};
use rustix::time::{ClockId, clock_gettime};

use super::catalogue;

/// One set of series, however many registries it is in.
#[derive(Clone)]
pub(super) struct Process(Arc<ProcessCollector>);

impl Process {
    pub(super) fn new() -> Self {
        Self(Arc::new(ProcessCollector::for_self()))
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    /// The crate counts whole seconds, so that the rate of an idle daemon would be stairs.
    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let cpu = families.iter_mut().filter(|family| family.name() == catalogue::PROCESS_CPU.name);
        for metric in cpu.flat_map(|family| family.mut_metric()) {
            let mut seconds = Counter::default();
            seconds.set_value(processor_seconds());
            metric.set_counter(seconds);
        }
        families
    }
}

fn processor_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
