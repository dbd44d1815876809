//! What a request to InfluxDB 3 does, so that the permissions of a token can allow or refuse it.
//!
//! [`rows::classify`] finds the row of the API that a request is, and reads the database from its
//! URI or its headers. Where the body names the database, [`rows::BodyRow::read`] reads it there.
//!
//! A client writes these texts, and the server behind reads them again. So a text counts only if
//! that server cannot read it in another way. Everything else is
//! [`Administration`](target::OwnedTarget::Administration), which only tokens with all permissions
//! may do.
//!
//! The module is pure: it reads bytes that are already there, and knows no listener and no token.

mod flight;
mod influxql;
mod json_body;
mod protobuf;
mod query_string;
pub(crate) mod rows;
pub(crate) mod system_tokens_query;
pub(crate) mod target;
