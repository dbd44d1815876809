//! The one database that a query in `InfluxQL` reads.
//!
//! A query can name databases itself: `FROM "db".."measurement"`, `SHOW … ON "db"`. Core answers a
//! query on several databases, and changes data by `INTO`, DROP and DELETE. It reads a second
//! statement even without `;` before it.
//!
//! This is no parser. It finds each place that can name a database in a text that Core accepts, and
//! refuses everything else that is not needed to read one database.

mod lexer;

use std::iter::Peekable;
use std::slice::Iter;

use self::lexer::{Lexeme, lexemes};
use super::target::Refusal;

/// The most bytes of a query, which bound the time and the memory of reading it.
const MAX_BYTES: usize = 256 << 10;

/// The retention policy that every database has. Data in it belongs to the database of that name.
pub(super) const DEFAULT_POLICY: &str = "autogen";

/// Returns the only database that a query reads, if it only reads.
///
/// `default` is the database that the request names beside the query.
pub(super) fn database(query: &str, default: Option<&str>) -> Result<String, Refusal> {
    if query.len() > MAX_BYTES {
        return Err("the query is too long");
    }
    let lexemes = lexemes(query)?;
    let mut rest = lexemes.iter().peekable();
    let mut only = default;
    let mut has_statement = false;
    while let Some(first) = rest.next() {
        if first.is_symbol(b';') {
            continue;
        }
        has_statement = true;
        match statement(first, &mut rest)? {
            Some(named) if only.is_some_and(|only| only != named) => {
                return Err("the query names another database");
            }
            Some(named) => only = Some(named),
            None if default.is_none() => return Err("a statement names no database"),
            None => {}
        }
    }
    match only {
        Some(only) if has_statement => Ok(only.to_owned()),
        _ => Err("the query has no statement"),
    }
}

type Rest<'a> = Peekable<Iter<'a, Lexeme<'a>>>;

/// Reads a statement up to its `;`. Returns the only database that it names.
fn statement<'a>(first: &'a Lexeme<'a>, rest: &mut Rest<'a>) -> Result<Option<&'a str>, Refusal> {
    match (first, rest.peek()) {
        (Lexeme::Keyword("select"), _)
        | (Lexeme::Keyword("show"), Some(Lexeme::Keyword("field" | "measurements" | "retention" | "tag"))) => {
        }
        _ => return Err("a statement is neither a SELECT nor a SHOW of one database"),
    }
    let mut only: Option<&str> = None;
    let mut last = first;
    while let Some(lexeme) = rest.next_if(|next| !next.is_symbol(b';')) {
        let named = match lexeme {
            Lexeme::Keyword("select") if last.is_symbol(b'(') => None,
            Lexeme::Keyword("select" | "show") => return Err("a statement stands within another"),
            Lexeme::Keyword("on") => Some(behind_on(rest)?),
            Lexeme::Name(name) => database_of_name(name, rest)?,
            _ => None,
        };
        if let Some(named) = named {
            if only.is_some_and(|only| only != named) {
                return Err("the query names two databases");
            }
            only = Some(named);
        }
        last = lexeme;
    }
    Ok(only)
}

/// Reads the database behind `ON`. A retention policy behind it would name another one.
fn behind_on<'a>(rest: &mut Rest<'a>) -> Result<&'a str, Refusal> {
    match (rest.next(), rest.peek()) {
        (Some(Lexeme::Name(name)), None | Some(Lexeme::Keyword(_) | Lexeme::Symbol(b';'))) => Ok(name),
        _ => Err("ON names no single database"),
    }
}

/// Reads the parts of a name behind its first, and returns the database that it names.
fn database_of_name<'a>(first: &'a str, rest: &mut Rest<'a>) -> Result<Option<&'a str>, Refusal> {
    let mut parts = Vec::new();
    while rest.next_if(|next| next.is_symbol(b'.')).is_some() {
        parts.push(rest.next_if(|next| matches!(next, Lexeme::Name(_) | Lexeme::Regex)));
    }
    let is_default = |policy: &str| policy == DEFAULT_POLICY;
    match parts.as_slice() {
        [] => Ok(None),
        // Policy and measurement.
        [Some(_)] if is_default(first) => Ok(None),
        // Database and measurement.
        [None, Some(_)] => Ok(Some(first)),
        [Some(Lexeme::Name(policy)), Some(_)] if is_default(policy) => Ok(Some(first)),
        _ => Err("a name has a retention policy"),
    }
}

#[cfg(test)]
mod tests;
