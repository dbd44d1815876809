//! The least of an HTTP client: one connection, one request at a time.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

pub(crate) struct Client {
    stream: TcpStream,
    address: String,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, address: address.to_owned(), buffer: vec![0; 16 * 1024] }
    }

    /// The bytes of a request without a body.
    pub(crate) fn request(&self, method: &str, path: &str, token: &str) -> String {
        let length = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        let host = &self.address;
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n{length}\r\n")
    }

    /// Sends a request, and returns the status and the body of its response.
    pub(crate) fn send(&mut self, request: &str) -> (u16, &str) {
        self.stream.write_all(request.as_bytes()).unwrap();
        let mut filled = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert_ne!(count, 0, "the server closes the connection");
            filled += count;
            let text = std::str::from_utf8(&self.buffer[..filled]).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
            });
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        let text = std::str::from_utf8(&self.buffer[..filled]).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body)
    }
}
