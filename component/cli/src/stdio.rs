//! Standard input, output and error, over `wasi:cli`.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use wasip2::cli::{stderr, stdin, stdout};
use wasip2::io::error::Error;
use wasip2::io::streams::{OutputStream, StreamError};
use zeroize::Zeroizing;

/// The longest token that is read, in bytes. Tokens are sent in HTTP headers, and no server accepts
/// a longer one.
pub(crate) const MAX_TOKEN_BYTES: usize = 64 << 10;

/// The most bytes of one read or write (`wasi:io/streams`).
const CHUNK: usize = 4096;

/// Reads the token from standard input: all of it, without one newline at its end. The error has
/// the next step.
pub(crate) fn token() -> Result<Zeroizing<String>, String> {
    let input = stdin::get_stdin();
    // The whole capacity at once: a vector that grows leaves copies of the token behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_TOKEN_BYTES + CHUNK));
    loop {
        match input.blocking_read(CHUNK as u64) {
            Ok(chunk) => bytes.extend_from_slice(&Zeroizing::new(chunk)),
            Err(StreamError::Closed) => break,
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(format!("cannot read standard input: {}", reason(&error)));
            }
        }
        if bytes.len() > MAX_TOKEN_BYTES {
            return Err(format!("standard input has more than {MAX_TOKEN_BYTES} bytes, which no token has"));
        }
    }
    text(&bytes)
}

fn text(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    if bytes.is_empty() {
        return Err("there is no token; give it on standard input, such as: … < FILE".into());
    }
    let text = core::str::from_utf8(bytes).map_err(|_| "standard input is no text, so no token")?;
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(Zeroizing::new(text.into()))
}

/// Writes to standard output.
pub(crate) fn write(text: &str) -> Result<(), String> {
    write_to(&stdout::get_stdout(), text)
        .map_err(|error| format!("cannot write the answer to standard output: {error}"))
}

/// Writes to standard error. A failure is ignored: there is no other channel.
pub(crate) fn write_stderr(text: &str) {
    let _ = write_to(&stderr::get_stderr(), text);
}

fn write_to(stream: &OutputStream, text: &str) -> Result<(), String> {
    for chunk in text.as_bytes().chunks(CHUNK) {
        stream.blocking_write_and_flush(chunk).map_err(|error| match error {
            StreamError::Closed => "it is closed".into(),
            StreamError::LastOperationFailed(error) => reason(&error),
        })?;
    }
    Ok(())
}

/// Returns the first line of the runtime's text. The other lines locate the error in the runtime.
fn reason(error: &Error) -> String {
    error.to_debug_string().lines().next().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_standard_input_without_one_newline() {
        for (bytes, token) in [
            ("apiv3_x", "apiv3_x"),
            ("apiv3_x\n", "apiv3_x"),
            ("apiv3_x\r\n", "apiv3_x"),
            ("apiv3_x\n\n", "apiv3_x\n"),
            (" apiv3_x \n", " apiv3_x "),
            ("\n", ""),
        ] {
            assert_eq!(text(bytes.as_bytes()).unwrap().as_str(), token);
        }
        assert!(text(b"").unwrap_err().contains("give it on standard input"));
        assert!(text(b"\xff").unwrap_err().contains("no text"));
    }
}
