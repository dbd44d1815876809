//! The SQLite store when the disk fails, is full, or loses what was not synced.
//!
//! A child process uses the store under strace. It is this program again, as [`CHILD`] requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use std::{env, iter, thread};

use optoken::store::{SqliteStore, Store, StoreError, SwapOutcome};
use rustix::process::{Signal, getpid, kill_process};

use crate::needs::{MOUNT, STRACE, path};
use crate::support::{REGENERATE, TestEnv, create_named, eventually, get, post};

/// Makes this program a child that uses the store at the path of the value.
const CHILD: &str = "OPTOKEN_TEST_STORE_CHILD";

/// What the child does after its swaps: `kill` or `close`.
const END: &str = "OPTOKEN_TEST_STORE_END";

/// How many swaps the child makes.
const SWAPS: &str = "OPTOKEN_TEST_STORE_SWAPS";

/// How many milliseconds the child pauses after its first swap. Each later pause is longer by as
/// much.
const PAUSE: &str = "OPTOKEN_TEST_STORE_PAUSE";

/// The system calls that change files.
const CALLS: &str =
    "pwrite64,write,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat,openat";

/// Runs the child, if this process is one.
pub(crate) fn run_child() -> bool {
    let Some(path) = env::var_os(CHILD) else { return false };
    let swaps: usize = env::var(SWAPS).unwrap().parse().unwrap();
    let pause = Duration::from_millis(env::var(PAUSE).unwrap().parse().unwrap());
    let store = SqliteStore::open(path).unwrap();
    let mut version = store.version().unwrap();
    for number in 1..=swaps {
        match store.swap(version.as_ref(), &document(number)) {
            Ok(SwapOutcome::Swapped(new)) => {
                version = Some(new);
                print(&format!("answered {number}\n"));
                thread::sleep(pause * u32::try_from(number).unwrap());
            }
            Ok(SwapOutcome::Stale) => panic!("stale"),
            Err(StoreError::Unavailable(why)) => print(&format!("unavailable {number}: {why}\n")),
            Err(StoreError::UnknownOutcome(why)) => print(&format!("unknown {number}: {why}\n")),
        }
    }
    match store.version() {
        Ok(found) => print(&format!("current {}\n", found == version)),
        Err(error) => print(&format!("silent: {error}\n")),
    }
    if env::var(END).unwrap() == "kill" {
        kill_process(getpid(), Signal::KILL).unwrap();
    }
    drop(store);
    true
}

/// In one system call, which the log of strace has in its place among the others.
fn print(line: &str) {
    std::io::stdout().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

/// A document of several pages, of another length each time.
fn document(number: usize) -> String {
    format!("{number}:").repeat(900 + 1500 * (number % 4))
}

/// The number of a document.
fn number(document: &str) -> usize {
    let number = document.split(':').next().unwrap().parse().unwrap();
    assert_eq!(document, self::document(number), "a mixed document");
    number
}

struct Child {
    directory: tempfile::TempDir,
    log: PathBuf,
}

impl Child {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let log = directory.path().join("calls");
        Self { directory, log }
    }

    fn data(&self) -> PathBuf {
        // strace prints what the kernel knows the files by.
        fs::canonicalize(self.directory.path().join("data")).unwrap()
    }

    fn store(&self) -> PathBuf {
        self.data().join("tokens.db")
    }

    fn run(&self, swaps: usize, end: &str, strace: &[&str]) -> Output {
        self.run_slowly(swaps, 0, end, strace)
    }

    /// Runs it with pauses between its swaps, of which the first has so many milliseconds.
    fn run_slowly(&self, swaps: usize, pause: u32, end: &str, strace: &[&str]) -> Output {
        Command::new(path(STRACE))
            .args(["-f", "-qq", "-y", "-xx", "-s", "10000000", "-o"])
            .arg(&self.log)
            .args(strace)
            .arg(env::current_exe().unwrap())
            .env(CHILD, self.store())
            .env(SWAPS, swaps.to_string())
            .env(PAUSE, pause.to_string())
            .env(END, end)
            .output()
            .unwrap()
    }

    /// The number of the stored document after the end of the child.
    fn stored(&self) -> usize {
        let store = SqliteStore::open(self.store()).unwrap();
        number(&store.load().unwrap().unwrap().document)
    }
}

/// A change of the disk, or an answer.
#[derive(Debug, Clone)]
enum Call {
    Create(PathBuf),
    Write {
        path: PathBuf,
        offset: usize,
        bytes: Vec<u8>,
    },
    /// A write of a file that was opened to be read and written from its beginning.
    Truncate {
        path: PathBuf,
        length: usize,
    },
    Sync(PathBuf),
    Link {
        from: PathBuf,
        to: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink(PathBuf),
    Answered(usize),
}

/// The bytes of a text of strace: `\x..` for each.
fn unhex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|digits| u8::from_str_radix(&digits[..2], 16).unwrap()).collect()
}

