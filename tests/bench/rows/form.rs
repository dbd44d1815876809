//! The rows of a catalog, and the document that they are a part of.
//!
//! | key | name | secret | text |
//! |---|---|---|---|
//! | `head` | | | the header, with the number of all tokens; the newest audit record |
//! | `token/ID` | its name | its hash | its line |
//! | `audit/SEQUENCE` | | | an older audit record |
//! | `former/SEQUENCE` | | the digits | nothing |
//!
//! The lines are those of the document, so that the code of `component/core` reads and writes them.

use std::fmt::Write as _;

use optoken_core::audit::RETAINED_RECORDS;
use optoken_core::catalog::{Catalog, TokenRecord};

use super::store::Row;

pub(crate) const HEAD: &str = "head";

/// The begin of the name of a former secret, which no hash begins with.
const FORMER: &str = "former ";

/// The digits of a former secret in the document.
const FORMER_DIGITS: usize = 32;

/// The row of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    next_id: u64,
    /// The number of all tokens.
    pub(crate) tokens: usize,
    /// What the header has before its former secrets.
    before: String,
    /// What it has behind them.
    after: String,
    /// The newest audit record.
    pub(crate) newest: Option<String>,
}

impl Head {
    pub(crate) fn of_row(text: &str) -> Self {
        let (line, newest) = text.split_once('\n').unwrap();
        let (head, former) = Self::of_line(line);
        assert_eq!(former, "");
        Self { newest: (!newest.is_empty()).then(|| newest.to_owned()), ..head }
    }

    pub(crate) fn to_row(&self) -> Row {
        let text =
            format!("{}\n{}", self.line(self.tokens, None), self.newest.as_deref().unwrap_or_default());
        Row { key: HEAD.to_owned(), name: None, secret: None, text }
    }

    /// Reads the header of a document, and returns the digits of its former secrets.
    pub(crate) fn of_line(line: &str) -> (Self, &str) {
        let line = line.strip_prefix("{\"next_id\":").unwrap().strip_suffix('}').unwrap();
        let (next_id, rest) = line.split_once(",\"tokens\":").unwrap();
        let end = rest.find(',').unwrap_or(rest.len());
        let (tokens, rest) = rest.split_at(end);
        let (before, former, after) = if let Some((before, rest)) = rest.split_once(",\"former\":\"") {
            let (former, after) = rest.split_once('"').unwrap();
            (before, former, after)
        } else {
            let audit = rest.find(",\"audit\":").unwrap_or(rest.len());
            (&rest[..audit], "", &rest[audit..])
        };
        let head = Self {
            next_id: next_id.parse().unwrap(),
            tokens: tokens.parse().unwrap(),
            before: before.to_owned(),
            after: after.to_owned(),
            newest: None,
        };
        (head, former)
    }

    /// Returns the header with so many tokens and these former secrets.
    fn line(&self, tokens: usize, former: Option<&str>) -> String {
        let Self { next_id, before, after, .. } = self;
        let former = former.map_or(String::new(), |digits| format!(",\"former\":\"{digits}\""));
        format!("{{\"next_id\":{next_id},\"tokens\":{tokens}{before}{former}{after}}}")
    }
}

/// Returns the row of a token.
pub(crate) fn token_row(token: &TokenRecord, line: &str) -> Row {
    Row {
        key: token_key(token.id),
        name: Some(token.name.clone()),
        secret: Some(token.hash.to_string()),
        text: line.to_owned(),
    }
}

pub(crate) fn token_key(id: u64) -> String {
    format!("token/{id:020}")
}

/// Returns the row of an audit record.
pub(crate) fn audit_row(sequence: u64, line: &str) -> Row {
    Row { key: audit_key(sequence), name: None, secret: None, text: line.to_owned() }
}

pub(crate) fn audit_key(sequence: u64) -> String {
    format!("audit/{sequence:020}")
}

/// Returns the row of a secret that the operator token had before this change.
pub(crate) fn former_row(sequence: u64, digits: &str) -> Row {
    let (key, secret) = (format!("former/{sequence:020}"), Some(format!("{FORMER}{digits}")));
    Row { key, name: None, secret, text: String::new() }
}

/// Returns the document of a catalog that has these tokens and no others, which is consistent in
/// itself. It has no older audit record. Its list of former secrets is empty, and not absent: a
/// header without one knows none of those that the operator token had.
pub(crate) fn partial_document<'a>(head: &'a Head, lines: impl ExactSizeIterator<Item = &'a str>) -> String {
    let mut document = format!("{{\"format\":3}}\n{}\n", head.line(lines.len(), Some("")));
    for line in lines.chain(head.newest.as_deref()) {
        document.push_str(line);
        document.push('\n');
    }
    document
}

/// Returns the rows of a whole document.
pub(crate) fn rows_of(document: &str) -> Vec<Row> {
    let catalog = Catalog::decode(document).unwrap();
    let mut lines = document.lines().skip(1);
    let (mut head, former) = Head::of_line(lines.next().unwrap());
    let mut rows: Vec<Row> =
        catalog.tokens().iter().zip(&mut lines).map(|(token, line)| token_row(token, line)).collect();
    let mut records: Vec<&str> = lines.collect();
    head.newest = records.pop().map(str::to_owned);
    let newest = catalog.audit().sequence();
    rows.extend(records.iter().rev().zip(1..).map(|(line, back)| audit_row(newest - back, line)));
    rows.extend(
        (0..)
            .zip(former.as_bytes().chunks(FORMER_DIGITS))
            .map(|(number, digits)| former_row(number, str::from_utf8(digits).unwrap())),
    );
    rows.push(head.to_row());
    rows
}

/// Returns the document of all rows, in the order of their keys.
pub(crate) fn document_of(rows: &[Row]) -> String {
    let of = |prefix: &'static str| rows.iter().filter(move |row| row.key.starts_with(prefix));
    let head = Head::of_row(&of(HEAD).next().unwrap().text);
    let former: String =
        of("former/").map(|row| row.secret.as_deref().unwrap().strip_prefix(FORMER).unwrap()).collect();
    let former = Some(former.as_str()).filter(|digits| !digits.is_empty());
    let mut document = format!("{{\"format\":3}}\n{}\n", head.line(head.tokens, former));
    let texts = of("token/").chain(of("audit/")).map(|row| row.text.as_str());
    for line in texts.chain(head.newest.as_deref()) {
        writeln!(document, "{line}").unwrap();
    }
    document
}

/// Returns the sequence number of the record that a catalog drops when it adds this one.
pub(crate) fn dropped_by(sequence: u64) -> Option<u64> {
    sequence.checked_sub(RETAINED_RECORDS as u64).filter(|dropped| *dropped > 0)
}
