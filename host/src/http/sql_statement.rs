//! The text of a query: which queries run, and how SQLite has to read them.
//!
//! A query is one SELECT on one table, without a join or a second SELECT. So its rows are at most
//! the tokens, and its time and memory are bounded.
//!
//! `DataFusion`, the engine of InfluxDB 3, reads some texts in another way than SQLite. Where
//! SQLite would accept a text with another meaning, it is rewritten here or refused.

use std::borrow::Cow;

use optoken_protocol::redact::redact;

use crate::http::query_error::QueryError;

/// The most bytes of a query.
pub(crate) const MAX_BYTES: usize = 16 << 10;

/// The schema and the name of the table.
pub(crate) const SCHEMA: &str = "system";
pub(crate) const TABLE: &str = "tokens";

/// The name under which the engine has ILIKE: SQLite has this operator and no function for it.
pub(crate) const ILIKE: &str = "match";

/// The words that may follow the table.
const CLAUSES: [&str; 6] = ["where", "group", "having", "order", "limit", "offset"];

/// Words that SQLite would accept in a SELECT, with another meaning than `DataFusion` or without a
/// bound.
const REFUSED: [&str; 21] = [
    "cast",
    "collate",
    "cross",
    "current_date",
    "current_time",
    "except",
    "glob",
    "interval",
    "intersect",
    "join",
    "left",
    "match",
    "natural",
    "over",
    "regexp",
    "right",
    "union",
    "values",
    "window",
    "with",
    "full",
];

/// A query that may run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// The text for SQLite.
    pub(crate) sql: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword, or an identifier without quotes. Case does not matter.
    Word,
    /// An identifier in double quotes.
    Quoted,
    /// A text in single quotes.
    Text,
    Number,
    /// `$name`.
    Parameter,
    Symbol,
}

/// A part of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lexeme {
    pub(crate) kind: Kind,
    /// The text, a word in lower case.
    pub(crate) text: String,
    /// Whether white space or a comment precedes it.
    spaced: bool,
}

impl Lexeme {
    fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    pub(crate) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.text == symbol
    }

    /// Returns whether this names a schema or a table, with or without quotes.
    pub(crate) fn names(&self, name: &str) -> bool {
        match self.kind {
            Kind::Word => self.text == name,
            Kind::Quoted => self.text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) == Some(name),
            _ => false,
        }
    }
}

impl Statement {
    /// Reads a query.
    pub(crate) fn parse(sql: &str) -> Result<Self, QueryError> {
        if sql.len() > MAX_BYTES {
            return Err(QueryError::new(format!(
                "the query has {} bytes, of at most {MAX_BYTES}",
                sql.len()
            )));
        }
        // SQLite's errors quote parts of a token that stands outside of quotes.
        if matches!(redact(sql), Cow::Owned(_)) {
            return Err(QueryError::new("the query holds a token, which is in no column: ask for its name"));
        }
        let mut lexemes = lexemes(sql)?;
        if lexemes.last().is_some_and(|last| last.is_symbol(";")) {
            lexemes.pop();
        }
        check(&lexemes)?;
        Ok(Self { sql: rewrite(&lexemes) })
    }
}

/// Splits a query into its lexemes.
pub(crate) fn lexemes(sql: &str) -> Result<Vec<Lexeme>, QueryError> {
    let mut lexemes = Vec::new();
    let (mut rest, mut spaced) = (sql, false);
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_whitespace() {
            length_while(rest, |character| character.is_ascii_whitespace())
        } else if rest.starts_with("--") {
            length_while(rest, |character| character != '\n')
        } else if let Some(comment) = rest.strip_prefix("/*") {
            let end = comment.find("*/").ok_or_else(|| QueryError::new("a comment has no end"))?;
            end + "/**/".len()
        } else {
            let (kind, length) = lexeme(rest, first)?;
            let text = rest.get(..length).unwrap_or_default();
            let text = if kind == Kind::Word { text.to_ascii_lowercase() } else { text.to_owned() };
            lexemes.push(Lexeme { kind, text, spaced });
            rest = rest.get(length..).unwrap_or_default();
            spaced = false;
            continue;
        };
        rest = rest.get(length..).unwrap_or_default();
        spaced = true;
    }
    Ok(lexemes)
}