/// As strace prints these bytes.
fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |text, byte| format!("{text}\\x{byte:02x}"))
}

fn as_path(text: &str) -> PathBuf {
    String::from_utf8(unhex(text)).unwrap().into()
}

/// Parses the log of strace. A write counts from its beginning, a sync from its end.
fn parse(log: &str, data: &Path) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: BTreeMap<String, String> = BTreeMap::new();
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap();
        let rest = rest.trim_start();
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            if begin.starts_with("fsync") || begin.starts_with("fdatasync") || begin.starts_with("openat") {
                unfinished.insert(thread.to_owned(), begin.to_owned());
            } else {
                calls.extend(parse_call(begin, data));
            }
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(begin) = unfinished.remove(thread) {
                let (_, end) = resumed.split_once(" resumed>").unwrap();
                calls.extend(parse_call(&(begin + end), data));
            }
        } else if !rest.contains(" = -1 ") {
            calls.extend(parse_call(rest, data));
        }
    }
    calls
}

fn parse_call(call: &str, data: &Path) -> Option<Call> {
    let (name, arguments) = call.split_once('(')?;
    // The path of a file descriptor, and the texts in quotes.
    let described = || as_path(arguments.split_once('<').unwrap().1.split_once('>').unwrap().0);
    let quoted = |index: usize| as_path(arguments.split('"').nth(2 * index + 1).unwrap());
    let last = || arguments.split(')').next().unwrap().rsplit(", ").next().unwrap().parse::<usize>().unwrap();
    let parsed = match name {
        "write" => {
            let text = String::from_utf8(unhex(arguments.split('"').nth(1)?)).ok()?;
            return Some(Call::Answered(text.strip_prefix("answered ")?.trim_end().parse().unwrap()));
        }
        "pwrite64" => {
            let bytes = unhex(arguments.split('"').nth(1)?);
            Call::Write { path: described(), offset: last(), bytes }
        }
        "ftruncate" => Call::Truncate { path: described(), length: last() },
        "fsync" | "fdatasync" => Call::Sync(described()),
        "openat" if arguments.contains("O_CREAT") => {
            Call::Create(as_path(call.rsplit_once('<').unwrap().1.split_once('>').unwrap().0))
        }
        "link" | "linkat" => Call::Link { from: quoted(0), to: quoted(1) },
        "rename" | "renameat" | "renameat2" => Call::Rename { from: quoted(0), to: quoted(1) },
        "unlink" | "unlinkat" => Call::Unlink(quoted(0)),
        _ => return None,
    };
    let changed = match &parsed {
        Call::Create(path)
        | Call::Sync(path)
        | Call::Unlink(path)
        | Call::Write { path, .. }
        | Call::Truncate { path, .. } => path,
        Call::Link { to, .. } | Call::Rename { to, .. } => to,
        Call::Answered(_) => data,
    };
    // The index of the log is memory that is shared; after a power cut it is made from the log.
    (changed.starts_with(data) && !changed.to_string_lossy().ends_with("-shm")).then_some(parsed)
}

/// A change of one file that is not synced.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, bytes) => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*offset..end].copy_from_slice(bytes);
        }
        Change::Truncate(length) => content.resize(*length, 0),
    }
}

#[derive(Debug, Default)]
struct Inode {
    synced: Vec<u8>,
    pending: Vec<Change>,
}

/// A disk that loses what was not synced: content of files, and names in the directory.
#[derive(Debug, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
}

/// What a crash leaves.
#[derive(Debug, Clone, Copy)]
enum Crash {
    /// Only what was synced.
    Synced,
    /// Everything, as after the death of the process.
    Everything,
    /// Everything, with half of the last write.
    Torn,
    /// The unsynced writes of the database, and none of its log.
    DatabaseFirst,
    /// The unsynced writes of the log, and none of the database.
    LogFirst,
    /// The first unsynced write of each file is lost, and the later ones are kept.
    FirstLost,
    /// Only the names that were synced, with all content.
    OldNames,
}

const CRASHES: [Crash; 7] = [
    Crash::Synced,
    Crash::Everything,
    Crash::Torn,
    Crash::DatabaseFirst,
    Crash::LogFirst,
    Crash::FirstLost,
    Crash::OldNames,
];

