//! What a request does, as a host describes it (`access` in `wit/authenticator.wit`). Knows nothing
//! of tokens.

/// A request, and what it acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access<'a> {
    /// The method, in its case.
    pub method: &'a str,
    /// The host in normal form, without its port; empty if it is not known.
    pub host: &'a str,
    /// The path in normal form.
    pub path: &'a str,
    /// What the request acts on.
    pub target: Target<'a>,
}

/// What a request acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A resource of any service, which method, host and path identify.
    Http,
    /// The database of this name, and what is done to it.
    Database(&'a str, DatabaseAction),
    /// Information of this name about the server.
    System(&'a str),
    /// Something that no permission covers.
    Administration,
}

/// What a request does to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the permissions")]
pub enum DatabaseAction {
    Read,
    Write,
    Create,
}
