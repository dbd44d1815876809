//! Holds the check of chains against the algorithm of Wing, Gong and Lowe, which searches for an
//! order.

use std::collections::BTreeMap;

use fastrand::Rng;
use todc_utils::{Action, History, Specification, WGLChecker};

use crate::support::history::chain::{INITIAL, Kind, Operation, Outcome, State, Violation, check};

/// Histories of each size, half of them broken.
const HISTORIES: u64 = 2_500;

/// Operations of a history. The search needs a time that grows fast with them.
const SIZES: [usize; 4] = [3, 5, 8, 12];

/// The register as the search knows it. An unknown swap that wrote is one that won, without an end.
struct Register;

impl Specification for Register {
    type State = State;
    type Operation = Kind;

    fn init() -> State {
        INITIAL
    }

    fn apply(operation: &Kind, state: &State) -> (bool, State) {
        match *operation {
            Kind::Read(found) => (found == *state, *state),
            Kind::Swap { expected, outcome: Outcome::Refused, .. } => (expected != *state, *state),
            Kind::Swap { outcome: Outcome::Failed, .. } => (true, *state),
            Kind::Swap { expected, new, .. } if expected == *state => (true, new),
            Kind::Swap { .. } => (false, *state),
        }
    }
}

/// Searches for an order of all operations, with every choice of the unknown swaps that wrote.
fn search(history: &[Operation]) -> bool {
    let is_unknown =
        |operation: &&Operation| matches!(operation.kind, Kind::Swap { outcome: Outcome::Unknown, .. });
    let unknown: Vec<_> = history.iter().filter(is_unknown).copied().collect();
    let known: Vec<_> = history.iter().filter(|operation| !is_unknown(operation)).copied().collect();
    (0_u32..1 << unknown.len()).any(|choice| {
        let wrote = unknown.iter().enumerate().filter(|(bit, _)| choice >> bit & 1 == 1);
        let wrote = wrote.map(|(_, operation)| Operation { end: u64::MAX, ..*operation });
        let operations: Vec<_> = known.iter().copied().chain(wrote).collect();
        // A call at the time of a response is concurrent with it.
        let mut actions: Vec<_> = operations
            .iter()
            .enumerate()
            .flat_map(|(process, operation)| {
                let Operation { begin, end, kind } = *operation;
                [(begin, 0, process, Action::Call(kind)), (end, 1, process, Action::Response(kind))]
            })
            .collect();
        actions.sort_by_key(|(at, is_response, process, _)| (*at, *is_response, *process));
        let actions: Vec<_> = actions.into_iter().map(|(.., process, action)| (process, action)).collect();
        actions.is_empty() || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    })
}

/// A client of the simulated register.
#[derive(Default)]
struct Client {
    /// The states that it has found.
    known: Vec<State>,
    call: Option<Pending>,
}

/// An operation between its begin and its end.
struct Pending {
    begin: u64,
    expected: Option<State>,
    new: State,
    /// Its result, once the register has carried it out.
    done: Option<Kind>,
}

/// A swap whose answer was lost, and which the register may carry out later.
struct Late {
    number: usize,
    expected: State,
    new: State,
}