impl Disk {
    fn apply(&mut self, call: &Call, data: &Path) {
        match call {
            Call::Create(path) => {
                if !self.names.contains_key(path) {
                    self.names.insert(path.clone(), self.inodes.len());
                    self.inodes.push(Inode::default());
                }
            }
            Call::Write { path, offset, bytes } => {
                self.inode(path).pending.push(Change::Write(*offset, bytes.clone()));
            }
            Call::Truncate { path, length } => self.inode(path).pending.push(Change::Truncate(*length)),
            Call::Sync(path) if path == data => self.synced_names = self.names.clone(),
            Call::Sync(path) => {
                let inode = self.inode(path);
                for change in std::mem::take(&mut inode.pending) {
                    apply(&mut inode.synced, &change);
                }
            }
            Call::Link { from, to } => {
                let inode = self.names[from];
                self.names.insert(to.clone(), inode);
            }
            Call::Rename { from, to } => {
                let inode = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), inode);
            }
            Call::Unlink(path) => {
                self.names.remove(path);
            }
            Call::Answered(_) => {}
        }
    }

    fn inode(&mut self, path: &Path) -> &mut Inode {
        let number = self.names.get(path).unwrap_or_else(|| panic!("{} is unknown", path.display()));
        &mut self.inodes[*number]
    }

    /// The files after a crash, by their names.
    fn after(&self, crash: Crash) -> BTreeMap<String, Vec<u8>> {
        let names = match crash {
            Crash::Synced | Crash::OldNames => &self.synced_names,
            _ => &self.names,
        };
        names
            .iter()
            .map(|(path, inode)| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let Inode { synced, pending } = &self.inodes[*inode];
                let is_log = name.ends_with("-wal");
                let mut kept: Vec<Change> = match crash {
                    Crash::Synced => Vec::new(),
                    Crash::DatabaseFirst if is_log => Vec::new(),
                    Crash::LogFirst if !is_log => Vec::new(),
                    Crash::FirstLost => pending.iter().skip(1).cloned().collect(),
                    _ => pending.clone(),
                };
                if let (Crash::Torn, Some(Change::Write(_, bytes))) = (crash, kept.last_mut()) {
                    bytes.truncate(bytes.len() / 2);
                }
                let mut content = synced.clone();
                for change in &kept {
                    apply(&mut content, change);
                }
                (name, content)
            })
            .collect()
    }
}

/// Opens what a crash left, and returns the number of its document; 0 if there is none.
fn recovered(files: &BTreeMap<String, Vec<u8>>, directory: &Path) -> usize {
    let _ = fs::remove_dir_all(directory);
    fs::create_dir(directory).unwrap();
    for (name, content) in files {
        fs::write(directory.join(name), content).unwrap();
    }
    let store = SqliteStore::open(directory.join("tokens.db")).unwrap_or_else(|error| panic!("{error}"));
    let found = store.load().unwrap().map_or(0, |entry| number(&entry.document));
    // The next change is possible, whatever was left.
    assert!(matches!(
        store.swap(store.version().unwrap().as_ref(), "next").unwrap(),
        SwapOutcome::Swapped(_)
    ));
    found
}

/// How often the log begins again without being emptied.
fn restarts(calls: &[Call], log: &Path) -> usize {
    let (mut restarts, mut end) = (0, 0);
    for call in calls {
        match call {
            Call::Write { path, offset, .. } if path == log => {
                restarts += usize::from(*offset == 0 && end > 0);
                end = if *offset == 0 { 1 } else { end.max(*offset) };
            }
            Call::Truncate { path, .. } | Call::Unlink(path) | Call::Create(path) if path == log => end = 0,
            _ => {}
        }
    }
    restarts
}

pub(crate) fn every_crash_point_leaves_the_answered_state() {
    let child = Child::new();
    // The second run begins with the files of a killed process. Its log is copied in the pauses,
    // and the next swap overwrites it.
    let runs = [("kill", 5, 0), ("close", 6, 150)];
    let mut calls = Vec::new();
    let mut answered_before = 0;
    for (end, swaps, pause) in runs {
        let output = child.run_slowly(swaps, pause, end, &["-e", &format!("trace={CALLS}")]);
        let killed = output.status.signal() == Some(9);
        assert!(output.status.success() || killed, "{output:?}");
        let log = fs::read_to_string(&child.log).unwrap();
        calls.extend(parse(&log, &child.data()));
        answered_before = swaps;
    }
    let writes = calls.iter().filter(|call| matches!(call, Call::Write { .. })).count();
    assert!(writes > 60 && answered_before == 6, "{writes} writes");
    let restarts = restarts(&calls, &child.data().join("tokens.db-wal"));
    assert!(restarts > 0, "no swap overwrites the log");

    let directory = child.directory.path().join("after");
    let mut disk = Disk::default();
    let (mut answered, mut runs_answered, mut points, mut opened) = (0, 0, 0, 0);
    let mut seen = BTreeSet::new();
    for (position, call) in iter::once(None).chain(calls.iter().map(Some)).enumerate() {
        if let Some(call) = call {
            disk.apply(call, &child.data());
            if let Call::Answered(number) = call {
                // The numbers of the second run begin at 1 again.
                runs_answered += usize::from(*number == 1);
                answered = *number;
            }
        }
        points += 1;
        let allowed = if answered == 5 && runs_answered == 1 { [5, 1] } else { [answered, answered + 1] };
        for crash in CRASHES {
            let files = disk.after(crash);
            // Equal files were opened for an equal answer.
            if seen.insert((files.clone(), allowed)) {
                opened += 1;
                let found = recovered(&files, &directory);
                assert!(
                    allowed.contains(&found),
                    "after call {position} ({call:?}), {crash:?}: document {found}, answered {answered}"
                );
            }
        }
    }
    println!(
        "{points} crash points of {} kinds, {opened} different states of the disk, {writes} writes",
        CRASHES.len()
    );
}

