//! How soon a revoked token is refused everywhere: 10 to 10,000 nodes on one store, in simulated
//! time with the code of the authority (`tests/simulation`).
//!
//! `cargo bench --bench nodes` prints Markdown rows, and fails if a token was accepted beyond the
//! bound. Options behind `--`: `--nodes N`, `--revocations N`, `--seed N`. `--defect NAME` breaks
//! the code, to see the check fail: `watch-proves`, `end-proves` or `compared-before`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../simulation/mod.rs"]
mod simulation;

use std::env;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use simulation::{Defect, Engine, NodeFaults, Scenario, quantile};

/// The stores, in microseconds, each time as least, median and most.
///
/// The times were measured on two cores, over loopback and without a queue: a network adds its
/// round trip. Sources of each column:
///
/// - etcd 3.4, three members. Read: a linearizable range of one small key, 1.7 to 3 ms. News: its
///   watch, median below 0.1 ms after the answer, at most 18 ms.
/// - `PostgreSQL` 15. Read: SELECT of the version, 1.1 ms; the tail is that of its news. News:
///   LISTEN, median 0.2 ms after the answer, at most 14 ms.
/// - S3 (moto, `SeaweedFS`). Read: GET with If-None-Match, answered by 304, 1 to 7 ms. No news.
///
/// The reads a second of etcd and `PostgreSQL` are those that `tests/bench/nodes/run` has measured,
/// rounded down. AWS states 5,500 GET a second for a prefix of S3.
fn engines() -> [Engine; 3] {
    [
        Engine { name: "etcd", read: [1_700, 2_300, 3_000], news: Some([50, 100, 18_000]), capacity: 5_400 },
        Engine {
            name: "PostgreSQL",
            read: [1_000, 1_100, 14_000],
            news: Some([100, 200, 14_000]),
            capacity: 18_800,
        },
        Engine { name: "S3", read: [1_000, 3_000, 7_000], news: None, capacity: 5_500 },
    ]
}

/// Numbers of nodes. With each: the poll interval, the maximum staleness and the time between two
/// revocations, in seconds. All nodes read each change, so many nodes need rare changes.
const SIZES: [(usize, u64, u64, u64); 6] = [
    (10, 1, 10, 3),
    (100, 1, 10, 3),
    (1_000, 1, 10, 10),
    (1_000, 5, 20, 10),
    (10_000, 1, 10, 10),
    (10_000, 15, 60, 60),
];

/// One event in a hundred is lost. A node is cut off every minute for up to 30 seconds, and stopped
/// every two minutes for up to 20.
const FAULTS: NodeFaults = NodeFaults {
    lost_news: 0.01,
    cuts: (Duration::from_mins(1), Duration::from_secs(30)),
    stops: (Duration::from_mins(2), Duration::from_secs(20)),
};

/// The value of an option.
fn option<T: FromStr>(name: &str) -> Option<T> {
    let value = env::args().skip_while(|argument| argument != name).nth(1)?;
    Some(value.parse().ok().unwrap_or_else(|| panic!("{name} {value}")))
}

fn defect() -> Option<Defect> {
    match option::<String>("--defect")?.as_str() {
        "watch-proves" => Some(Defect::WatchProves),
        "end-proves" => Some(Defect::EndProves),
        "compared-before" => Some(Defect::ComparedBefore),
        name => panic!("--defect {name}"),
    }
}

fn main() -> ExitCode {
    let only: Option<usize> = option("--nodes");
    let mut beyond_bound = 0;
    println!(
        "| store | nodes | interval, staleness, a change every | faults | refused everywhere: p50 | p99 | max | on one node: p50 | p99 | beyond the bound | reads a second | of the store | 503 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for engine in engines() {
        for (nodes, interval, max_staleness, every) in SIZES {
            if only.is_some_and(|only| only != nodes) {
                continue;
            }
            for faults in [None, Some(FAULTS)] {
                let scenario = Scenario {
                    engine: engine.clone(),
                    nodes,
                    interval: Duration::from_secs(interval),
                    max_staleness: Duration::from_secs(max_staleness),
                    every: Duration::from_secs(every),
                    revocations: option("--revocations").unwrap_or(100),
                    faults,
                    defect: defect(),
                    seed: option("--seed").unwrap_or(1),
                };
                let mut report = scenario.run();
                beyond_bound += report.beyond_bound;
                let mut at = |part| seconds(quantile(&mut report.refused_everywhere, part));
                let everywhere = [at(0.5), at(0.99), at(1.0)].join(" | ");
                let mut at = |part| seconds(quantile(&mut report.refused, part));
                println!(
                    "| {} | {nodes} | {interval} s, {max_staleness} s, {every} s | {} | {everywhere} | {} | {} | {} | {:.0} | {:.0} % | {:.2} % |",
                    engine.name,
                    if faults.is_some() { "yes" } else { "no" },
                    at(0.5),
                    at(0.99),
                    report.beyond_bound,
                    report.reads_per_second,
                    report.reads_per_second * 100.0 / f64::from(engine.capacity),
                    report.unavailable * 100.0,
                );
            }
        }
    }
    if beyond_bound == 0 {
        return ExitCode::SUCCESS;
    }
    eprintln!("{beyond_bound} acceptances of revoked tokens are beyond the maximum staleness");
    ExitCode::FAILURE
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}
