//! Whether a query in SQL reads `system.tokens`. This server answers such a query itself, so that a
//! client sees its tokens and not those of the service behind it.

use hyper::Method;

use super::json_body;
use super::query_string::Parameters;
use crate::http::sql_statement::{Kind, Lexeme, SCHEMA, Statement, TABLE, lexemes};

/// How a query uses the table of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemTokens {
    /// It reads this table alone, by a statement that this server runs.
    Alone,
    /// It reads this table in another way, or it is uncertain whether it does.
    Mixed,
    /// It does not read this table.
    Absent,
}

/// The most bytes of a body that may have a query.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// Returns how the query of a request without a body uses the table; `None` if the body may have
/// the query. A query that cannot be read does not use it.
pub(crate) fn in_query_string(method: &Method, query: &str) -> Option<SystemTokens> {
    match *method {
        Method::GET => {
            let parameters = Parameters::parse(query).ok();
            Some(parameters.and_then(|given| given.get("q").map(of)).unwrap_or(SystemTokens::Absent))
        }
        Method::POST => None,
        _ => Some(SystemTokens::Absent),
    }
}

/// Returns how the query in a body of JSON uses the table.
pub(crate) fn in_body(body: &[u8]) -> SystemTokens {
    let members = json_body::members(body, &[&["q"]]).ok();
    members.and_then(|[query]| query.as_deref().map(of)).unwrap_or(SystemTokens::Absent)
}

/// Returns how a query uses the table of tokens.
pub(crate) fn of(sql: &str) -> SystemTokens {
    let lower = sql.to_ascii_lowercase();
    if !(lower.contains(SCHEMA) && lower.contains(TABLE)) {
        return SystemTokens::Absent;
    }
    if Statement::parse(sql).is_ok() {
        return SystemTokens::Alone;
    }
    match lexemes(sql) {
        Ok(lexemes) if !is_uncertain(sql, &lexemes) && !names_table(&lexemes) => SystemTokens::Absent,
        _ => SystemTokens::Mixed,
    }
}

/// Returns whether the name of the table stands in a query, with whatever before and behind it.
fn names_table(lexemes: &[Lexeme]) -> bool {
    lexemes.windows(3).any(|window| match window {
        [schema, dot, table] => schema.names(SCHEMA) && dot.is_symbol(".") && table.names(TABLE),
        _ => false,
    })
}

/// Returns whether another lexer could find other texts and comments.
fn is_uncertain(sql: &str, lexemes: &[Lexeme]) -> bool {
    // In some dialects comments nest, and a backslash escapes a quote.
    let has_escape = |lexeme: &Lexeme| lexeme.kind == Kind::Text && lexeme.text.contains('\\');
    sql.matches("/*").nth(1).is_some() || lexemes.iter().any(has_escape)
}

#[cfg(test)]
mod tests {
    use super::SystemTokens::{Absent, Alone, Mixed};
    use super::*;

    #[test]
    fn queries_are_sorted_by_their_use_of_the_table() {
        for (sql, expected) in [
            ("select * from system.tokens", Alone),
            ("SELECT name FROM System.Tokens WHERE expiry < now();", Alone),
            ("select * from \"system\".\"tokens\" order by name limit 1", Alone),
            ("select * /* a comment */ from system . tokens -- another", Alone),
            ("select 'system.tokens' from system.tokens", Alone),
            ("", Absent),
            ("select 1", Absent),
            ("select * from m", Absent),
            ("select * from system.queries", Absent),
            ("select * from tokens where name = 'system'", Absent),
            ("select tokens from system", Absent),
            ("select 'system.tokens' from m", Absent),
            ("select * from m -- system.tokens", Absent),
            ("select * from m /* system.tokens */", Absent),
            ("select * from \"system.tokens\"", Absent),
            ("select * from \"System\".tokens", Absent),
            ("select * from system.\"Tokens\"", Absent),
            ("select * from system_tokens", Absent),
            ("select * from system.tokens_x", Absent),
            ("select * from xsystem.tokens", Absent),
            ("select * from m where x = 'it''s system.tokens'", Absent),
            ("select * from system.tokens, m", Mixed),
            ("select * from m, system.tokens", Mixed),
            ("select * from system.tokens join m", Mixed),
            ("select * from m where n in (select name from system.tokens)", Mixed),
            ("with t as (select * from system.tokens) select * from t", Mixed),
            ("select * from public.system.tokens", Mixed),
            ("select * from \"public\".\"system\".\"tokens\"", Mixed),
            ("select * from SYSTEM/**/./**/TOKENS, m", Mixed),
            ("select * from system\n.\ntokens union select 1", Mixed),
            ("explain select * from system.tokens", Mixed),
            ("select * from system.tokens; select 1", Mixed),
            ("table system.tokens", Mixed),
            ("select cast(name as int) from system.tokens", Mixed),
            ("select * from m where x = 'system.tokens", Mixed),
            ("select * from m where x = \"system.tokens", Mixed),
            ("select * from m where x = E'\\' or system.tokens'", Mixed),
            ("select * from m where x = 'a\\' -- ' from system.tokens", Mixed),
            ("select /* /* */ ' */ * from system.tokens --'", Mixed),
            ("select * from [system].[tokens]", Mixed),
            ("select * from `system`.`tokens`", Mixed),
            ("select * from m /* system.tokens", Mixed),
            ("select $$ from system.tokens $$", Mixed),
        ] {
            assert_eq!(of(sql), expected, "{sql:?}");
        }
    }
}