/// Returns the kind and the length of the first lexeme.
fn lexeme(rest: &str, first: char) -> Result<(Kind, usize), QueryError> {
    let is_of_word =
        |character: char| character.is_ascii_alphanumeric() || character == '_' || !character.is_ascii();
    Ok(match first {
        '\'' => (Kind::Text, quoted_length(rest, '\'')?),
        '"' => (Kind::Quoted, quoted_length(rest, '"')?),
        '$' => {
            let length = 1 + length_while(rest.get(1..).unwrap_or_default(), is_of_word);
            if length == 1 {
                return Err(QueryError::new("a parameter has no name: write $name"));
            }
            (Kind::Parameter, length)
        }
        '0'..='9' => {
            (Kind::Number, length_while(rest, |character| is_of_word(character) || character == '.'))
        }
        _ if is_of_word(first) => {
            let length = length_while(rest, is_of_word);
            // A blob, which no column has.
            if length == 1
                && first.eq_ignore_ascii_case(&'x')
                && rest.get(1..).is_some_and(|rest| rest.starts_with('\''))
            {
                return Err(QueryError::new("binary values are not supported"));
            }
            (Kind::Word, length)
        }
        '(' | ')' | ',' | '.' | '*' | '+' | '-' | '/' | '%' | '=' | '<' | '>' | '!' | '|' | ';' => {
            (Kind::Symbol, 1)
        }
        _ => {
            return Err(QueryError::new(format!(
                "the character {first:?} is not supported outside of quotes"
            )));
        }
    })
}

/// Returns the length of a text up to the closing quote. A quote that stands twice does not close.
fn quoted_length(text: &str, quote: char) -> Result<usize, QueryError> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        if character == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at + 1);
        }
    }
    Err(QueryError::new(format!("a text has no closing {quote}")))
}

fn length_while(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|character| !belongs(character)).unwrap_or(text.len())
}

/// Refuses what is not one SELECT on the table.
fn check(lexemes: &[Lexeme]) -> Result<(), QueryError> {
    let [first, rest @ ..] = lexemes else { return Err(QueryError::new("the query is empty")) };
    if !first.is_word("select") {
        return Err(QueryError::new("this is no SELECT"));
    }
    let mut rest = rest;
    let mut found = false;
    while let [lexeme, behind @ ..] = rest {
        rest = behind;
        if lexeme.is_symbol(";") {
            return Err(QueryError::new("there is more than one statement"));
        }
        if lexeme.kind != Kind::Word {
            continue;
        }
        match (lexeme.text.as_str(), behind) {
            // `IS DISTINCT FROM` names no table.
            ("is", [distinct, from, behind @ ..]) if distinct.is_word("distinct") && from.is_word("from") => {
                rest = behind;
            }
            ("is", [not, distinct, from, behind @ ..])
                if not.is_word("not") && distinct.is_word("distinct") && from.is_word("from") =>
            {
                rest = behind;
            }
            ("now", behind) if interval(behind).is_some() => {
                rest = interval(behind).map_or(behind, |(_, _, behind)| behind);
            }
            ("from", behind) if !found => {
                found = true;
                rest = behind_table(behind)?;
            }
            ("from", _) => return Err(QueryError::new("the query reads a second table")),
            ("select", _) => return Err(QueryError::new("a SELECT within another is not supported")),
            (word, _) if REFUSED.contains(&word) => {
                return Err(QueryError::new(format!("{} is not supported", word.to_ascii_uppercase())));
            }
            _ => {}
        }
    }
    if found { Ok(()) } else { Err(QueryError::new("the query reads no table")) }
}

