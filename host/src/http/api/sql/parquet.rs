//! Writes a table as a file of Apache Parquet, in its simplest form.
//!
//! Each column is one page without compression, and every value may be null. The metadata is in
//! the compact protocol of Apache Thrift. The numbers of fields and types are those of
//! `parquet.thrift` (<https://github.com/apache/parquet-format>). The crate `parquet` would add
//! thirteen crates to the server for this one table.

use super::instant;
use super::table::{Column, ColumnKind, Table, Value};

const MAGIC: &[u8] = b"PAR1";

/// `Encoding`: the values and the levels.
const PLAIN: i64 = 0;
const RLE: i64 = 3;

/// `FieldRepetitionType`: a value may be null.
const OPTIONAL: i64 = 1;

/// Returns the file of a table.
pub(super) fn file(table: &Table) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    let mut chunks = Vec::new();
    for (index, column) in table.columns.iter().enumerate() {
        let values = table.rows.iter().map(|row| row.get(index).unwrap_or(&Value::Null));
        let page = page(column, values);
        chunks.push(column_chunk(column, table.rows.len(), file.len(), page.len()));
        file.extend(page);
    }
    let length = file.len() - MAGIC.len();
    let rows = number(table.rows.len());
    // A group has at least one row.
    let group = (!table.rows.is_empty())
        .then(|| Struct::new().structs(1, &chunks).i64(2, number(length)).i64(3, rows).end());
    let root = Struct::new().text(4, "arrow_schema").i32(5, number(table.columns.len())).end();
    let schema: Vec<_> = [root].into_iter().chain(table.columns.iter().map(schema_element)).collect();
    let metadata = Struct::new()
        .i32(1, 1)
        .structs(2, &schema)
        .i64(3, rows)
        .structs(4, group.as_slice())
        .text(6, concat!("optoken version ", env!("CARGO_PKG_VERSION")))
        .end();
    file.extend(&metadata);
    file.extend(length_prefix(metadata.len()));
    file.extend(MAGIC);
    file
}

/// Returns the one page of a column, with its header.
fn page<'a>(column: &Column, values: impl Iterator<Item = &'a Value>) -> Vec<u8> {
    let (mut levels, mut data, mut count) = (Levels::default(), Vec::new(), 0);
    for value in values {
        let plain = plain(column.kind, value);
        levels.push(plain.is_some());
        data.extend(plain.unwrap_or_default());
        count += 1;
    }
    let levels = levels.end();
    let size = number(size_of::<u32>() + levels.len() + data.len());
    let of_data = Struct::new().i32(1, count).i32(2, PLAIN).i32(3, RLE).i32(4, RLE).end();
    let header = Struct::new().i32(1, 0).i32(2, size).i32(3, size).nested(5, &of_data).end();
    [header, length_prefix(levels.len()).to_vec(), levels, data].concat()
}

/// Returns the bytes of a value, or nothing for a null.
fn plain(kind: ColumnKind, value: &Value) -> Option<Vec<u8>> {
    Some(match (kind, value) {
        (_, Value::Null) => return None,
        (ColumnKind::Timestamp, Value::Text(text)) => {
            let milliseconds = instant::nanoseconds(text)?.div_euclid(1_000_000);
            i64::try_from(milliseconds).ok()?.to_le_bytes().to_vec()
        }
        (_, Value::Integer(number)) => number.to_le_bytes().to_vec(),
        (_, Value::Real(number)) => number.to_le_bytes().to_vec(),
        (_, Value::Text(text)) => [&length_prefix(text.len()), text.as_bytes()].concat(),
    })
}

/// The definition levels of a page: runs of values and of nulls.
#[derive(Default)]
struct Levels {
    bytes: Vec<u8>,
    run: Option<(bool, u64)>,
}

impl Levels {
    fn push(&mut self, defined: bool) {
        match &mut self.run {
            Some((its, length)) if *its == defined => *length += 1,
            _ => {
                self.end_run();
                self.run = Some((defined, 1));
            }
        }
    }

    fn end_run(&mut self) {
        if let Some((defined, length)) = self.run.take() {
            varint(&mut self.bytes, length << 1);
            self.bytes.push(defined.into());
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.end_run();
        self.bytes
    }
}

/// `Type`
fn physical_type(kind: ColumnKind) -> i64 {
    match kind {
        ColumnKind::UInt64 | ColumnKind::Int64 | ColumnKind::Timestamp => 2,
        ColumnKind::Float64 => 5,
        ColumnKind::Utf8 => 6,
    }
}

/// `ColumnChunk` of a column whose page has this place and length in the file.
fn column_chunk(column: &Column, rows: usize, offset: usize, length: usize) -> Vec<u8> {
    let metadata = Struct::new()
        .i32(1, physical_type(column.kind))
        .list(2, I32, &[zigzag(PLAIN), zigzag(RLE)])
        .list(3, BINARY, &[binary(&column.name)])
        .i32(4, 0)
        .i64(5, number(rows))
        .i64(6, number(length))
        .i64(7, number(length))
        .i64(9, number(offset))
        .end();
    Struct::new().i64(2, number(offset)).nested(3, &metadata).end()
}

/// `SchemaElement`, with the logical type of Arrow.
fn schema_element(column: &Column) -> Vec<u8> {
    let element = Struct::new().i32(1, physical_type(column.kind)).i32(3, OPTIONAL).text(4, &column.name);
    let empty = Struct::new().end();
    match column.kind {
        ColumnKind::Utf8 => element.i32(6, 0).nested(10, &Struct::new().nested(1, &empty).end()),
        ColumnKind::UInt64 => {
            let unsigned = Struct::new().i8(1, 64).bool(2, false).end();
            element.i32(6, 14).nested(10, &Struct::new().nested(10, &unsigned).end())
        }
        // Without a time zone. The older type of the field 6 has one.
        ColumnKind::Timestamp => {
            let milliseconds = Struct::new().nested(1, &empty).end();
            let timestamp = Struct::new().bool(1, false).nested(2, &milliseconds).end();
            element.nested(10, &Struct::new().nested(8, &timestamp).end())
        }
        ColumnKind::Int64 | ColumnKind::Float64 => element,
    }
    .end()
}

/// Types of fields in the compact protocol.
const BYTE: u8 = 3;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A struct of Thrift, field by field in rising order.
struct Struct {
    bytes: Vec<u8>,
    last: u8,
}

impl Struct {
    fn new() -> Self {
        Self { bytes: Vec::new(), last: 0 }
    }

