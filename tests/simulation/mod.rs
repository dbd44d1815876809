//! Many nodes on one store, in simulated time: the rule of freshness and the schedule of polls as
//! the authority runs them (`host/src/authority/freshness.rs`), on a clock and a store of numbers.
//!
//! The store is a queue that takes so many reads a second. A read finds the state at its arrival,
//! which is the earliest moment that a linearizable read may show. Nodes are cut off and stopped,
//! and news are lost. Each acceptance of a revoked token is held against the bound. The same seed
//! gives the same result.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "times and counts are far from the limits of their types"
)]

#[path = "../../host/src/authority/freshness.rs"]
#[allow(dead_code, unreachable_pub, reason = "the simulation uses a part")]
mod freshness;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fastrand::Rng;

use self::freshness::{Freshness, Moment, PollSchedule, Proof, ProofSource};

/// How long a node waits for an answer to a read (`CALL_TIMEOUT`).
const CALL_TIMEOUT: u64 = 2_000_000;

/// A store, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) name: &'static str,
    /// A read of the version, without waiting in the queue: least, median, most.
    pub(crate) read: [u64; 3],
    /// From the acknowledgement of a change to its news at a node; `None` without news.
    pub(crate) news: Option<[u64; 3]>,
    /// The reads a second that it takes.
    pub(crate) capacity: u32,
}

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) engine: Engine,
    pub(crate) nodes: usize,
    pub(crate) interval: Duration,
    pub(crate) max_staleness: Duration,
    /// The number of tokens that are revoked.
    pub(crate) revocations: usize,
    /// The time between two revocations, less up to half of it.
    pub(crate) every: Duration,
    pub(crate) faults: Option<NodeFaults>,
    pub(crate) defect: Option<Defect>,
    pub(crate) seed: u64,
}

/// What happens to nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeFaults {
    /// The part of news that is lost.
    pub(crate) lost_news: f64,
    /// The mean time from the end of a cut of a node to the next, and the longest cut.
    pub(crate) cuts: (Duration, Duration),
    /// The same for processes that are stopped, such as by a move of their machine.
    pub(crate) stops: (Duration, Duration),
}

/// A defect that the bound must reveal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A node that is cut off proves its snapshot by what a watch has named last.
    WatchProves,
    /// A read proves the moment at which it ended.
    EndProves,
    /// The proof is compared before the token is checked, and not after.
    ComparedBefore,
}