/// Plays some clients against a register that carries out each operation at one moment. `fault` is
/// how often of 100 it fails to: it swaps without a condition, or returns an earlier state.
fn play(random: &mut Rng, size: usize, fault: u32) -> Vec<Operation> {
    let mut clients: Vec<Client> = (0..random.usize(2..=4)).map(|_| Client::default()).collect();
    let mut history: Vec<Operation> = Vec::new();
    let (mut states, mut last, mut begun) = (vec![INITIAL], INITIAL, 0);
    let mut late: Vec<Late> = Vec::new();
    for now in 0.. {
        if history.len() == size {
            break;
        }
        if random.u32(0..8) == 0
            && let Some(at) = (!late.is_empty()).then(|| random.usize(0..late.len()))
        {
            let Late { number, expected, new } = late.remove(at);
            if states[states.len() - 1] == expected {
                states.push(new);
            }
            assert!(matches!(history[number].kind, Kind::Swap { outcome: Outcome::Unknown, .. }));
            continue;
        }
        let count = clients.len();
        let client = &mut clients[random.usize(0..count)];
        let newest = states[states.len() - 1];
        let breaks = random.u32(0..100) < fault;
        match &mut client.call {
            None if begun < size => {
                begun += 1;
                last += 1;
                let expected = random.bool().then(|| match client.known.last() {
                    Some(newest) if random.u32(0..4) > 0 => *newest,
                    Some(_) => client.known[random.usize(0..client.known.len())],
                    None => INITIAL,
                });
                client.call = Some(Pending { begin: now, expected, new: last, done: None });
            }
            Some(call) if call.done.is_none() => {
                call.done = Some(match call.expected {
                    None if breaks => Kind::Read(states[random.usize(0..states.len())]),
                    None => Kind::Read(newest),
                    Some(expected) => {
                        let new = call.new;
                        let outcome = match random.u32(0..10) {
                            0 => Outcome::Failed,
                            1 | 2 => Outcome::Unknown,
                            _ if expected == newest || breaks => Outcome::Won,
                            _ => Outcome::Refused,
                        };
                        let writes = match outcome {
                            Outcome::Won => true,
                            // Now, later, or never.
                            Outcome::Unknown => expected == newest && random.bool(),
                            _ => breaks && random.bool(),
                        };
                        if writes {
                            states.push(new);
                        }
                        Kind::Swap { expected, new, outcome }
                    }
                });
            }
            Some(Pending { begin, done: Some(kind), .. }) => {
                match *kind {
                    Kind::Read(state) | Kind::Swap { new: state, outcome: Outcome::Won, .. } => {
                        client.known.push(state);
                    }
                    Kind::Swap { expected, new, outcome: Outcome::Unknown }
                        if !states.contains(&new) && random.bool() =>
                    {
                        late.push(Late { number: history.len(), expected, new });
                    }
                    Kind::Swap { .. } => {}
                }
                history.push(Operation { begin: *begin, end: now, kind: *kind });
                client.call = None;
            }
            None | Some(_) => {}
        }
    }
    history
}

/// Changes one fact of a history.
fn change(random: &mut Rng, history: &mut [Operation]) {
    let count = history.len();
    let (one, other) = (random.usize(0..count), random.usize(0..count));
    let some_state = match history[other].kind {
        Kind::Read(state) | Kind::Swap { new: state, .. } => state,
    };
    let made_up = State::MAX - 1;
    let state = if random.u32(0..8) == 0 { made_up } else { some_state };
    match &mut history[one] {
        Operation { begin, end, .. } if random.u32(0..3) == 0 => {
            // Earlier or later, by its own length and more.
            let by = random.u64(1..12);
            if random.bool() {
                (*begin, *end) = (*begin + by, *end + by);
            } else {
                (*begin, *end) = (begin.saturating_sub(by), end.saturating_sub(by));
            }
        }
        Operation { kind: Kind::Read(found), .. } => *found = state,
        Operation { kind: Kind::Swap { expected, new, outcome }, .. } => match random.u32(0..3) {
            0 if state != *new => *expected = state,
            1 => {
                *outcome = match outcome {
                    Outcome::Refused | Outcome::Unknown => Outcome::Won,
                    Outcome::Won | Outcome::Failed => Outcome::Refused,
                }
            }
            _ => *outcome = Outcome::Unknown,
        },
    }
}

/// Returns whether a swap is refused that expected a state which no client can know: that of an
/// unknown swap that no operation shows. No client has such a state.
fn expects_unseen(history: &[Operation]) -> bool {
    history.iter().any(|operation| {
        let Kind::Swap { expected, outcome: Outcome::Refused, .. } = operation.kind else { return false };
        history.iter().any(|other| {
            matches!(other.kind, Kind::Swap { new, outcome: Outcome::Unknown, .. } if new == expected)
        }) && !history.iter().any(|other| other.kind == Kind::Read(expected))
    })
}

