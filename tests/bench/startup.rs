//! Time from the start of the server to its first response, and its memory then.
//!
//! `cargo bench --bench startup` starts the optimised server a number of times on fresh data
//! directories.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STARTS: usize = 20;

fn main() {
    let mut runs: Vec<(Duration, u64)> = (0..STARTS).map(|_| start()).collect();
    runs.sort();
    let (median, _) = runs[STARTS / 2];
    let (slowest, _) = runs[STARTS - 1];
    let memory = runs.iter().map(|(_, memory)| memory).max().unwrap();
    println!("startup: ready after {median:.0?} (median of {STARTS}), {slowest:.0?} at most");
    println!("memory: {memory} KiB resident after the first request, at most");
}

/// Starts the server and sends a request. Returns the time to the response, and the resident memory
/// in KiB.
fn start() -> (Duration, u64) {
    let data = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut server = Command::new(env!("CARGO_BIN_EXE_optoken"))
        .args(["serve", "--http-bind", "127.0.0.1:0", "--data-dir"])
        .arg(data.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(server.stderr.take().unwrap());
    let address = log
        .lines()
        .find_map(|line| Some(line.unwrap().split_once("listening on http://")?.1.to_owned()))
        .expect("it listens");
    let mut connection = TcpStream::connect(address).unwrap();
    connection
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let ready = started.elapsed();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let status = fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let memory =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
    let memory = memory.parse().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    (ready, memory)
}
