//! The prototype of a catalog that is stored row by row, and the same catalog as one document.
//!
//! Both use `SQLite` with the settings of `host/src/store/sqlite`, and apply the commands of
//! `component/core` natively. So they differ in the contract of the store alone.

pub(crate) mod commit;
pub(crate) mod document;
pub(crate) mod form;
pub(crate) mod measure;
pub(crate) mod mirror;
pub(crate) mod store;
