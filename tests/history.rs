//! The checks of histories (tests/support/history) are right: the chain is held against another
//! checker on small random histories, right and broken ones, and each check finds its fault.

#[path = "history/agreement.rs"]
mod agreement;
#[path = "history/nodes.rs"]
mod nodes;
