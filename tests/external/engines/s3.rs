//! What the engines with the API of S3 share.

use std::fmt::Write as _;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;

use super::http_fault::read_head;

pub(crate) const ACCESS_KEY: &str = "optoken-test";
pub(crate) const SECRET_KEY: &str = "secret-of-the-engines";
const BUCKET: &str = "optoken";
const REGION: &str = "us-east-1";

/// The URL of a store below this name.
pub(crate) fn url(store: &str, addresses: &[SocketAddr]) -> String {
    format!("s3://{BUCKET}/{store}?endpoint=http://{}&region={REGION}", addresses[0])
}

/// Creates the bucket of all stores, and an object in it. Returns whether the engine has done both,
/// which it may not be ready for: `SeaweedFS` needs seconds for the first bytes of a bucket.
pub(crate) fn create_bucket(address: SocketAddr) -> bool {
    put(address, &format!("/{BUCKET}"), "") && put(address, &format!("/{BUCKET}/ready"), "ready")
}

/// Creates what has this path. Returns whether it is there.
fn put(address: SocketAddr, path: &str, content: &str) -> bool {
    let credential =
        AwsCredential { key_id: ACCESS_KEY.to_owned(), secret_key: SECRET_KEY.to_owned(), token: None };
    let request = http::Request::put(format!("http://{address}{path}"));
    let body = HttpRequestBody::from(content.to_owned());
    let mut request = request.header("content-length", content.len()).body(body).unwrap();
    AwsAuthorizer::new(&credential, "s3", REGION).try_authorize(&mut request, None).unwrap();
    let mut head = format!("PUT {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in request.headers() {
        write!(head, "{name}: {}\r\n", value.to_str().unwrap()).unwrap();
    }
    head.push_str("\r\n");
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    if connection.write_all([head.as_str(), content].concat().as_bytes()).is_err() {
        return false;
    }
    let mut connection = BufReader::new(connection);
    let Ok(head) = read_head(&mut connection) else { return false };
    let mut body = String::new();
    let _ = connection.read_to_string(&mut body);
    let head = String::from_utf8(head).unwrap();
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    // 409: it exists. 5xx: the engine starts.
    assert!(!(300..500).contains(&status) || status == 409, "{path} cannot be created: {head}{body}");
    status < 500
}
