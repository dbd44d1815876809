//! The SQL query by which clients of InfluxDB 3 list tokens (`docs/compatibility.md` 2.7).

/// The database that has the table.
pub const DATABASE: &str = "_internal";

/// The query, as the official client writes it.
pub const QUERY: &str = "select * from system.tokens";
