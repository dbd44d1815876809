//! The HTTP client below that of the crate `object_store`. It repeats nothing, follows nothing, and
//! records what each answer states.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::header::{AGE, CACHE_CONTROL, DATE, HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, StatusCode};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};

use crate::store::ClockDifference;
use crate::store::remote::http_date::clock_difference;

/// How long a connection may need. A read has the time for another one.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(900);

/// How long an unused connection is kept. The poller uses one each second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long sent bytes may stay unacknowledged, before the kernel gives up the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");
const REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

/// What is known about the newest request of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// A request for an object was handed to the network. Without it, a call failed earlier.
    pub(super) sent: bool,
    /// The connection failed, so that no byte of the request was sent.
    pub(super) unreached: bool,
    pub(super) status: Option<StatusCode>,
    /// The error of Azure.
    pub(super) code: Option<String>,
    /// The region of the bucket, if Amazon knows better.
    pub(super) region: Option<String>,
    /// The answer is of a cache, and older than the request.
    pub(super) cached: bool,
    pub(super) clock: Option<ClockDifference>,
}

/// Receives the facts of one call. It goes through `object_store` with the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace(Arc<Mutex<Facts>>);

impl Trace {
    pub(super) fn facts(&self) -> Facts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions
    }

    fn set(&self, facts: Facts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }
}

/// Makes the clients of one store, also those that fetch credentials.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) tls: rustls::ClientConfig,
    /// The store itself may be asked in plain text.
    pub(super) allow_http: bool,
    pub(super) is_loopback: bool,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let is_set = |key| options.get_config_value(&key).is_some_and(|value| value == "true");
        let plain = is_set(ClientConfigKey::AllowHttp);
        // `object_store` allows plain text for the metadata service of a machine, on its link.
        let is_metadata = plain && !self.allow_http;
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("optoken/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls.clone())
            .https_only(!plain)
            .http1_only()
            // A write that reaches a second place could happen in both.
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_user_timeout(UNACKNOWLEDGED)
            .tcp_nodelay(true);
        if is_metadata || self.is_loopback {
            client = client.no_proxy();
        } else if let Some(url) = options.get_config_value(&ClientConfigKey::ProxyUrl) {
            client = client.proxy(reqwest::Proxy::all(url).map_err(failed)?);
        }
        Ok(HttpClient::new(Recorder(client.build().map_err(failed)?)))
    }
}

fn failed(error: reqwest::Error) -> object_store::Error {
    object_store::Error::Generic { store: "HTTP client", source: Box::new(error) }
}

/// A client that records facts for the call with a [`Trace`].
#[derive(Debug)]
struct Recorder(reqwest::Client);

impl HttpService for Recorder {
    fn call<'client, 'call>(
        &'client self,
        mut request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'call>>
    where
        'client: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            let Some(trace) = request.extensions_mut().remove::<Trace>() else {
                return self.0.call(request).await;
            };
            trace.set(Facts { sent: true, ..Facts::default() });
            if matches!(*request.method(), Method::GET | Method::HEAD) {
                // The request is signed already; a signature covers the headers that it names.
                request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            }
            let begun = Instant::now();
            let answer = self.0.call(request).await;
            trace.set(match &answer {
                Err(error) => Facts {
                    sent: true,
                    unreached: error.kind() == HttpErrorKind::Connect,
                    ..Facts::default()
                },
                Ok(answer) => facts_of(answer.status(), answer.headers(), begun.elapsed()),
            });
            answer
        })
    }
}

fn facts_of(status: StatusCode, headers: &HeaderMap, elapsed: Duration) -> Facts {
    let text = |name: &HeaderName| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let cached = text(&AGE).is_some_and(|age| age.trim() != "0");
    let date = text(&DATE).filter(|_| !cached);
    Facts {
        sent: true,
        unreached: false,
        status: Some(status),
        code: text(&ERROR_CODE),
        region: text(&REGION),
        cached,
        clock: date.and_then(|date| clock_difference(&date, SystemTime::now(), elapsed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_that_of_a_valid_date() {
        for (date, is_valid) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", true),
            ("Fri, 31 Dec 9999 23:59:59 GMT", true),
            ("Sun, 06 Nov 1994 08:49:37 CET", false),
            ("Sun, 06 Nov 1994 9223372036854775807:49:37 GMT", false),
            ("Sun, 06 Nov 1994 08:-9223372036854775808:37 GMT", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(DATE, HeaderValue::from_static(date))]);
            let clock = facts_of(StatusCode::OK, &headers, Duration::ZERO).clock;
            assert_eq!(clock.is_some(), is_valid, "{date}");
        }
    }

    #[test]
    fn answer_of_a_cache_is_recognized() {
        let facts = |age: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
            if !age.is_empty() {
                headers.insert(AGE, HeaderValue::from_str(age).unwrap());
            }
            facts_of(StatusCode::OK, &headers, Duration::ZERO)
        };
        assert!(!facts("").cached && !facts("0").cached && facts("3").cached);
        assert!(facts("").clock.is_some() && facts("3").clock.is_none());
    }
}