/// Returns what follows the name of the table and its alias.
fn behind_table(lexemes: &[Lexeme]) -> Result<&[Lexeme], QueryError> {
    let behind = match lexemes {
        [schema, dot, table, behind @ ..]
            if schema.names(SCHEMA) && dot.is_symbol(".") && table.names(TABLE) =>
        {
            behind
        }
        _ => return Err(QueryError::new("this table is not there")),
    };
    let is_clause = |lexeme: &Lexeme| lexeme.kind == Kind::Word && CLAUSES.contains(&lexeme.text.as_str());
    let is_alias = |lexeme: &Lexeme| matches!(lexeme.kind, Kind::Word | Kind::Quoted) && !is_clause(lexeme);
    let behind = match behind {
        [r#as, alias, behind @ ..] if r#as.is_word("as") && is_alias(alias) => behind,
        [alias, behind @ ..] if is_alias(alias) && !REFUSED.contains(&alias.text.as_str()) => behind,
        behind => behind,
    };
    match behind.first() {
        None => Ok(behind),
        Some(next) if is_clause(next) || next.is_symbol(";") => Ok(behind),
        Some(_) => Err(QueryError::new("only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table")),
    }
}

/// Reads `() - interval 'text'` behind `now`. Returns the sign, the text and what follows.
fn interval(behind_now: &[Lexeme]) -> Option<(&str, &str, &[Lexeme])> {
    match behind_now {
        [open, close, sign, word, text, behind @ ..]
            if open.is_symbol("(")
                && close.is_symbol(")")
                && (sign.is_symbol("-") || sign.is_symbol("+"))
                && word.is_word("interval")
                && text.kind == Kind::Text =>
        {
            Some((&sign.text, &text.text, behind))
        }
        _ => None,
    }
}

/// Writes the query for SQLite.
fn rewrite(lexemes: &[Lexeme]) -> String {
    let mut sql = String::new();
    let mut depth = 0_i32;
    let mut order = None;
    let mut rest = lexemes;
    while let [lexeme, behind @ ..] = rest {
        rest = behind;
        let word = if lexeme.kind == Kind::Word { lexeme.text.as_str() } else { "" };
        match lexeme.text.as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let ends_term = lexeme.is_symbol(",") || CLAUSES.contains(&word);
            if ends_term && let Some(term) = order.take() {
                sql.push_str(term);
                order = lexeme.is_symbol(",").then_some(NULLS_LAST);
            }
            match word {
                "by" if sql.ends_with("order") => order = Some(NULLS_LAST),
                "desc" if order == Some(NULLS_LAST) => order = Some(NULLS_FIRST),
                "nulls" if order.is_some() => order = Some(""),
                _ => {}
            }
        }
        if lexeme.spaced {
            sql.push(' ');
        }
        match word {
            "ilike" => sql.push_str(ILIKE),
            "now" if let Some((sign, text, behind)) = interval(behind) => {
                sql.extend(["now('", sign, "', ", text, ")"]);
                rest = behind;
            }
            _ => sql.push_str(&lexeme.text),
        }
    }
    sql + order.unwrap_or_default()
}

