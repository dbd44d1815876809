//! What a piece of work costs the thread that does it.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The cost of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    pub(crate) processor: Duration,
    /// The bytes that were handed to write calls.
    pub(crate) written: u64,
}

pub(crate) fn cost<T>(call: impl FnOnce() -> T) -> (T, Cost) {
    let (written, processor, start) = (written(), processor_time(), Instant::now());
    let result = call();
    let wall = start.elapsed();
    let processor = processor_time().saturating_sub(processor);
    (result, Cost { wall, processor, written: self::written() - written })
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn written() -> u64 {
    number_in("/proc/thread-self/io", "wchar:")
}

/// The memory of this process, and the most that it ever had, in KiB.
pub(crate) fn memory() -> (u64, u64) {
    let memory = |name| number_in("/proc/self/status", name);
    (memory("VmRSS:"), memory("VmHWM:"))
}

fn number_in(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The lower quartile and the median, in microseconds.
pub(crate) fn quartiles(values: impl Iterator<Item = Duration>) -> [u128; 2] {
    let mut values: Vec<Duration> = values.collect();
    values.sort();
    [values.len() / 4, values.len() / 2].map(|at| values[at].as_micros())
}