    /// Adds a field. No field here is more than 15 behind the last.
    fn field(mut self, id: u8, kind: u8, value: &[u8]) -> Self {
        self.bytes.push(((id - self.last) << 4) | kind);
        self.bytes.extend(value);
        self.last = id;
        self
    }

    /// The type of the field is its value.
    fn bool(self, id: u8, value: bool) -> Self {
        self.field(id, if value { 1 } else { 2 }, &[])
    }

    fn i8(self, id: u8, value: u8) -> Self {
        self.field(id, BYTE, &[value])
    }

    fn i32(self, id: u8, value: i64) -> Self {
        self.field(id, I32, &zigzag(value))
    }

    fn i64(self, id: u8, value: i64) -> Self {
        self.field(id, I64, &zigzag(value))
    }

    fn text(self, id: u8, value: &str) -> Self {
        self.field(id, BINARY, &binary(value))
    }

    fn nested(self, id: u8, value: &[u8]) -> Self {
        self.field(id, STRUCT, value)
    }

    fn structs(self, id: u8, values: &[Vec<u8>]) -> Self {
        self.list(id, STRUCT, values)
    }

    fn list(self, id: u8, kind: u8, values: &[Vec<u8>]) -> Self {
        let mut list = Vec::new();
        match u8::try_from(values.len()) {
            Ok(length) if length < 15 => list.push((length << 4) | kind),
            _ => {
                list.push(0xf0 | kind);
                varint(&mut list, values.len() as u64);
            }
        }
        list.extend(values.iter().flatten());
        self.field(id, LIST, &list)
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

fn binary(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(&mut bytes, text.len() as u64);
    bytes.extend(text.as_bytes());
    bytes
}

fn zigzag(value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(&mut bytes, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
    bytes
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            to.push(low);
            return;
        }
        to.push(low | 0x80);
    }
}

/// The length of a part. No table has 2 GiB.
fn length_prefix(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_lists_have_two_forms() {
        let list = |count: usize| Struct::new().list(1, I32, &vec![zigzag(-1); count]).end();
        let bytes = |head: &[u8], count| [&[0x19], head, &vec![1; count], &[0]].concat();
        assert_eq!(list(14), bytes(&[0xe5], 14));
        assert_eq!(list(15), bytes(&[0xf5, 15], 15));
        assert_eq!(list(300), bytes(&[0xf5, 0xac, 0x02], 300));
    }

    #[test]
    fn file_has_these_bytes() {
        let table = Table {
            columns: vec![
                Column::new("id", ColumnKind::UInt64),
                Column::new("n", ColumnKind::Int64),
                Column::new("r", ColumnKind::Float64),
                Column::new("t", ColumnKind::Utf8),
                Column::new("at", ColumnKind::Timestamp),
            ],
            rows: vec![
                vec![
                    Value::Integer(7),
                    Value::Integer(-1),
                    Value::Real(1.5),
                    Value::Text("é".to_owned()),
                    Value::Text("2025-04-18T14:02:45.331".to_owned()),
                ],
                vec![Value::Null, Value::Integer(300), Value::Null, Value::Text(String::new()), Value::Null],
            ],
        };
        // As PyArrow reads them. The name and the version of this program follow.
        let expected = concat!(
            "504152311500152015202c15041500150615060000040000000201020007000000000000001500152c152c2c",
            "15041500150615060000020000000401ffffffffffffffff2c010000000000001500152015202c1504150015",
            "06150600000400000002010200000000000000f83f1500152015202c15041500150615060000020000000401",
            "02000000c3a9000000001500152015202c150415001506150600000400000002010200d38035499601000015",
            "02196c480c6172726f775f736368656d61150a001504250218026964251c4cac134012000000150425021801",
            "6e00150a250218017200150c250218017425004c1c00000015042502180261746c8c121c1c00000000001604",
            "191c195c26081c1504192500061918026964150016041642164226080000264a1c1504192500061918016e15",
            "001604164e164e264a00002698011c150a19250006191801721500160416421642269801000026da011c150c",
            "1925000619180174150016041642164226da010000269c021c15041925000619180261741500160416421642",
            "269c02000016d602160400",
        );
        let file = base16ct::lower::encode_string(&file(&table));
        assert_eq!(file.get(..expected.len()), Some(expected));
        assert!(file.ends_with(&base16ct::lower::encode_string(MAGIC)));
    }
}