/// `DataFusion` sorts a null as the greatest value, SQLite as the smallest.
const NULLS_LAST: &str = " nulls last";
const NULLS_FIRST: &str = " nulls first";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_rewritten_for_sqlite() {
        for (sql, expected) in [
            ("select * from system.tokens", "select * from system.tokens"),
            ("SELECT * FROM System.Tokens;", "select * from system.tokens"),
            (" \n\tselect*\r\nfrom\tsystem . tokens ; \n", " select* from system . tokens"),
            (
                "SELECT Name AS Foo, \"name\" FROM system.tokens T",
                "select name as foo, \"name\" from system.tokens t",
            ),
            (
                "select COUNT(*) from \"system\".\"tokens\" AS \"T\"",
                "select count(*) from \"system\".\"tokens\" as \"T\"",
            ),
            ("select/* a */name from system.tokens -- b", "select name from system.tokens"),
            ("select 'A''B', 'from' from system.tokens", "select 'A''B', 'from' from system.tokens"),
            (
                "select name from system.tokens where name ILIKE 'A%' and token_id IS NOT DISTINCT FROM $Id",
                "select name from system.tokens where name match 'A%' and token_id is not distinct from $Id",
            ),
            (
                "select name from system.tokens where expiry < NOW() + INTERVAL '7 days' and created_at < now()",
                "select name from system.tokens where expiry < now('+', '7 days') and created_at < now()",
            ),
            (
                "select name from system.tokens order by expiry, coalesce(name, hash) DESC, 1 asc nulls first limit 2",
                "select name from system.tokens order by expiry nulls last, coalesce(name, hash) desc nulls first, 1 \
                 asc nulls first limit 2",
            ),
            (
                "select name from system.tokens order by name desc",
                "select name from system.tokens order by name desc nulls first",
            ),
            (
                "select name from system.tokens group by name, hash",
                "select name from system.tokens group by name, hash",
            ),
        ] {
            assert_eq!(
                Statement::parse(sql).map(|statement| statement.sql).as_deref(),
                Ok(expected),
                "{sql:?}"
            );
        }
    }

    #[test]
    fn other_statements_are_refused() {
        for (sql, reason) in [
            ("", "the query is empty"),
            (";", "the query is empty"),
            ("-- select", "the query is empty"),
            ("select 1", "the query reads no table"),
            ("SHOW TABLES", "this is no SELECT"),
            ("PRAGMA writable_schema=1", "this is no SELECT"),
            ("ATTACH 'tokens.db' AS x", "this is no SELECT"),
            ("with a as (select 1) select * from system.tokens", "this is no SELECT"),
            ("explain select * from system.tokens", "this is no SELECT"),
            ("select * from tokens", "this table is not there"),
            ("select * from system.token", "this table is not there"),
            ("select * from \"System\".tokens", "this table is not there"),
            ("select * from information_schema.tables", "this table is not there"),
            ("select * from (select 1)", "this table is not there"),
            ("select *fromsystem.tokens", "the query reads no table"),
            ("sel ect * from system.tokens", "this is no SELECT"),
            ("select * from system.tokens;;", "there is more than one statement"),
            ("select * from system.tokens; drop table x", "there is more than one statement"),
            (
                "select * from system.tokens a, system.tokens b",
                "only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table",
            ),
            (
                "select * from system.tokens join x",
                "only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table",
            ),
            (
                "select * from system.tokens cross join x",
                "only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table",
            ),
            (
                "select * from system.tokens(1)",
                "only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table",
            ),
            (
                "select * from system.tokens indexed by x",
                "only WHERE, GROUP BY, ORDER BY and LIMIT may follow the table",
            ),
            ("select * from system.tokens where a join b", "JOIN is not supported"),
            ("select * from system.tokens where 1 union select 2", "UNION is not supported"),
            ("select * from system.tokens where x in (select 1)", "a SELECT within another is not supported"),
            ("select * from system.tokens where x in (values (1))", "VALUES is not supported"),
            ("select * from system.tokens where a from b", "the query reads a second table"),
            ("select cast(name as int) from system.tokens", "CAST is not supported"),
            ("select now() - interval from system.tokens", "INTERVAL is not supported"),
            ("select row_number() over () from system.tokens", "OVER is not supported"),
            ("select x'00' from system.tokens", "binary values are not supported"),
            ("select 'a from system.tokens", "a text has no closing '"),
            ("select \"a from system.tokens", "a text has no closing \""),
            ("select /* from system.tokens", "a comment has no end"),
            (
                "select * from system.tokens where name = ?",
                "the character '?' is not supported outside of quotes",
            ),
            ("select [name] from system.tokens", "the character '[' is not supported outside of quotes"),
            ("select `name` from system.tokens", "the character '`' is not supported outside of quotes"),
            ("select \0 from system.tokens", "the character '\\0' is not supported outside of quotes"),
            ("select * from system.tokens where name = $", "a parameter has no name: write $name"),
        ] {
            let refused = Statement::parse(sql).unwrap_err();
            assert_eq!(refused.to_string(), reason, "{sql:?}");
        }
        for sql in ["select apiv3_a-1b from system.tokens", "select 'apiv3_x' from system.tokens", "apiv3_x"]
        {
            let refused = Statement::parse(sql).unwrap_err().to_string();
            assert_eq!(
                refused, "the query holds a token, which is in no column: ask for its name",
                "{sql:?}"
            );
        }
        let long = format!("select * from system.tokens{}", " ".repeat(MAX_BYTES));
        assert_eq!(
            Statement::parse(&long).unwrap_err().to_string(),
            "the query has 16411 bytes, of at most 16384"
        );
    }
}
