//! Requests at a fixed rate, without coordinated omission.
//!
//! The time of each request is fixed in advance. Its latency counts from that time, also where the
//! response to an earlier request delays it. A generator that waits and then counts from its late
//! start leaves out the requests that a slow server delays.

use std::thread;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::statistics::quantile;
use crate::units::microseconds;

pub(crate) struct Load<'a> {
    pub(crate) address: &'a str,
    pub(crate) token: &'a str,
    /// Requests a second, of all connections together.
    pub(crate) rate: usize,
    pub(crate) connections: usize,
    pub(crate) seconds: usize,
}

impl Load<'_> {
    /// Prints the quantiles of the latency in microseconds.
    pub(crate) fn run(&self) {
        let begin = Instant::now() + Duration::from_millis(100);
        let mut latencies: Vec<f64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.connections)
                .map(|connection| scope.spawn(move || self.connection(connection, begin)))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        println!("requests {}", latencies.len());
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            println!("{name} {:.1}", quantile(&mut latencies, share));
        }
    }

    /// Sends each request whose number, modulo the number of connections, is that of this one.
    fn connection(&self, connection: usize, begin: Instant) -> Vec<f64> {
        let mut client = Client::connect(self.address);
        let request = client.request("GET", "/api/v3/verify", self.token);
        let numbers = (connection..self.rate * self.seconds).step_by(self.connections);
        numbers
            .map(|number| {
                #[expect(clippy::cast_precision_loss, reason = "there are not that many requests")]
                let due = begin + Duration::from_secs_f64(number as f64 / self.rate as f64);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (status, _) = client.send(&request);
                assert_eq!(status, 200);
                microseconds(due.elapsed())
            })
            .collect()
    }
}
