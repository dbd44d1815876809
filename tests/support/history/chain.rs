//! Checks that a history of reads and compare-and-swaps is linearizable.
//!
//! No state is written twice, and a swap that won names the state before it. So the order of all
//! states is known without a search, and what is left is to hold the place of each operation
//! against real time. The check is exact, and needs O(n log n) steps.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use super::{Moment, NEVER};

/// A state of the store.
pub(crate) type State = u32;

/// The state at the begin of a history.
pub(crate) const INITIAL: State = 0;

/// One operation of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) begin: Moment,
    pub(crate) end: Moment,
    pub(crate) kind: Kind,
}

/// What an operation does, with its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A read that returned this state.
    Read(State),
    /// A compare-and-swap. No other one writes `new`.
    Swap { expected: State, new: State, outcome: Outcome },
}

/// How a compare-and-swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It wrote.
    Won,
    /// It wrote nothing: the state was not the expected one.
    Refused,
    /// It wrote nothing, for another reason.
    Failed,
    /// It wrote or not, then or later.
    Unknown,
}

/// Why a history is not linearizable. Numbers of operations are their places in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Two states have one name.
    SharedVersion { first: usize, second: usize },
    /// Two swaps replaced the same state.
    LostUpdate { state: State, first: usize, second: usize },
    /// A swap replaced a state that was never written, or that it preceded itself.
    MadeUpPredecessor { swap: usize, expected: State },
    /// A read returned a state that was never written.
    MadeUpState { read: usize, state: State },
    /// A swap was answered to have written nothing, and has written.
    DeniedWrite { swap: usize },
    /// A swap was refused while the state was the expected one.
    UnfoundedRefusal { swap: usize },
    /// An operation found an earlier state than an operation that ended before it began.
    Stale { operation: usize, behind: usize },
    /// A swap came before the state that an operation had found before the swap began.
    StaleSwap { swap: usize },
}

impl Violation {
    /// The name of the check.
    pub(crate) const fn check(&self) -> &'static str {
        match self {
            Self::SharedVersion { .. } => "shared version",
            Self::LostUpdate { .. } => "lost update",
            Self::MadeUpPredecessor { .. } => "made-up predecessor",
            Self::MadeUpState { .. } => "made-up state",
            Self::DeniedWrite { .. } => "denied write",
            Self::UnfoundedRefusal { .. } => "unfounded refusal",
            Self::Stale { .. } => "stale read",
            Self::StaleSwap { .. } => "stale swap",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.check())?;
        match self {
            Self::SharedVersion { first, second } => {
                write!(f, "operations {first} and {second} have two states with one version")
            }
            Self::LostUpdate { state, first, second } => {
                write!(f, "operations {first} and {second} both replaced state {state}")
            }
            Self::MadeUpPredecessor { swap, expected } => {
                write!(f, "operation {swap} replaced state {expected}, which was never written before it")
            }
            Self::MadeUpState { read, state } => {
                write!(f, "operation {read} found state {state}, which was never written")
            }
            Self::DeniedWrite { swap } => {
                write!(f, "operation {swap} wrote its state, and was answered that it did not")
            }
            Self::UnfoundedRefusal { swap } => {
                write!(f, "operation {swap} was refused while its expected state was the newest")
            }
            Self::Stale { operation, behind } => {
                write!(f, "operation {operation} is {behind} states behind one that ended before it began")
            }
            Self::StaleSwap { swap } => {
                write!(f, "operation {swap} comes before a state that was found before it began")
            }
        }
    }
}

/// Checks a history. No refused swap expects the state of an unknown swap that no operation shows:
/// no client can know it. Returns all states that were written, in their order.
pub(crate) fn check(history: &[Operation]) -> Result<Vec<State>, Violation> {
    let writers = writers(history)?;
    let order = order(history, &writers)?;
    let places = places(history, &writers, &order)?;
    hold_against_time(history, &places)?;
    Ok(order)
}

/// The swaps that wrote, by their new states: those that won, and the unknown ones whose state was
/// seen. No other operation can show an unknown one, except a refusal by the last state.
fn writers(history: &[Operation]) -> Result<HashMap<State, usize>, Violation> {
    let mut swaps = HashMap::new();
    for (number, operation) in history.iter().enumerate() {
        if let Kind::Swap { new, .. } = operation.kind
            && let Some(first) = swaps.insert(new, number)
        {
            return Err(Violation::SharedVersion { first, second: number });
        }
    }
    let mut seen: Vec<(State, usize)> = Vec::new();
    let mut writers = HashMap::new();
    for (number, operation) in history.iter().enumerate() {
        match operation.kind {
            Kind::Read(state) => seen.push((state, number)),
            Kind::Swap { new, outcome: Outcome::Won, .. } => seen.push((new, number)),
            Kind::Swap { .. } => {}
        }
    }
    while let Some((state, by)) = seen.pop() {
        if state == INITIAL || writers.contains_key(&state) {
            continue;
        }
        let Some(&number) = swaps.get(&state) else {
            return Err(match history[by].kind {
                Kind::Read(_) => Violation::MadeUpState { read: by, state },
                Kind::Swap { .. } => Violation::MadeUpPredecessor { swap: by, expected: state },
            });
        };
        match history[number].kind {
            Kind::Swap { expected, outcome: Outcome::Won | Outcome::Unknown, .. } => {
                writers.insert(state, number);
                seen.push((expected, number));
            }
            _ => return Err(Violation::DeniedWrite { swap: number }),
        }
    }
    Ok(writers)
}

