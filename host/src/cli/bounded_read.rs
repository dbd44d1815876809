//! Reads a secret within limits of time and size. What a user names can be a pipe that no process
//! writes to, or a device that never ends.

use std::io::{self, BufRead, IsTerminal as _};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use zeroize::Zeroizing;

/// The most bytes of a line.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// Runs `read` in a thread, and returns its result. Fails after the time limit; the thread then
/// ends with the process.
pub(crate) fn within<T: Send + 'static>(
    limit: Duration,
    what: &str,
    read: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .spawn(move || sender.send(read()))
        .with_context(|| format!("cannot read {what}"))?;
    match receiver.recv_timeout(limit) {
        Ok(result) => result,
        Err(_) => bail!(
            "{what} did not arrive within {}; does a process write it? --timeout DURATION waits longer",
            humantime::format_duration(limit)
        ),
    }
}

/// Reads a line of standard input: of a user that types it, without a limit of time.
pub(crate) fn line_of_stdin(limit: Duration, what: &str) -> anyhow::Result<Zeroizing<String>> {
    if io::stdin().is_terminal() {
        return read_line(io::stdin().lock(), what);
    }
    let name = what.to_owned();
    within(limit, what, move || read_line(io::stdin().lock(), &name))
}

/// Reads a line, without white space around it.
pub(crate) fn read_line(from: impl BufRead, what: &str) -> anyhow::Result<Zeroizing<String>> {
    // A buffer that grows leaves copies of the secret in memory.
    let mut line = Zeroizing::new(String::with_capacity(256));
    from.take(MAX_LINE_BYTES).read_line(&mut line).with_context(|| format!("cannot read {what}"))?;
    if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with('\n') {
        bail!("{what} is longer than 64 KiB; was the right file given?");
    }
    Ok(Zeroizing::new(line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn line_has_a_size_limit() {
        let read = |text: &str| read_line(BufReader::new(text.as_bytes()), "the token");
        assert_eq!(*read(" apiv3_x \r\nmore").unwrap(), "apiv3_x");
        assert_eq!(*read("").unwrap(), "");
        assert!(read(&"x".repeat(70_000)).unwrap_err().to_string().contains("longer than 64 KiB"));
        assert!(read_line(BufReader::new(io::repeat(0)), "the token").is_err());
    }

    #[test]
    fn reading_has_a_time_limit() {
        let (_sender, never) = mpsc::channel::<()>();
        let read = move || never.recv().map_err(anyhow::Error::from);
        let error = within(Duration::from_millis(10), "the token", read).unwrap_err();
        assert!(error.to_string().contains("did not arrive within 10ms"), "{error}");
        assert_eq!(within(Duration::from_mins(1), "the token", || Ok(1)).unwrap(), 1);
    }
}
