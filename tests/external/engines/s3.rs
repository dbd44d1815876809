//! What the engines with the API of S3 share.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::signer::Signer as _;

use super::http_fault::read_head;

pub(crate) const ACCESS_KEY: &str = "optoken-test";
pub(crate) const SECRET_KEY: &str = "secret-of-the-engines";
const BUCKET: &str = "optoken";
const REGION: &str = "us-east-1";

/// The URL of a store below this name.
pub(crate) fn url(store: &str, addresses: &[SocketAddr]) -> String {
    format!("s3://{BUCKET}/{store}?endpoint=http://{}&region={REGION}", addresses[0])
}

/// Creates the bucket of all stores. Returns whether the engine has done it, which it may not be
/// ready for.
pub(crate) fn create_bucket(address: SocketAddr) -> bool {
    let client = AmazonS3Builder::new()
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_region(REGION)
        .with_bucket_name(BUCKET)
        .with_access_key_id(ACCESS_KEY)
        .with_secret_access_key(SECRET_KEY)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let signed = client.signed_url("PUT".parse().unwrap(), &Path::ROOT, Duration::from_secs(600));
    let url = runtime.block_on(signed).unwrap();
    let target = &url[url::Position::BeforePath..];
    let Ok(mut connection) = TcpStream::connect(address) else { return false };
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!(
        "PUT {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    if connection.write_all(request.as_bytes()).is_err() {
        return false;
    }
    let mut connection = BufReader::new(connection);
    let Ok(head) = read_head(&mut connection) else { return false };
    let mut body = String::new();
    let _ = connection.read_to_string(&mut body);
    let head = String::from_utf8(head).unwrap();
    // 5xx while it starts.
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(status < 300 || status >= 500, "the bucket cannot be created: {head}{body}");
    status < 300
}
