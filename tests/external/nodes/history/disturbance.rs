//! The faults of a history, one or two at a time, each kind again and again.

use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::super::engine::SharedStore;
use super::super::{Engine, NODES, Traffic};

/// A fault of the network, an engine, a node or a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Network(Traffic),
    StoppedNode,
    Clock,
    FrozenMember,
    KilledMember,
    FrozenEngine,
}

impl Fault {
    /// The faults that this engine can have.
    pub(super) fn of(engine: &Engine) -> Vec<Self> {
        let mut faults = Vec::new();
        if engine.is_remote {
            faults.extend([Traffic::Cut, Traffic::LosesAnswers, Traffic::Slow].map(Self::Network));
            // The worst of the network.
            faults.extend([Traffic::Cut, Traffic::LosesAnswers].map(Self::Network));
        }
        if engine.members > 0 {
            faults.push(Self::FrozenEngine);
        }
        if engine.members > 1 {
            faults.extend([Self::FrozenMember, Self::KilledMember]);
        }
        faults
    }

    /// Begins or ends the fault of an engine; returns whether it is one.
    pub(super) fn apply_to_engine(self, engine: &Engine, store: &dyn SharedStore, at: &At) {
        let member = at.number % engine.members.max(1);
        match (self, at.begins) {
            (Self::FrozenMember, true) => store.freeze(member),
            (Self::FrozenMember, false) => store.thaw(member),
            (Self::KilledMember, true) => store.kill(member),
            (Self::KilledMember, false) => store.restart(member),
            (Self::FrozenEngine, true) => (0..engine.members).for_each(|member| store.freeze(member)),
            (Self::FrozenEngine, false) => (0..engine.members).for_each(|member| store.thaw(member)),
            (Self::Network(_) | Self::StoppedNode | Self::Clock, _) => {}
        }
    }
}

/// The begin or the end of a fault.
pub(super) struct At {
    pub(super) begins: bool,
    pub(super) node: usize,
    /// Selects a member, or another clock.
    pub(super) number: usize,
}

/// The shortest and the longest time of a fault, in milliseconds.
const TIMES: std::ops::Range<u64> = 300..4_000;

/// Lets each of these faults happen in an order that the seed decides, again and again until
/// `enough`. Returns their number.
pub(super) fn disturb(
    faults: &[Fault],
    seed: u64,
    apply: impl Fn(Fault, &At),
    enough: impl Fn() -> bool,
) -> usize {
    let mut random = Rng::with_seed(seed);
    let mut faults = faults.to_vec();
    let mut count = 0;
    loop {
        random.shuffle(&mut faults);
        for fault in &faults {
            let at = At { begins: true, node: random.usize(0..NODES), number: random.usize(..) };
            apply(*fault, &at);
            thread::sleep(Duration::from_millis(random.u64(TIMES)));
            apply(*fault, &At { begins: false, ..at });
            thread::sleep(Duration::from_millis(random.u64(0..500)));
        }
        count += faults.len();
        if enough() {
            return count;
        }
    }
}