/// The number of the first sync of the main thread after this answer. strace counts the calls of
/// each thread.
fn sync_after(child: &Child, answered: usize) -> usize {
    let output = child.run(answered + 1, "close", &["-e", "trace=fsync,write"]);
    assert!(output.status.success(), "{output:?}");
    let log = fs::read_to_string(&child.log).unwrap();
    let main = log.split(' ').next().unwrap();
    let answer = hex(&format!("answered {answered}\n"));
    let before = log.lines().filter(|line| line.starts_with(main)).take_while(|line| !line.contains(&answer));
    before.filter(|line| line.contains("fsync(")).count() + 1
}

pub(crate) fn failed_sync_has_one_outcome() {
    // The second swap opens the database, and the third has the first sync of a commit.
    let first = sync_after(&Child::new(), 2);
    for end in ["kill", "close"] {
        // The disk fails once: the change is certainly not made, and the next one is.
        for fault in ["EIO", "ENOSPC"] {
            let child = Child::new();
            let inject = format!("inject=fsync:error={fault}:when={first}");
            let output = child.run(3, end, &["-e", "trace=fsync", "-e", &inject]);
            let printed = String::from_utf8(output.stdout).unwrap();
            assert!(printed.starts_with("answered 1\nanswered 2\nunavailable 3: "), "{printed}");
            assert!(printed.contains("the disk or the file system failed (a sync"), "{printed}");
            assert!(printed.ends_with("current true\n"), "{printed}");
            assert_eq!(child.stored(), 2, "{fault}, {end}");
        }
        // The disk goes on failing: no call answers, and the change is not made later.
        let child = Child::new();
        let inject = format!("inject=fsync:error=EIO:when={first}+");
        let output = child.run(3, end, &["-e", "trace=fsync", "-e", &inject]);
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(printed.starts_with("answered 1\nanswered 2\nunknown 3: "), "{printed}");
        assert!(
            printed.contains("silent: ") && printed.contains("nothing else is done before that"),
            "{printed}"
        );
        assert_eq!(child.stored(), 2, "{end}");
    }
}

/// A small file system in memory, which is unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(path: PathBuf, kilobytes: usize) -> Self {
        fs::create_dir(&path).unwrap();
        let mount = Self(path);
        mount.run(&["-t", "tmpfs", "-o", &format!("size={kilobytes}k,mode=700"), "tmpfs"]);
        mount
    }

    fn run(&self, args: &[&str]) {
        assert!(Command::new(path(MOUNT)).args(args).arg(&self.0).status().unwrap().success());
    }

    /// Fills it to the last byte.
    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub(crate) fn server_starts_on_full_disk() {
    let env = TestEnv::new();
    let mount = Mount::new(env.data_dir(), 1024);
    let server = env.serve(&[]);
    let token = server.create();
    server.stop();
    mount.fill();
    let server = env.serve(&["--max-staleness", "1"]);
    assert!(server.accepts(&token));
    let response = post(REGENERATE).bearer(&token).send(server.address);
    assert_eq!(response.status, 503, "{response:?}");
    assert!(response.body.contains("nothing was changed"), "{response:?}");
    server.wait_for_log("the disk is full");
    assert!(server.accepts(&token));
    mount.free();
    // The server notices that by itself.
    eventually("a change is possible", || create_named(&token, "ci").send(server.address).status == 201);
    server.stop();
}

pub(crate) fn server_starts_on_read_only_disk() {
    let env = TestEnv::new();
    let mount = Mount::new(env.data_dir(), 1024);
    let server = env.serve(&[]);
    let token = server.create();
    server.stop();
    mount.run(&["-o", "remount,ro"]);
    let server = env.serve(&["--max-staleness", "1"]);
    assert!(server.accepts(&token));
    assert_eq!(post(REGENERATE).bearer(&token).send(server.address).status, 503);
    server.wait_for_log("is read-only");
    mount.run(&["-o", "remount,rw"]);
    eventually("a change is possible", || post(REGENERATE).bearer(&token).send(server.address).status == 201);
    assert_eq!(get("/health").bearer(&token).send(server.address).status, 401);
}
