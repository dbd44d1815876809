//! `sqlite:PATH`: a store in one file, for any number of processes on one machine.
//!
//! The database has one table with one row. The write-ahead log runs with `synchronous=FULL`, so
//! that a committed swap survives a power cut. Versions are random, so that a restored file never
//! repeats one.
//!
//! - **A file at the path holds a catalog.** The first swap makes the whole database under a
//!   temporary name, and gives it its name when it is complete. So a first start that was killed
//!   starts again, and a file without a catalog is an incomplete copy: it is refused.
//! - **The open files are those at the path.** Each call compares device and inode numbers. A
//!   database that was moved, replaced or truncated is unavailable until it is back.
//! - **A failed change stays undone.** After an error of the disk the store overwrites what is left
//!   of the change in the log, and answers nothing else before that.
//! - **The one file is a backup.** A thread copies the log into the database file within a second
//!   of a change. A database of more than 1 MiB waits ten seconds.
//! - **A full or read-only disk does not stop reads.** SQLite then cannot create the index of its
//!   log. The store reads without one, and tries again at every call.
//!
//! Another program that truncates the index (`-shm`) between the check of a call and its end can
//! still end the process. `VACUUM` by another program shortens the file, and counts as truncation.

mod checkpointer;
#[cfg(feature = "server")]
pub(crate) mod copies;
mod database;
mod failure;
mod files;
mod identity;
mod layout;
mod store;
#[cfg(test)]
mod tests;

pub use failure::OpenError;
pub use store::SqliteStore;
