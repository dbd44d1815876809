//! Asks an upstream what it is (`GET /ping`).

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::http::uri::Uri;
use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use optoken_protocol::paths;
use tokio::time;

use crate::http::influxdb3::target::ServiceKind;
use crate::http::proxy::body::RequestBody;
use crate::http::proxy::connect::Versions;
use crate::http::proxy::kind::SharedKind;
use crate::http::proxy::options::UpstreamOptions;
use crate::http::proxy::pool::{Pool, SendError};

/// The header of InfluxDB with its version.
const VERSION_HEADER: &str = "x-influxdb-version";

/// How long to wait before the second question, and at most before a later one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks until the upstream has answered, and notes its kind.
pub(super) async fn detect(pool: Arc<Pool>, options: UpstreamOptions, versions: Versions, kind: SharedKind) {
    let mut pause = FIRST_PAUSE;
    let mut is_reported = false;
    loop {
        match ask(&pool, &options, versions).await {
            Ok(ServiceKind::InfluxDb3) => {
                kind.set(ServiceKind::InfluxDb3);
                return tracing::info!("the upstream {} is InfluxDB 3", options.url);
            }
            Ok(_) => {
                return tracing::info!(
                    "the upstream {} is not InfluxDB 3; --upstream-kind states that, and ends the question",
                    options.url
                );
            }
            Err(why) if is_reported => tracing::debug!("the kind of the upstream is not known: {why}"),
            Err(why) => {
                is_reported = true;
                tracing::warn!(
                    "the kind of the upstream {} is not known yet ({why}); it is asked again, or --upstream-kind states it",
                    options.url
                );
            }
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn ask(pool: &Arc<Pool>, options: &UpstreamOptions, versions: Versions) -> Result<ServiceKind, String> {
    let target = options.url.target(paths::PING, None).ok_or("it has no path")?;
    let prepare = |request: &mut Request<RequestBody>, is_http2: bool| {
        *request.method_mut() = Method::GET;
        if is_http2 {
            let uri = Uri::builder()
                .scheme(options.url.scheme())
                .authority(options.url.authority().clone())
                .path_and_query(target.clone());
            *request.uri_mut() = uri.build().unwrap_or_default();
            *request.version_mut() = Version::HTTP_2;
        } else {
            *request.uri_mut() = Uri::from(target.clone());
            if let Ok(host) = HeaderValue::from_str(options.url.authority().as_str()) {
                request.headers_mut().insert(HOST, host);
            }
        }
        if let Some(token) = &options.token {
            request.headers_mut().insert(AUTHORIZATION, token.header());
        }
    };
    let asking = pool.send(Request::new(RequestBody::empty()), versions, true, prepare);
    let answered = time::timeout(options.timeout, asking).await;
    let (response, _) = answered
        .map_err(|_| "it has not answered in time".to_owned())?
        .map_err(|SendError { cause, .. }| cause)?;
    kind_of(response.status(), response.headers())
}

/// Reads an answer to `/ping`. A refusal leaves the kind open.
fn kind_of(status: StatusCode, headers: &HeaderMap) -> Result<ServiceKind, String> {
    if headers.get(VERSION_HEADER).is_some_and(|version| {
        let version = version.as_bytes().strip_prefix(b"v").unwrap_or(version.as_bytes());
        version.starts_with(b"3.") || version == b"3"
    }) {
        return Ok(ServiceKind::InfluxDb3);
    }
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(format!("it answers {}; does it need a token, with --upstream-token-file?", status.as_u16()))
        }
        status if status.is_server_error() => Err(format!("it answers {}", status.as_u16())),
        _ => Ok(ServiceKind::Unspecified),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_of_the_answer_decides() {
        let answer = |status: u16, version: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(version) = version {
                headers.insert(VERSION_HEADER, HeaderValue::from_static(version));
            }
            kind_of(StatusCode::from_u16(status).unwrap(), &headers).ok()
        };
        for (status, version, expected) in [
            (200, Some("3.10.1"), Some(ServiceKind::InfluxDb3)),
            (200, Some("v3.0"), Some(ServiceKind::InfluxDb3)),
            (401, Some("3.10.1"), Some(ServiceKind::InfluxDb3)),
            (200, Some("2.7.1"), Some(ServiceKind::Unspecified)),
            (204, Some("1.8.10"), Some(ServiceKind::Unspecified)),
            (200, Some("30"), Some(ServiceKind::Unspecified)),
            (200, None, Some(ServiceKind::Unspecified)),
            (404, None, Some(ServiceKind::Unspecified)),
            (401, None, None),
            (403, None, None),
            (502, None, None),
        ] {
            assert_eq!(answer(status, version), expected, "{status} {version:?}");
        }
    }
}
