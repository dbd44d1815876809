use std::fs;

use super::*;

fn records(count: u64) -> Vec<RetainedRecord> {
    let mut previous = "null".to_owned();
    let lines = (1..=count)
        .map(|sequence| {
            let line = format!(
                r#"{{"sequence":{sequence},"at":0,"action":"x","actor":"recovery","subject":null,"origin":"","previous":{previous}}}"#
            );
            previous = format!("\"{}\"", hash(line.as_bytes()));
            line
        })
        .collect();
    RetainedRecord::read(lines).unwrap()
}

fn text(kept: &[RetainedRecord]) -> String {
    kept.iter().map(|kept| kept.line.clone() + "\n").collect()
}

#[test]
fn failed_append_is_truncated_before_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let kept = records(3);
    let mut log = AuditLog::open(&path).unwrap();
    log.append_missing(&kept[..1]).unwrap();
    // The file is read-only; half of a record is written through another handle.
    let writable = std::mem::replace(&mut log.file, File::open(&path).unwrap());
    assert!(matches!(log.append_missing(&kept[..2]), Err(AuditLogError::Append { .. })));
    (&writable).write_all(&kept[1].line.as_bytes()[..20]).unwrap();
    log.file = writable;
    log.append_missing(&kept).unwrap();
    log.append_missing(&kept).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept));
}

#[test]
fn cut_or_changed_file_spoils_no_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let kept = records(6);
    let whole = text(&kept[..5]);
    let first = text(&kept[..1]);
    for (changed, expected) in [
        // Cut within a record, or between two.
        (whole[..whole.len() - 20].to_owned(), text(&kept)),
        (whole[..first.len() + 30].to_owned(), text(&kept)),
        (whole[..20].to_owned(), text(&kept)),
        (first.clone(), text(&kept)),
        // Truncated after a copy was made.
        (String::new(), text(&kept[5..])),
        // The beginning of the file was removed.
        (whole[first.len()..].to_owned(), text(&kept[1..])),
        // A line of another program, whole or not.
        (format!("{whole}note\n"), format!("{whole}note\n{}", text(&kept[5..]))),
        (format!("{whole}note"), format!("{whole}note\n{}", text(&kept[5..]))),
        ("note".to_owned(), format!("note\n{}", text(&kept))),
    ] {
        let _ = fs::remove_file(&path);
        let mut log = AuditLog::open(&path).unwrap();
        log.append_missing(&kept[..5]).unwrap();
        fs::write(&path, &changed).unwrap();
        log.append_missing(&kept).unwrap();
        log.append_missing(&kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{changed}");
        drop(log);
        AuditLog::open(&path).unwrap().append_missing(&kept).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{changed}");
    }
}

#[test]
fn fragment_is_truncated_only_if_a_record_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.jsonl");
    let kept = records(30);
    for (whole, fragment, newest, lost) in [
        // Of a retained record.
        (10, r#"{"sequence":11,"at":0,"#, 5, Some(0)),
        (10, r#"{"sequence":12,"#, 5, None),
        (10, r#"{"sequence":11,"at":1"#, 5, None),
        // Of a record that is no longer retained.
        (10, r#"{"sequence":11,"at":1"#, 20, Some(10)),
        (10, r#"{"sequence":1"#, 20, Some(10)),
        (10, r#"{"se"#, 20, Some(10)),
        (10, "", 20, Some(10)),
        (10, r#"{"sequence":12,"#, 20, None),
        (10, r#"{"sequence":21,"at":0,"#, 20, None),
        (10, "x", 20, None),
        // Of the first record.
        (0, r#"{"sequence":1,"at":1"#, 20, Some(0)),
        (0, r#"{"sequence":25,"at":0"#, 20, Some(0)),
        (0, r#"{"sequence":25,"at":1"#, 20, None),
        (0, "x", 20, None),
    ] {
        let begun = text(&kept[..whole]);
        fs::write(&path, begun.clone() + fragment).unwrap();
        let appended = AuditLog::open(&path).unwrap().append_missing(&kept[newest..]).ok();
        assert_eq!(appended, lost, "{whole} whole, {fragment:?}");
        let content = match lost {
            Some(_) => begun + &text(&kept[newest.max(whole)..]),
            None => begun + fragment,
        };
        assert_eq!(fs::read_to_string(&path).unwrap(), content, "{whole} whole, {fragment:?}");
    }
}

#[test]
fn moved_or_deleted_file_is_reopened() {
    let directory = tempfile::tempdir().unwrap();
    let (path, moved) = (directory.path().join("audit.jsonl"), directory.path().join("audit.jsonl.1"));
    let kept = records(6);
    let mut log = AuditLog::open(&path).unwrap();
    log.append_missing(&kept[..2]).unwrap();
    fs::rename(&path, &moved).unwrap();
    log.append_missing(&kept[..2]).unwrap();
    log.append_missing(&kept[..3]).unwrap();
    // As logrotate does with `create`.
    fs::rename(&path, directory.path().join("audit.jsonl.0")).unwrap();
    File::create(&path).unwrap();
    log.append_missing(&kept[..4]).unwrap();
    assert_eq!(fs::read_to_string(&moved).unwrap(), text(&kept[..2]));
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept[3..4]));
    fs::remove_file(&path).unwrap();
    log.append_missing(&kept[1..5]).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept[1..5]));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, PRIVATE_MODE);
    // An older file is restored.
    fs::remove_file(&path).unwrap();
    fs::copy(&moved, &path).unwrap();
    log.append_missing(&kept).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&kept));
    // A file of another catalog.
    fs::rename(&path, &moved).unwrap();
    fs::write(&path, text(&kept[..1]).replace("\"at\":0", "\"at\":1")).unwrap();
    assert!(matches!(log.append_missing(&kept), Err(AuditLogError::Foreign { sequence: 1, .. })));
}
