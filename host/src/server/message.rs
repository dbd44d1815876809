//! The messages of HTTP, as a service sees them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Version;
use hyper::body::{Body as _, Incoming};

use crate::server::body::{ResponseBody, discard};

/// A request. Its body arrives while the service reads it.
pub(crate) type Request = hyper::Request<Incoming>;

/// A response.
pub(crate) type Response = hyper::Response<ResponseBody>;

/// A response that waits for something.
pub(crate) type Later = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What a service makes of a request.
pub(crate) enum Answer {
    /// A response that waited for nothing.
    Now {
        /// The response.
        response: Response,
        /// The body of the request, if there is one. Over HTTP/1, a body that is dropped before its
        /// end closes the connection, and the head of a later response has that.
        unread: Option<Incoming>,
    },
    /// A response that waits for something. The future is dropped if the client disconnects first.
    Later(Later),
}

impl Answer {
    /// Responds to a request, whose body is not needed. A client over HTTP/2 that is still sending
    /// it reads the response all the same (see [`discard`]).
    pub(crate) fn now(response: Response, request: Request) -> Self {
        let version = request.version();
        // The head goes at once: it lies in the read buffer of the connection, which is free then.
        let body = request.into_body();
        let unread = if version == Version::HTTP_2 {
            discard(version, body);
            None
        } else {
            (!body.is_end_stream()).then_some(body)
        };
        Self::Now { response, unread }
    }

    /// Responds later.
    pub(crate) fn later(response: impl Future<Output = Response> + Send + 'static) -> Self {
        Self::Later(Box::pin(response))
    }

    /// Waits for the response.
    pub(crate) async fn response(self) -> Response {
        match self {
            Self::Now { response, .. } => response,
            Self::Later(later) => later.await,
        }
    }
}

/// An answer, as HTTP waits for it. A response that is there is returned by the first poll.
pub(super) struct Responding(Option<Answer>);

impl From<Answer> for Responding {
    fn from(answer: Answer) -> Self {
        Self(Some(answer))
    }
}

impl Future for Responding {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.take() {
            Some(Answer::Now { response, unread }) => {
                drop(unread);
                Poll::Ready(Ok(response))
            }
            Some(Answer::Later(mut later)) => match later.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => {
                    self.0 = Some(Answer::Later(later));
                    Poll::Pending
                }
            },
            // It has responded.
            None => Poll::Pending,
        }
    }
}
