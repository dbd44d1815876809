//! Runs a query in SQLite, on a copy of the tokens in memory.
//!
//! The connection has no file. An authorizer accepts reads of the one table and the listed
//! functions only, so a query reaches neither the store nor any other file.
//!
//! Limits bound length, time and memory of a query. SQLite's limit of all memory belongs to the
//! process, and would end commands of the store as well, so it is not set. Instead, a query has at
//! most as many rows as there are tokens (`sql_statement.rs`), and each value is short.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use optoken_protocol::redact::redact;
use rusqlite::config::DbConfig;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::{ToSqlOutput, Value as SqlValue, ValueRef};
use rusqlite::{Connection, ErrorCode, Statement as Prepared, ToSql};
use serde_json::{Map, Value as Json};

use super::table::{Column, ColumnKind, Table, Value};
use super::{instant, pattern};
use crate::http::query_error::QueryError;
use crate::http::sql_statement::{ILIKE, SCHEMA, Statement, TABLE};

/// The functions of a query. They mean the same in `DataFusion`.
const FUNCTIONS: [&str; 18] = [
    "abs", "avg", "coalesce", "concat", "count", "length", "lower", "ltrim", "max", "min", "now", "nullif",
    "replace", "rtrim", "substr", "sum", "trim", "upper",
];

/// The functions that SQLite calls for LIKE and ILIKE.
const OPERATORS: [&str; 2] = ["like", ILIKE];

/// The time that a query has.
const MAX_TIME: Duration = Duration::from_secs(5);

/// The instructions of SQLite that a query has. A sorted list of all columns of 10,000 tokens needs
/// half a million.
const MAX_STEPS: u32 = 20_000_000;

/// The instructions between two looks at both limits.
const STEPS_PER_CHECK: u32 = 100;

/// The bytes of all values of a result, with their overhead.
const MAX_RESULT_BYTES: usize = 16 << 20;

/// The overhead of a value.
const BYTES_PER_VALUE: usize = size_of::<Value>();

/// Limits of SQLite. The row of a sorted result is one of its values.
const LIMITS: [(Limit, i32); 8] = [
    (Limit::SQLITE_LIMIT_LENGTH, 4_096),
    (Limit::SQLITE_LIMIT_COLUMN, 64),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 200),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 1),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 16),
    (Limit::SQLITE_LIMIT_ATTACHED, 1),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 100),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
];

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error::{SqlInputError, SqliteFailure, UserFunctionError};
        let reason = match error {
            SqliteFailure(cause, _) if cause.code == ErrorCode::OperationInterrupted => {
                "the query has too many steps: simplify it".to_owned()
            }
            SqlInputError { msg, .. } | SqliteFailure(_, Some(msg))
                if msg.starts_with("not authorized to use function") =>
            {
                format!("{msg}; known functions: {}", FUNCTIONS.join(", "))
            }
            // The text of the variant would repeat the query.
            SqlInputError { msg, .. } | SqliteFailure(_, Some(msg)) => msg,
            UserFunctionError(reason) => reason.to_string(),
            other => other.to_string(),
        };
        Self::new(reason)
    }
}

/// Runs a query on a table.
pub(super) fn run(
    table: &Table,
    statement: &Statement,
    parameters: &Map<String, Json>,
) -> Result<Table, QueryError> {
    run_within(table, statement, parameters, MAX_STEPS, MAX_TIME)
}

fn run_within(
    table: &Table,
    statement: &Statement,
    parameters: &Map<String, Json>,
    max_steps: u32,
    max_time: Duration,
) -> Result<Table, QueryError> {
    let malformed = Arc::default();
    let mut connection = open(table, &malformed)?;
    confine(&mut connection, table, max_steps, max_time)?;
    let mut prepared = connection.prepare(&statement.sql)?;
    bind(&mut prepared, parameters)?;
    let result = read(prepared, table);
    match malformed.get() {
        None => result,
        Some(text) => Err(QueryError::new(format!(
            "{:?} is compared with a time and is none: write '2025-01-01T00:00:00Z'",
            redact(text)
        ))),
    }
}

/// Copies a table into a new database in memory. `malformed` receives the first text that a query
/// compares with a time and that is none.
fn open(table: &Table, malformed: &Arc<OnceLock<String>>) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open_in_memory()?;
    // Not even a large sort writes a temporary file.
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.execute_batch(&format!("ATTACH ':memory:' AS {SCHEMA}"))?;
    let malformed = Arc::clone(malformed);
    connection.create_collation("instant", move |left, right| instant::compare(left, right, &malformed))?;
    let columns: Vec<_> =
        table.columns.iter().map(|column| format!("{} {}", column.name, declared(column.kind))).collect();
    connection.execute_batch(&format!("CREATE TABLE {SCHEMA}.{TABLE} ({})", columns.join(", ")))?;
    let places = vec!["?"; columns.len()].join(", ");
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare(&format!("INSERT INTO {SCHEMA}.{TABLE} VALUES ({places})"))?;
        for row in &table.rows {
            insert.execute(rusqlite::params_from_iter(row))?;
        }
    }
    transaction.commit()?;
    add_functions(&connection)?;
    Ok(connection)
}

