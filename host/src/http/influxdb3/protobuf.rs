//! The wire format of Protocol Buffers, as far as tickets need it.

/// The value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A number of any type.
    Varint(u64),
    /// A text, bytes, or a message.
    Bytes(&'a [u8]),
}

/// The types of fields on the wire.
mod wire_type {
    pub(super) const VARINT: u64 = 0;
    pub(super) const I64: u64 = 1;
    pub(super) const LEN: u64 = 2;
    pub(super) const GROUP_START: u64 = 3;
    pub(super) const GROUP_END: u64 = 4;
    pub(super) const I32: u64 = 5;
}

/// The most fields of a message.
const MAX_FIELDS: usize = 1024;

/// Returns the fields of a message with their numbers. A message with too many fields, or with one
/// of another type than those of [`Value`], has no result.
pub(super) fn fields(message: &[u8]) -> Option<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let (key, behind) = varint(rest)?;
        let value;
        (value, rest) = match key & 7 {
            wire_type::VARINT => varint(behind).map(|(number, behind)| (Value::Varint(number), behind))?,
            wire_type::LEN => bytes(behind).map(|(bytes, behind)| (Value::Bytes(bytes), behind))?,
            _ => return None,
        };
        if fields.len() == MAX_FIELDS {
            return None;
        }
        fields.push((key >> 3, value));
    }
    Some(fields)
}

/// Returns whether any decoder could read the bytes as a message of any type.
pub(super) fn may_be_message(bytes: &[u8]) -> bool {
    fn walk(mut rest: &[u8]) -> Option<bool> {
        let mut groups = Vec::new();
        while !rest.is_empty() {
            let (key, behind) = varint(rest)?;
            rest = match key & 7 {
                wire_type::VARINT => varint(behind)?.1,
                wire_type::I64 => behind.get(8..)?,
                wire_type::LEN => self::bytes(behind)?.1,
                wire_type::I32 => behind.get(4..)?,
                wire_type::GROUP_START => {
                    groups.push(key >> 3);
                    behind
                }
                wire_type::GROUP_END if groups.pop() == Some(key >> 3) => behind,
                _ => return None,
            };
        }
        Some(groups.is_empty())
    }
    walk(bytes).unwrap_or(false)
}

/// Reads a number, also one with more bytes than it needs.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        // The last byte has one bit left.
        if at == 9 && bits > 1 {
            return None;
        }
        number |= bits << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(at + 1..)?));
        }
    }
    None
}

/// Reads a length and as many bytes.
fn bytes(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = varint(rest)?;
    behind.split_at_checked(usize::try_from(length).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        assert_eq!(fields(b""), Some(vec![]));
        assert_eq!(fields(b"\x0a\x01a"), Some(vec![(1, Value::Bytes(b"a"))]));
        assert_eq!(fields(b"\x0a\x81\x00a"), Some(vec![(1, Value::Bytes(b"a"))]));
        assert_eq!(
            fields(b"\x12\x00\x18\xac\x02"),
            Some(vec![(2, Value::Bytes(b"")), (3, Value::Varint(300))])
        );
        let max = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(fields(max), Some(vec![(3, Value::Varint(u64::MAX))]));
    }

    #[test]
    fn broken_messages_have_no_fields() {
        for message in [
            &b"\x0a"[..],
            b"\x0a\x02a",
            b"\x0a\x01",
            b"\x18",
            b"\x18\x80",
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0d1234",
            b"\x09\x30\x30\x30\x30\x30\x30\x30\x30",
            b"\x0b\x0c",
            b"\x0e",
            b"\x0f",
        ] {
            assert_eq!(fields(message), None, "{message:?}");
        }
        let many = |count| b"\x08\x01".repeat(count);
        assert_eq!(fields(&many(MAX_FIELDS)).map(|fields| fields.len()), Some(MAX_FIELDS));
        assert_eq!(fields(&many(MAX_FIELDS + 1)), None);
    }

    #[test]
    fn message_of_any_type_is_recognised() {
        for message in [
            &b""[..],
            b"\x0a\x01a",
            b"\x0d1234",
            b"\x0912345678",
            b"\x0b\x0c",
            b"\x0b\x13\x14\x08\x01\x0c",
            b"{|",
            b"{\x08a|",
            b"{|\x0a\x01b",
        ] {
            assert!(may_be_message(message), "{message:?}");
        }
        for message in [
            &b"{"[..],
            b"|",
            b"{}",
            b"\x0b\x14",
            b"\x0b\x13\x0c\x14",
            b"\x0d123",
            b"\x0a\x02a",
            b"\x0e",
            br#"{"database":"a","sql_query":"select 1 | 2"}"#,
        ] {
            assert!(!may_be_message(message), "{message:?}");
        }
    }
}
