//! A table in memory: the tokens as a query reads them, and the rows that it returns.

/// A table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    pub(crate) columns: Vec<Column>,
    /// Each row has one value for each column.
    pub(crate) rows: Vec<Vec<Value>>,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: ColumnKind,
}

/// The type of a column, by its name in Arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    UInt64,
    Int64,
    Float64,
    Utf8,
    /// Milliseconds without a time zone. The value is a text, as [`instant`] reads it.
    ///
    /// [`instant`]: super::instant
    Timestamp,
}

/// A value of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl Column {
    pub(crate) fn new(name: &str, kind: ColumnKind) -> Self {
        Self { name: name.to_owned(), kind }
    }
}

impl Value {
    /// Returns the value in a cell of CSV or of a printed table. A null is empty.
    pub(crate) fn cell(&self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Integer(number) => number.to_string(),
            // As JSON writes it: 1.0 and not 1.
            Self::Real(number) => serde_json::Value::from(*number).to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}
