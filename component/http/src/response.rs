//! An answer as a value.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use optoken_protocol::problem::Problem;
use zeroize::Zeroizing;

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case, and values.
    pub(crate) headers: Vec<(&'static str, Cow<'static, str>)>,
    /// It may hold a token.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let headers = problem.headers().into_iter();
        // Connections belong to the runtime; `wasi:http` refuses this header.
        let headers = headers.filter(|(name, _)| *name != "connection");
        let headers = headers.map(|(name, value)| (name, value.into())).collect();
        Self { status: problem.status().code(), headers, body: problem.body().into_bytes().into() }
    }
}