/// What a run has shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// For each revocation, the time from its acknowledgement to the last acceptance anywhere.
    pub(crate) refused_everywhere: Vec<Duration>,
    /// The same for each revocation and node.
    pub(crate) refused: Vec<Duration>,
    /// Acceptances later than the maximum staleness after the acknowledgement.
    pub(crate) beyond_bound: usize,
    /// Reads that arrived at the store, a second.
    pub(crate) reads_per_second: f64,
    /// The part of the time in which a node refused all tokens, while it ran.
    pub(crate) unavailable: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A poll may be due.
    Due,
    /// A read arrives at the store.
    Arrives(Read),
    /// Its answer arrives at the node, or its deadline is over.
    Ends(Read, Option<usize>),
    News,
    Cut,
    Connected,
    Stopped,
    Continued,
    /// A command on this node revokes a token; its swap takes effect.
    Revoked,
    /// The answer to that command, with the moment at which the swap took effect.
    Acknowledged(usize, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Read {
    began: u64,
    /// The way to the store, or back.
    half: u64,
    is_load: bool,
}

struct Node {
    schedule: PollSchedule,
    proof: AtomicU64,
    /// The number of the newest revocation that its snapshot has.
    version: usize,
    is_reading: bool,
    is_cut: bool,
    is_stopped: bool,
    /// The moments until which its acceptances are known, and the newest acceptance.
    settled: u64,
    accepted: u64,
    unavailable: u64,
    /// What happened while it was stopped.
    deferred: Vec<Event>,
}

pub(crate) struct Simulation {
    scenario: Scenario,
    rule: Freshness,
    nodes: Vec<Node>,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize, Event)>>,
    events: u64,
    random: Rng,
    /// When the store has served all reads that have arrived.
    free_at: u64,
    reads: u64,
    version: usize,
    /// When each revocation was acknowledged.
    acknowledged: Vec<u64>,
    /// When the faults end.
    faults_end: u64,
    report: Report,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

const fn moment(micros: u64) -> Moment {
    Moment::new(Duration::from_micros(micros))
}

impl Scenario {
    /// Runs it.
    pub(crate) fn run(self) -> Report {
        let mut random = Rng::with_seed(self.seed);
        // The origin of the clock is long ago.
        let start = 1_000_000_000;
        let interval = micros(self.interval);
        let nodes = (0..self.nodes).map(|_| {
            let begins = start + random.u64(0..interval);
            Node {
                schedule: PollSchedule::new(self.interval, moment(begins), random.u64(..)),
                proof: AtomicU64::new(Proof::new(moment(start), ProofSource::Start).word()),
                version: 0,
                is_reading: false,
                is_cut: false,
                is_stopped: false,
                settled: start,
                accepted: start,
                unavailable: 0,
                deferred: Vec::new(),
            }
        });
        let nodes = nodes.collect();
        // Each node has polled before the first one.
        let first = start + 2 * interval;
        let last = first + micros(self.every) * self.revocations as u64;
        let end = last + micros(self.max_staleness) + 4 * interval + 2 * CALL_TIMEOUT;
        let mut simulation = Simulation {
            rule: Freshness::new(self.max_staleness),
            nodes,
            now: start,
            queue: BinaryHeap::new(),
            events: 0,
            random,
            free_at: 0,
            reads: 0,
            version: 0,
            acknowledged: Vec::new(),
            faults_end: last,
            report: Report {
                refused_everywhere: vec![Duration::ZERO; self.revocations],
                refused: Vec::new(),
                beyond_bound: 0,
                reads_per_second: 0.0,
                unavailable: 0.0,
            },
            scenario: self,
        };
        simulation.plan(first);
        while let Some(Reverse((time, _, node, event))) = simulation.queue.pop() {
            if time > end {
                break;
            }
            simulation.now = time;
            simulation.happen(node, event);
        }
        simulation.now = end;
        simulation.finish(end - start)
    }
}

impl Simulation {
    /// Plans what does not depend on the nodes.
    fn plan(&mut self, first: u64) {
        for number in 0..self.nodes.len() {
            self.push_due(number);
            if let Some(faults) = self.scenario.faults {
                for (event, (mean, _)) in [(Event::Cut, faults.cuts), (Event::Stopped, faults.stops)] {
                    let after = self.random.u64(0..2 * micros(mean));
                    self.push(after, number, event);
                }
            }
        }
        for number in 0..self.scenario.revocations as u64 {
            let node = self.random.usize(0..self.nodes.len());
            let every = micros(self.scenario.every);
            let time = first + every * number + self.random.u64(0..every / 2);
            self.push(time - self.now, node, Event::Revoked);
        }
    }

    fn push(&mut self, after: u64, node: usize, event: Event) {
        self.events += 1;
        self.queue.push(Reverse((self.now + after, self.events, node, event)));
    }

    fn push_due(&mut self, node: usize) {
        let due = self.nodes[node].schedule.due().since(moment(self.now));
        // Rounded up: the poller never reads early.
        let after = u64::try_from(due.as_nanos().div_ceil(1000)).unwrap();
        self.push(after, node, Event::Due);
    }

    /// A time between the least and the most, below the median as often as above.
    fn draw(&mut self, [least, median, most]: [u64; 3]) -> u64 {
        let place = self.random.f64();
        let (from, to, part) =
            if place < 0.5 { (least, median, place * 2.0) } else { (median, most, place * 2.0 - 1.0) };
        // The upper half is a tail: most of it lies near the median.
        let part = if place < 0.5 { part } else { part.powi(4) };
        from + ((to - from) as f64 * part) as u64
    }

    fn happen(&mut self, node: usize, event: Event) {
        match event {
            Event::Arrives(read) => return self.arrive(node, read),
            Event::Revoked => return self.revoke(node),
            Event::Continued => return self.continue_node(node),
            _ => {}
        }
        let state = &mut self.nodes[node];
        if state.is_stopped && !matches!(event, Event::Cut | Event::Connected) {
            state.deferred.push(event);
            return;
        }
        match event {
            Event::Due => self.poll(node),
            Event::Ends(read, found) => self.end_read(node, read, found),
            // A connection that is cut loses them.
            Event::News if !state.is_cut => {
                state.schedule.note_news();
                self.push_due(node);
            }
            Event::Cut => {
                state.is_cut = true;
                if let Some(after) = self.fault_time(|faults| faults.cuts.1) {
                    self.push(after, node, Event::Connected);
                }
            }
            Event::Connected => {
                state.is_cut = false;
                if self.scenario.engine.news.is_some() {
                    // A watch that is there again is news.
                    let after = self.random.u64(0..1_000_000);
                    self.push(after, node, Event::News);
                }
                self.plan_next(node, Event::Cut, |faults| faults.cuts.0);
            }
            Event::Stopped => {
                self.settle(node);
                self.nodes[node].is_stopped = true;
                if let Some(after) = self.fault_time(|faults| faults.stops.1) {
                    self.push(after, node, Event::Continued);
                }
            }
            Event::Acknowledged(revocation, swapped) => self.publish(node, revocation, swapped),
            _ => {}
        }
    }

    /// A random time up to that of the faults, if there are any.
    fn fault_time(&mut self, time: impl Fn(&NodeFaults) -> Duration) -> Option<u64> {
        let faults = self.scenario.faults.as_ref()?;
        Some(self.random.u64(1..=micros(time(faults))))
    }

    fn plan_next(&mut self, node: usize, event: Event, mean: impl Fn(&NodeFaults) -> Duration) {
        if let Some(after) = self.fault_time(|faults| mean(faults) * 2)
            && self.now + after < self.faults_end
        {
            self.push(after, node, event);
        }
    }

    fn continue_node(&mut self, node: usize) {
        let state = &mut self.nodes[node];
        state.is_stopped = false;
        if self.scenario.defect == Some(Defect::ComparedBefore) && state.accepted == state.settled {
            // The comparison was made before the stop.
            state.accepted = self.now;
        }
        // The check that was in progress ends now.
        self.settle(node);
        for event in std::mem::take(&mut self.nodes[node].deferred) {
            self.happen(node, event);
        }
        self.plan_next(node, Event::Stopped, |faults| faults.stops.0);
    }

    /// Begins a poll, if one is due.
    fn poll(&mut self, node: usize) {
        let now = moment(self.now);
        let state = &mut self.nodes[node];
        if !state.is_reading && state.schedule.due() <= now {
            state.is_reading = true;
            state.schedule.begin(now);
            self.begin_read(node, false);
        }
    }

    fn begin_read(&mut self, node: usize, is_load: bool) {
        let half = self.draw(self.scenario.engine.read) / 2;
        let read = Read { began: self.now, half, is_load };
        let state = &self.nodes[node];
        if !state.is_cut {
            self.push(half, node, Event::Arrives(read));
        } else if self.scenario.defect == Some(Defect::WatchProves) {
            let version = state.version;
            self.push(half, node, Event::Ends(read, Some(version)));
        } else {
            self.push(CALL_TIMEOUT, node, Event::Ends(read, None));
        }
    }

    fn arrive(&mut self, node: usize, read: Read) {
        self.reads += 1;
        let deadline = read.began + CALL_TIMEOUT;
        let served = self.free_at.max(self.now) + 1_000_000 / u64::from(self.scenario.engine.capacity);
        let answer = served + read.half;
        if answer > deadline {
            // The client has closed its connection before the store comes to this read.
            return self.push(deadline - self.now, node, Event::Ends(read, None));
        }
        self.free_at = served;
        self.push(answer - self.now, node, Event::Ends(read, Some(self.version)));
    }

    fn end_read(&mut self, node: usize, read: Read, found: Option<usize>) {
        let state = &mut self.nodes[node];
        let deadline = read.began + CALL_TIMEOUT;
        let proves_by_watch = self.scenario.defect == Some(Defect::WatchProves);
        let mut answered = found.filter(|_| self.now <= deadline);
        if state.is_cut && answered.is_some() && !proves_by_watch {
            if self.now < deadline {
                return self.push(deadline - self.now, node, Event::Ends(read, None));
            }
            answered = None;
        }
        if let Some(found) = answered {
            let began = if self.scenario.defect == Some(Defect::EndProves) { self.now } else { read.began };
            if found == state.version {
                self.prove(node, began);
            } else if read.is_load {
                self.publish(node, found, began);
            } else {
                return self.begin_read(node, true);
            }
        }
        let state = &mut self.nodes[node];
        state.is_reading = false;
        state.schedule.end(answered.is_some(), moment(self.now));
        self.push_due(node);
    }

    /// Revokes a token. The node that does so must reach the store.
    fn revoke(&mut self, node: usize) {
        let node = (node..node + self.nodes.len())
            .map(|node| node % self.nodes.len())
            .find(|node| !self.nodes[*node].is_cut && !self.nodes[*node].is_stopped);
        let Some(node) = node else { return };
        self.version += 1;
        let acknowledged = self.draw(self.scenario.engine.read) / 2;
        self.acknowledged.push(self.now + acknowledged);
        self.push(acknowledged, node, Event::Acknowledged(self.version, self.now));
        if let Some(news) = self.scenario.engine.news {
            let lost = self.scenario.faults.map_or(0.0, |faults| faults.lost_news);
            for node in 0..self.nodes.len() {
                if self.random.f64() >= lost {
                    let after = acknowledged + self.draw(news);
                    self.push(after, node, Event::News);
                }
            }
        }
    }

    fn prove(&mut self, node: usize, began: u64) {
        self.settle(node);
        Proof::new(moment(began), ProofSource::Poll).extend(&self.nodes[node].proof);
    }

    /// Publishes a state on a node, unless it has a newer one.
    fn publish(&mut self, node: usize, found: usize, began: u64) {
        let known = self.nodes[node].version;
        if found <= known {
            return;
        }
        self.settle(node);
        for revocation in known..found {
            self.note_refusal(node, revocation);
        }
        let state = &mut self.nodes[node];
        state.version = found;
        state.proof = AtomicU64::new(Proof::new(moment(began), ProofSource::Poll).word());
    }

    /// Notes the last acceptance of a token that this revocation concerns.
    fn note_refusal(&mut self, node: usize, revocation: usize) {
        let late = self.nodes[node].accepted.saturating_sub(self.acknowledged[revocation]);
        let late = Duration::from_micros(late);
        self.report.refused.push(late);
        let everywhere = &mut self.report.refused_everywhere[revocation];
        *everywhere = late.max(*everywhere);
        self.report.beyond_bound += usize::from(late > self.scenario.max_staleness);
    }

    /// Finds the newest acceptance until now on the current snapshot, by the rule itself.
    fn settle(&mut self, node: usize) {
        let now = self.now;
        let (rule, state) = (&self.rule, &mut self.nodes[node]);
        let accepts = |time: u64| rule.accepts(&state.proof, moment(time));
        let last = if accepts(now) {
            Some(now)
        } else if accepts(state.settled) {
            // Between the two there is one moment from which on it refuses.
            let (mut accepted, mut refused) = (state.settled, now);
            while refused - accepted > 1 {
                let middle = accepted.midpoint(refused);
                if accepts(middle) { accepted = middle } else { refused = middle }
            }
            Some(accepted)
        } else {
            None
        };
        if !state.is_stopped {
            state.unavailable += now - last.unwrap_or(state.settled);
        }
        state.accepted = state.accepted.max(last.unwrap_or(0));
        state.settled = now;
    }

    fn finish(mut self, took: u64) -> Report {
        for node in 0..self.nodes.len() {
            self.settle(node);
            for revocation in self.nodes[node].version..self.version {
                self.note_refusal(node, revocation);
            }
        }
        let unavailable: u64 = self.nodes.iter().map(|node| node.unavailable).sum();
        self.report.refused_everywhere.truncate(self.version);
        self.report.reads_per_second = self.reads as f64 * 1e6 / took as f64;
        self.report.unavailable = unavailable as f64 / took as f64 / self.nodes.len() as f64;
        self.report
    }
}

/// The time that this part of the times does not exceed.
pub(crate) fn quantile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let place = (times.len() as f64 * part).ceil() as usize;
    times.get(place.saturating_sub(1)).copied().unwrap_or_default()
}
