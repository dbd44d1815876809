//! A request and its response, for the parts that read the response and report a failure.

use reqwest::{StatusCode, Url};
use zeroize::Zeroizing;

use crate::client::address::ServerAddress;
use crate::client::proxy::Route;
use crate::secret::Secret;

/// What a request asks of the server. Hints depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Regenerate,
    Stage,
    Confirm,
    OperatorStatus,
    Authenticate,
    CreateNamed,
    CreateScoped,
    Delete,
    List,
}

impl Operation {
    /// Returns whether it is a step of `create token`.
    pub(super) fn is_of_create(self) -> bool {
        !matches!(self, Self::Delete | Self::List)
    }

    /// Returns whether the operator token alone permits it.
    pub(super) fn requires_operator(self) -> bool {
        matches!(self, Self::Create | Self::Regenerate | Self::Stage | Self::OperatorStatus)
    }
}

/// A request, for errors about it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) address: &'a ServerAddress,
    pub(super) route: &'a Route,
    pub(super) operation: Operation,
    pub(super) url: &'a Url,
    pub(super) credential: Option<&'a Secret>,
}

impl Asked<'_> {
    /// Returns what was asked as errors name it: the URL, or the socket.
    pub(super) fn name(&self) -> String {
        if self.address.socket().is_some() { self.address.name().to_owned() } else { self.url.to_string() }
    }
}

/// A response, whose body is read.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    /// Where a redirect leads to.
    pub(super) location: Option<String>,
    pub(super) body: Zeroizing<Vec<u8>>,
}