/// The states in the order in which each replaced the one before.
fn order(history: &[Operation], writers: &HashMap<State, usize>) -> Result<Vec<State>, Violation> {
    let mut next = HashMap::new();
    // In the order of the history, so that equal histories have equal results.
    for number in writers.values().copied().collect::<BTreeSet<_>>() {
        let Kind::Swap { expected, new, .. } = history[number].kind else { continue };
        if let Some((first, _)) = next.insert(expected, (number, new)) {
            return Err(Violation::LostUpdate { state: expected, first, second: number });
        }
    }
    let mut order = vec![INITIAL];
    while let Some((_, new)) = next.remove(&order[order.len() - 1]) {
        order.push(new);
    }
    // A circle.
    match next.into_iter().min() {
        None => Ok(order),
        Some((expected, (swap, _))) => Err(Violation::MadeUpPredecessor { swap, expected }),
    }
}

/// The place of an operation among all: even is the swap that writes a state, and odd is any time
/// until the next one.
type Place = usize;

const fn time_of(index: usize) -> Place {
    2 * index + 1
}

/// The operations that have a place, with their numbers, by their begin.
fn places(
    history: &[Operation],
    writers: &HashMap<State, usize>,
    order: &[State],
) -> Result<Vec<(Operation, usize, Place)>, Violation> {
    let index: HashMap<State, usize> =
        order.iter().enumerate().map(|(index, state)| (*state, index)).collect();
    let last = order.len() - 1;
    let mut placed = Vec::new();
    let mut refused = Vec::new();
    // The unknown swap that may have replaced the last state unseen: the earliest serves best.
    let mut unseen: Option<usize> = None;
    for (number, operation) in history.iter().enumerate() {
        match operation.kind {
            Kind::Read(state) => placed.push((*operation, number, time_of(index[&state]))),
            Kind::Swap { new, .. } if writers.contains_key(&new) => {
                let unknown = matches!(operation.kind, Kind::Swap { outcome: Outcome::Unknown, .. });
                // The time of an unknown write is not known.
                let end = if unknown { NEVER } else { operation.end };
                placed.push((Operation { end, ..*operation }, number, 2 * index[&new]));
            }
            Kind::Swap { outcome: Outcome::Refused, expected, .. } => {
                refused.push((operation.begin, number, index.get(&expected)));
            }
            Kind::Swap { outcome: Outcome::Unknown, expected, .. } if expected == order[last] => {
                unseen = unseen.into_iter().chain([number]).min_by_key(|number| history[*number].begin);
            }
            Kind::Swap { .. } => {}
        }
    }
    // Each refusal has the earliest time that the ones before it leave. That leaves the most to
    // those after it.
    refused.sort_unstable();
    let mut ended = EndedBefore::new(&placed);
    let mut uses_unseen = false;
    for (begin, number, expected) in refused {
        let mut at = ended.at(begin).map_or(0, |(place, _)| place / 2);
        if expected == Some(&at) {
            at += 1;
        }
        if at > last {
            uses_unseen = true;
            if unseen.is_none_or(|unseen| history[unseen].begin > history[number].end) {
                return Err(Violation::UnfoundedRefusal { swap: number });
            }
        }
        placed.push((history[number], number, time_of(at)));
        ended.add(history[number].end, time_of(at), number);
    }
    if let (true, Some(number)) = (uses_unseen, unseen) {
        placed.push((Operation { end: NEVER, ..history[number] }, number, 2 * (last + 1)));
    }
    placed.sort_unstable_by_key(|(operation, number, _)| (operation.begin, *number));
    Ok(placed)
}

/// The latest place of the operations that ended before a moment, with the first one that had it.
struct EndedBefore {
    /// Ascending in the moments and in the places.
    ends: BTreeMap<Moment, (Place, usize)>,
}

impl EndedBefore {
    fn new(placed: &[(Operation, usize, Place)]) -> Self {
        let mut ended = Self { ends: BTreeMap::new() };
        for (operation, number, place) in placed {
            ended.add(operation.end, *place, *number);
        }
        ended
    }

    fn add(&mut self, end: Moment, place: Place, number: usize) {
        if self.ends.range(..=end).next_back().is_some_and(|(_, (earlier, _))| *earlier >= place) {
            return;
        }
        // A later end of an earlier place adds nothing.
        while let Some((&later, _)) = self.ends.range(end..).next().filter(|(_, (later, _))| *later <= place)
        {
            self.ends.remove(&later);
        }
        self.ends.insert(end, (place, number));
    }

    fn at(&self, moment: Moment) -> Option<(Place, usize)> {
        self.ends.range(..moment).next_back().map(|(_, ended)| *ended)
    }
}

/// Checks that no operation has an earlier place than one that ended before it began.
fn hold_against_time(history: &[Operation], placed: &[(Operation, usize, Place)]) -> Result<(), Violation> {
    let ended = EndedBefore::new(placed);
    let late = placed.iter().filter_map(|(operation, number, place)| {
        let (before, by) = ended.at(operation.begin)?;
        (before > *place).then(|| (before - place, *number, by))
    });
    // The worst one, and of equals the first.
    let Some((behind, operation, by)) = late.max_by_key(|(behind, number, _)| (*behind, Reverse(*number)))
    else {
        return Ok(());
    };
    Err(match (history[by].kind, history[operation].kind) {
        // The state was replaced only after it.
        (Kind::Swap { outcome: Outcome::Refused, .. }, _) => Violation::UnfoundedRefusal { swap: by },
        (_, Kind::Swap { outcome: Outcome::Won | Outcome::Unknown, .. }) => {
            Violation::StaleSwap { swap: operation }
        }
        _ => Violation::Stale { operation, behind: behind.div_ceil(2) },
    })
}