#[test]
fn chain_agrees_with_search_on_random_histories() {
    let (mut right, mut compared) = (0, 0);
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for size in SIZES {
        for seed in 0..HISTORIES {
            let mut random = Rng::with_seed(seed * 100 + size as u64);
            let fault = if seed % 4 == 0 { 15 } else { 0 };
            let mut history = play(&mut random, size, fault);
            if seed % 4 == 1 {
                change(&mut random, &mut history);
            }
            if seed % 8 == 1 {
                change(&mut random, &mut history);
            }
            if expects_unseen(&history) {
                continue;
            }
            compared += 1;
            let checked = check(&history);
            let linearizable = search(&history);
            assert_eq!(
                checked.is_ok(),
                linearizable,
                "size {size}, seed {seed}: {checked:?}, but the search finds {linearizable}: {history:#?}"
            );
            assert!(seed % 4 < 2 || linearizable, "the register is broken: {history:#?}");
            match checked {
                Ok(_) => right += 1,
                Err(violation) => *found.entry(violation.check()).or_default() += 1,
            }
        }
    }
    println!("{compared} histories, {right} of them linearizable; {found:?}");
    // Both sides are well covered, and so is each check.
    assert!(right > compared / 2 && right < compared * 9 / 10, "{right} of {compared}");
    for check in [
        "lost update",
        "made-up predecessor",
        "made-up state",
        "denied write",
        "unfounded refusal",
        "stale read",
        "stale swap",
    ] {
        assert!(found.get(check).is_some_and(|count| *count >= 10), "{check}: {found:?}");
    }
}

fn swap(begin: u64, end: u64, expected: State, new: State, outcome: Outcome) -> Operation {
    Operation { begin, end, kind: Kind::Swap { expected, new, outcome } }
}

fn read(begin: u64, end: u64, state: State) -> Operation {
    Operation { begin, end, kind: Kind::Read(state) }
}

#[test]
fn refusals_need_another_state_in_time() {
    use Outcome::{Refused, Unknown, Won};
    // The state was another one before the swap that is refused began, while it ran, or never.
    let refused = |begin, end| vec![swap(10, 20, 0, 1, Won), swap(begin, end, 0, 2, Refused)];
    assert_eq!(check(&refused(30, 40)), Ok(vec![0, 1]));
    assert_eq!(check(&refused(5, 15)), Ok(vec![0, 1]));
    assert_eq!(check(&refused(1, 5)), Err(Violation::UnfoundedRefusal { swap: 1 }));
    // A later read finds that no unknown swap had replaced the state.
    let unknown = [swap(1, 2, 0, 1, Unknown), swap(3, 4, 0, 2, Refused)];
    assert_eq!(check(&unknown), Ok(vec![0]));
    let read_after = [&unknown[..], &[read(5, 6, 0)]].concat();
    assert_eq!(check(&read_after), Err(Violation::UnfoundedRefusal { swap: 1 }));
    let late = [swap(5, 6, 0, 1, Unknown), swap(3, 4, 0, 2, Refused)];
    assert_eq!(check(&late), Err(Violation::UnfoundedRefusal { swap: 1 }));
}

#[test]
fn long_history_is_checked_in_one_pass() {
    /// A state that no swap of the history writes.
    const OTHER: State = State::MAX / 2;
    let mut history = Vec::new();
    for newest in 0..5_000 {
        let at = u64::from(newest) * 100;
        history.push(swap(at, at + 50, newest, newest + 1, Outcome::Won));
        for client in 0..3 {
            let begin = at + 60 + client;
            // Each ends only after some other swaps.
            history.push(read(begin, begin + 1_000, newest + 1));
            let new = OTHER + newest * 3 + u32::try_from(client).unwrap();
            history.push(swap(begin, begin + 1_000, newest.saturating_sub(3), new, Outcome::Refused));
        }
    }
    assert_eq!(check(&history).map(|order| order.len()), Ok(5_001));
    let end = history[history.len() / 2].end;
    history.push(read(end + 50, end + 60, 1_000));
    let Err(Violation::Stale { operation, behind }) = check(&history) else { panic!("not found") };
    // The reads of the last ten rounds have not ended.
    assert!(operation == history.len() - 1 && (1_500..1_520).contains(&behind), "{behind}");
}
