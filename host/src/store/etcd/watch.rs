//! The watch of the version: it only wakes the poller.
//!
//! A watch is silent without changes, so silence is tried: the same member must answer a read now
//! and then. A member without a leader ends the watch itself. Each watch has a longest life, after
//! which a connection that a proxy keeps open to nothing is gone as well.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::store::News;
use crate::store::etcd::gateway::Gateway;
use crate::store::etcd::message::{WatchLine, encode, range};

/// How long a watch may be silent before its member is asked.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a member may need to answer, or to start a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest life of a watch.
const LIFE: Duration = Duration::from_mins(2);

/// The pause before the next member is asked for a watch, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A watch that has lasted for this long begins the pauses from the first one again.
const STEADY: Duration = Duration::from_secs(30);

/// The most bytes of a line. One has a small value at most.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Watches a key until the task is aborted. Calls `news` at each start and each event.
pub(super) async fn watch(gateway: Arc<Gateway>, key: String, news: News) {
    let mut pause = PAUSES.0;
    loop {
        let members: Vec<usize> = gateway.members().collect();
        for member in members {
            let start = Instant::now();
            follow(&gateway, member, &key, &news).await;
            if start.elapsed() >= STEADY {
                pause = PAUSES.0;
            }
            sleep(with_jitter(pause)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Watches at one member until the watch ends.
async fn follow(gateway: &Gateway, member: usize, key: &str, news: &News) {
    let probe = range(key).to_string();
    // Renews the token of the user, too: a watch with an old one would end at once.
    if !answers(gateway, member, &probe).await {
        return;
    }
    let body = json!({ "create_request": { "key": encode(key.as_bytes()) } }).to_string();
    let started = timeout(ANSWER_TIMEOUT, gateway.stream(member, "watch", &body)).await;
    let Ok(Ok(mut response)) = started else { return };
    let end = Instant::now() + with_jitter(LIFE);
    let (mut has_started, mut pending) = (false, Vec::new());
    while Instant::now() < end {
        let chunk = match timeout(SILENCE, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Err(_) if has_started && answers(gateway, member, &probe).await => continue,
            _ => break,
        };
        pending.extend_from_slice(&chunk);
        while let Some(line) = split_line(&mut pending) {
            match read_line(&line) {
                Line::News => {
                    has_started = true;
                    news();
                }
                Line::Nothing => {}
                Line::End => return,
            }
        }
        if pending.len() > MAX_LINE_BYTES {
            break;
        }
    }
}

async fn answers(gateway: &Gateway, member: usize, probe: &str) -> bool {
    matches!(timeout(ANSWER_TIMEOUT, gateway.ask(member, "kv/range", probe)).await, Ok(Ok(_)))
}

/// Removes the first line, if one is complete.
fn split_line(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = pending.iter().position(|&byte| byte == b'\n')?;
    Some(pending.drain(..=end).collect())
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// The watch has started, or the key has changed.
    News,
    /// Such as progress.
    Nothing,
    /// The watch is over.
    End,
}

fn read_line(line: &[u8]) -> Line {
    match serde_json::from_slice(line) {
        Ok(WatchLine { result: Some(result) }) if !result.canceled => {
            if result.created || !result.events.is_empty() { Line::News } else { Line::Nothing }
        }
        _ => Line::End,
    }
}

/// Returns a time from a half of this one to all of it.
fn with_jitter(time: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    time.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_and_events_are_news() {
        for (line, expected) in [
            (r#"{"result":{"header":{"revision":"3"},"created":true}}"#, Line::News),
            (r#"{"result":{"events":[{"kv":{"key":"aw==","value":"djk="}}]}}"#, Line::News),
            (r#"{"result":{"events":[{"type":"DELETE","kv":{"key":"aw=="}}]}}"#, Line::News),
            (r#"{"result":{"header":{"revision":"3"}}}"#, Line::Nothing),
            (r#"{"result":{"created":true,"canceled":true,"cancel_reason":"permission denied"}}"#, Line::End),
            (r#"{"error":{"grpc_code":14,"message":"etcdserver: no leader"}}"#, Line::End),
            ("x", Line::End),
        ] {
            assert_eq!(read_line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn lines_are_split_across_pieces() {
        let mut pending = b"{}\n{".to_vec();
        assert_eq!(split_line(&mut pending).as_deref(), Some(b"{}\n".as_slice()));
        assert_eq!(split_line(&mut pending), None);
        pending.extend_from_slice(b"}\n");
        assert_eq!(split_line(&mut pending).as_deref(), Some(b"{}\n".as_slice()));
        assert!(pending.is_empty());
    }
}
