//! Holds the answers to commands against the audit log, which has the order of all changes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde_json::Value;

use crate::support::history::chain::{self, Kind, Operation, Outcome, State, Violation};
use crate::support::history::{Moment, NEVER};

/// A command of a client, and its last answer.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) begin: Moment,
    pub(super) end: Moment,
    /// As the audit log names it.
    pub(super) action: &'static str,
    pub(super) subject: String,
    /// Where it was sent from: the log has the address of the request that made the change.
    pub(super) addresses: Vec<Ipv4Addr>,
    pub(super) outcome: Outcome,
}

/// A sequence number that a node stated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) begin: Moment,
    pub(super) end: Moment,
    pub(super) sequence: u64,
}

/// Why the answers and the audit log do not belong to one history.
#[derive(Debug)]
pub(super) enum LogViolation {
    /// Two logs have different records of one number.
    Diverged(u64),
    /// No log has a record of this number.
    Missing(u64),
    /// A change was acknowledged, and no log has it.
    Lost(String),
    /// A record is not what its request asked for.
    Foreign(String),
    /// The second record of a command.
    Twice(String),
    Order(Violation),
}

impl fmt::Display for LogViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diverged(sequence) => write!(f, "diverged logs: two records have the number {sequence}"),
            Self::Missing(sequence) => write!(f, "missing record: no log has number {sequence}"),
            Self::Lost(command) => write!(f, "lost acknowledged change: {command}"),
            Self::Foreign(record) => write!(f, "record that no command asked for: {record}"),
            Self::Twice(record) => write!(f, "second record of one command: {record}"),
            Self::Order(violation) => violation.fmt(f),
        }
    }
}

fn state(sequence: u64) -> State {
    State::try_from(sequence).unwrap()
}

/// The records of all logs, by their numbers.
fn merge(logs: &[Vec<Value>]) -> Result<BTreeMap<u64, &Value>, LogViolation> {
    let mut records = BTreeMap::new();
    for record in logs.iter().flatten() {
        let sequence = record["sequence"].as_u64().unwrap();
        if records.insert(sequence, record).is_some_and(|other| other != record) {
            return Err(LogViolation::Diverged(sequence));
        }
    }
    let last = records.keys().last().copied().unwrap_or_default();
    match (1..=last).find(|sequence| !records.contains_key(sequence)) {
        Some(sequence) => Err(LogViolation::Missing(sequence)),
        None => Ok(records),
    }
}

/// The address of the request that made a change; none for one of a node itself.
fn source(record: &Value) -> Option<Ipv4Addr> {
    let address = record["origin"].as_str().unwrap().strip_prefix("http ")?;
    Some(*address.parse::<SocketAddrV4>().unwrap().ip())
}

/// Checks that each acknowledged command has one record, no other command has one but those of an
/// unknown outcome, and the records are in an order that the clients could see. A sequence number
/// of a node is at most as old as `bound`. Returns the number of records.
pub(super) fn check(
    commands: &[Command],
    seen: &[Seen],
    bound: Duration,
    logs: &[Vec<Value>],
) -> Result<usize, LogViolation> {
    let records = merge(logs)?;
    let numbers: HashMap<Ipv4Addr, usize> = commands
        .iter()
        .enumerate()
        .flat_map(|(number, command)| command.addresses.iter().map(move |address| (*address, number)))
        .collect();
    let mut sequences: Vec<Option<u64>> = vec![None; commands.len()];
    let mut history = Vec::new();
    for (sequence, record) in &records {
        let (begin, end, outcome) = match source(record) {
            // Of a node itself, or from before the history.
            None | Some(Ipv4Addr::LOCALHOST) => (0, NEVER, Outcome::Unknown),
            Some(address) => {
                let foreign = || LogViolation::Foreign(record.to_string());
                let number = *numbers.get(&address).ok_or_else(foreign)?;
                let command = &commands[number];
                if record["action"] != command.action || record["subject"]["name"] != command.subject.as_str()
                {
                    return Err(foreign());
                }
                if sequences[number].replace(*sequence).is_some() {
                    return Err(LogViolation::Twice(record.to_string()));
                }
                (command.begin, command.end, command.outcome)
            }
        };
        let kind = Kind::Swap { expected: state(sequence - 1), new: state(*sequence), outcome };
        history.push(Operation { begin, end, kind });
    }
    // A deletion whose outcome was unknown is acknowledged once the token is gone, also if another
    // client has deleted it meanwhile.
    let is_done_by_another = |command: &Command| {
        command.action == "delete"
            && commands.iter().zip(&sequences).any(|(other, sequence)| {
                sequence.is_some()
                    && (other.action, &other.subject) == ("delete", &command.subject)
                    && other.begin < command.end
            })
    };
    for (command, sequence) in commands.iter().zip(&sequences) {
        if command.outcome == Outcome::Won && sequence.is_none() && !is_done_by_another(command) {
            return Err(LogViolation::Lost(format!("{command:?}")));
        }
    }
    // A node may answer from memory: its answer is at most that much older.
    let bound = u64::try_from(bound.as_nanos()).unwrap();
    history.extend(seen.iter().map(|seen| Operation {
        begin: seen.begin.saturating_sub(bound),
        end: seen.end,
        kind: Kind::Read(state(seen.sequence)),
    }));
    let last = Operation { begin: NEVER, end: NEVER, kind: Kind::Read(state(records.len() as u64)) };
    history.push(last);
    chain::check(&history).map_err(LogViolation::Order)?;
    Ok(records.len())
}