/// The types of columns as SQLite has them: it derives an affinity from the words.
const DECLARED: [(ColumnKind, &str); 5] = [
    (ColumnKind::UInt64, "UNSIGNED INTEGER"),
    (ColumnKind::Int64, "INTEGER"),
    (ColumnKind::Float64, "REAL"),
    (ColumnKind::Utf8, "TEXT"),
    (ColumnKind::Timestamp, "TIMESTAMP TEXT"),
];

fn declared(kind: ColumnKind) -> String {
    let declared = DECLARED.iter().find(|(its, _)| *its == kind).map_or("", |(_, declared)| declared);
    let collation = if kind == ColumnKind::Timestamp { " COLLATE instant" } else { "" };
    format!("{declared}{collation}")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Real(number) => ValueRef::Real(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// Adds the functions that SQLite has not, or has with another meaning.
fn add_functions(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    for (name, ignores_case) in OPERATORS.into_iter().zip([false, true]) {
        for arguments in [2, 3] {
            connection
                .create_scalar_function(name, arguments, flags, move |context| like(context, ignores_case))?;
        }
    }
    // SQLite's own change ASCII only.
    connection.create_scalar_function("lower", 1, flags, |context| {
        Ok(text(context, 0)?.map(|text| text.to_lowercase()))
    })?;
    connection.create_scalar_function("upper", 1, flags, |context| {
        Ok(text(context, 0)?.map(|text| text.to_uppercase()))
    })?;
    let started = SystemTime::now();
    connection.create_scalar_function("now", 0, flags, move |_| Ok(time(started)))?;
    connection.create_scalar_function("now", 2, flags, move |context| {
        let (sign, interval): (String, String) = (context.get(0)?, context.get(1)?);
        let interval = instant::interval(&interval).ok_or_else(|| {
            failed(format!(
                "{interval:?} is no interval: write '1 day', with weeks, days, hours or shorter units"
            ))
        })?;
        let at = if sign == "-" { started.checked_sub(interval) } else { started.checked_add(interval) };
        Ok(at.map(time))
    })
}

fn like(context: &Context<'_>, ignores_case: bool) -> rusqlite::Result<Option<bool>> {
    if context.len() == 3 && text(context, 2)?.as_deref() != Some("\\") {
        return Err(failed("LIKE knows no ESCAPE but the backslash".to_owned()));
    }
    let (Some(pattern), Some(text)) = (text(context, 0)?, text(context, 1)?) else { return Ok(None) };
    let pattern = pattern::Pattern::parse(&pattern, ignores_case)
        .ok_or_else(|| failed(format!("a pattern has more than {} characters", pattern::MAX_CHARACTERS)))?;
    Ok(Some(pattern.matches(&text)))
}

/// Returns an argument as a text, or nothing for a null.
fn text(context: &Context<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    Ok(match context.get(index)? {
        SqlValue::Null => None,
        SqlValue::Integer(number) => Some(number.to_string()),
        SqlValue::Real(number) => Some(Value::Real(number).cell()),
        SqlValue::Text(text) => Some(text),
        SqlValue::Blob(_) => return Err(failed(NO_BLOBS.to_owned())),
    })
}

const NO_BLOBS: &str = "binary values are not supported";

fn failed(reason: String) -> rusqlite::Error {
    rusqlite::Error::UserFunctionError(reason.into())
}

/// Returns a time as a timestamp of a column.
fn time(at: SystemTime) -> String {
    let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    instant::timestamp(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// Restricts the connection to short reads of the table.
fn confine(
    connection: &mut Connection,
    table: &Table,
    max_steps: u32,
    max_time: Duration,
) -> rusqlite::Result<()> {
    for (limit, value) in LIMITS {
        connection.set_limit(limit, value)?;
    }
    // A text in double quotes is an identifier.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    let columns: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
    connection.authorizer(Some(move |context: AuthContext<'_>| authorize(&context, &columns)))?;
    let (deadline, mut steps) = (Instant::now() + max_time, 0);
    connection.progress_handler(
        STEPS_PER_CHECK.cast_signed(),
        Some(move || {
            steps += STEPS_PER_CHECK;
            steps > max_steps || Instant::now() > deadline
        }),
    )
}

fn authorize(context: &AuthContext<'_>, columns: &[String]) -> Authorization {
    let allowed = match context.action {
        AuthAction::Select => true,
        AuthAction::Read { table_name, column_name } => {
            // A query of no column, such as a count, reads the column without a name.
            let known = column_name.is_empty() || columns.iter().any(|column| column == column_name);
            table_name == TABLE && context.database_name == Some(SCHEMA) && known
        }
        AuthAction::Function { function_name } => {
            FUNCTIONS.contains(&function_name) || OPERATORS.contains(&function_name)
        }
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}

/// Binds the parameters that the query names.
fn bind(prepared: &mut Prepared<'_>, parameters: &Map<String, Json>) -> Result<(), QueryError> {
    for index in 1..=prepared.parameter_count() {
        let name = prepared.parameter_name(index).unwrap_or_default().to_owned();
        let value = name.strip_prefix('$').and_then(|name| parameters.get(name));
        let value = match value {
            None => return Err(QueryError::new(format!("params has no value for {name}"))),
            Some(Json::Null) => Value::Null,
            Some(Json::Bool(value)) => Value::Integer((*value).into()),
            Some(Json::String(text)) => Value::Text(text.clone()),
            Some(Json::Number(number)) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Value::Integer(number),
                (None, Some(number)) => Value::Real(number),
                (None, None) => return Err(QueryError::new(format!("the value of {name} is out of range"))),
            },
            Some(Json::Array(_) | Json::Object(_)) => {
                return Err(QueryError::new(format!("the value of {name} is neither a text nor a number")));
            }
        };
        prepared.raw_bind_parameter(index, value)?;
    }
    Ok(())
}

/// Reads the result.
fn read(mut prepared: Prepared<'_>, table: &Table) -> Result<Table, QueryError> {
    let names: Vec<String> = prepared.column_names().map(str::to_owned).collect();
    if let Some(name) =
        names.iter().enumerate().find_map(|(at, name)| names.iter().take(at).find(|its| *its == name))
    {
        return Err(QueryError::new(format!("two columns are named {name:?}: name one with AS")));
    }
    let declared: Vec<_> = prepared.columns().map(|column| column.decl_type().map(str::to_owned)).collect();
    let mut bytes = 0;
    let mut rows = Vec::new();
    let mut read = prepared.raw_query();
    while let Some(row) = read.next()? {
        let mut values = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let value = match row.get_ref(index)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Integer(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(_) => return Err(QueryError::new(NO_BLOBS)),
            };
            // JSON has the name in every row.
            let length = if let Value::Text(text) = &value { text.len() } else { 0 };
            bytes += BYTES_PER_VALUE + name.len() + length;
            values.push(value);
        }
        if bytes > MAX_RESULT_BYTES {
            return Err(QueryError::new("the result is too large: select fewer columns, or add a LIMIT"));
        }
        rows.push(values);
    }
    debug_assert!(rows.len() <= table.rows.len().max(1));
    let columns = names.into_iter().zip(declared).enumerate().map(|(index, (name, declared))| {
        let declared = DECLARED.iter().find(|(_, known)| declared.as_deref() == Some(known));
        let kind = declared.map_or_else(|| common_kind(&mut rows, index), |(kind, _)| *kind);
        Column { name, kind }
    });
    Ok(Table { columns: columns.collect(), rows })
}

/// Returns the type that all values of a column have. If there is none, they become texts.
fn common_kind(rows: &mut [Vec<Value>], index: usize) -> ColumnKind {
    let (mut integers, mut reals, mut texts) = (0, 0, 0);
    for value in rows.iter().filter_map(|row| row.get(index)) {
        match value {
            Value::Null => {}
            Value::Integer(_) => integers += 1,
            Value::Real(_) => reals += 1,
            Value::Text(_) => texts += 1,
        }
    }
    match (integers, reals, texts) {
        (1.., 0, 0) => return ColumnKind::Int64,
        (_, 1.., 0) => {
            #[expect(
                clippy::cast_precision_loss,
                reason = "SQLite has made the other values imprecise as well"
            )]
            for value in rows.iter_mut().filter_map(|row| row.get_mut(index)) {
                if let Value::Integer(number) = value {
                    *value = Value::Real(*number as f64);
                }
            }
            return ColumnKind::Float64;
        }
        _ => {}
    }
    for value in rows.iter_mut().filter_map(|row| row.get_mut(index)) {
        if matches!(value, Value::Integer(_) | Value::Real(_)) {
            *value = Value::Text(value.cell());
        }
    }
    ColumnKind::Utf8
}

#[cfg(test)]
mod tests;
