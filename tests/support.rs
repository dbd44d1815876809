//! What the tests stand on: a machine to run `influxdb3` on, a server that tells where it listens, and HTTP/1.1 down to
//! the bytes.
//!
//! Checked here for every test alike: no process ever writes a token to stderr, no server writes one to stdout, no answer that
//! says no holds one, and no answer has a CORS header. Every token that is made in a test is known here, so it is found in
//! other forms, too. Nor does the log of a server have a place where a token was taken out, which would hide that
//! somebody logs tokens, unless a test says that it has put one where it does not belong.
//!
//! With `OPTOKEN_TEST_LOG=trace` in the environment every server logs at that level, unless a test says otherwise.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sha2::{Digest as _, Sha512};
use tempfile::TempDir;

/// How long anything may take that should take milliseconds: machines that run tests are busy. Longer than a server
/// waits for a client.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);

/// How often a condition is looked at that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What all tokens begin with, and no message contains.
const TOKEN_PREFIX: &str = "apiv3_";

/// What stands in a log where a token was taken out.
const REDACTED: &str = "[token]";

pub(crate) const CREATE: &str = "/api/v3/configure/token/admin";
pub(crate) const REGENERATE: &str = "/api/v3/configure/token/admin/regenerate";
pub(crate) const STAGE: &str = "/api/v3/configure/token/admin/regenerate/stage";
pub(crate) const CONFIRM: &str = "/api/v3/configure/token/admin/regenerate/confirm";
pub(crate) const OVERLAP: &str = "/api/v3/configure/token/admin/regenerate/overlap";
pub(crate) const NAMED_ADMIN: &str = "/api/v3/configure/token/named_admin";
pub(crate) const TOKENS: &str = "/api/v3/configure/token";
pub(crate) const VERIFY: &str = "/api/v3/verify";
pub(crate) const RECOVERY: [&str; 2] = ["--admin-token-recovery-http-bind", "127.0.0.1:0"];
pub(crate) const NOT_AUTHENTICATED: &str = r#"{"error": "the request was not authenticated"}"#;

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, condition: impl FnMut() -> bool) {
    within(PATIENCE, what, condition);
}

/// Waits until `condition` holds, but not longer than `limit`.
pub(crate) fn within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// The form that COMPAT 1.4 gives: `^apiv3_[A-Za-z0-9_-]{85}[AQgw]$`.
pub(crate) fn assert_token_form(token: &str) {
    let well_formed = token.strip_prefix(TOKEN_PREFIX).is_some_and(|random| {
        random.len() == 86 && random.chars().all(is_token_char) && random.ends_with(['A', 'Q', 'g', 'w'])
    });
    assert!(well_formed, "not the form of a token: {token:?}");
    remember_tokens(token);
}

/// What would give away a token that was made here: what stands behind its prefix, and the random bytes in the forms in which
/// programs print bytes.
///
/// By how they begin, so that a text is looked through once, however many there are.
static MADE: LazyLock<Mutex<HashMap<[u8; BEGINNING], BTreeSet<String>>>> = LazyLock::new(Mutex::default);

/// How many bytes of what would give a token away are looked for first. None of it is shorter.
const BEGINNING: usize = 8;

/// Remembers the tokens in what a server or a command has answered.
pub(crate) fn remember_tokens(answer: &str) {
    for behind in answer.split(TOKEN_PREFIX).skip(1) {
        let random = behind.split(|next| !is_token_char(next)).next().unwrap();
        // Shorter ones are made up by tests, and 64 bytes have no other length.
        if let Ok(bytes) = Base64UrlUnpadded::decode_vec(random)
            && bytes.len() == 64
        {
            let mut made = BTreeSet::new();
            // As bytes, they come in lists; as numbers, one by one.
            let (list, hex) = (format!("{:?}", &bytes[..8]), format!("{:02x?}", &bytes[..8]));
            made.extend([&list, &hex].map(|list| list.trim_matches(['[', ']']).to_owned()));
            made.insert(hex.replace(['[', ']', ',', ' '], ""));
            made.extend(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()).to_string()));
            made.extend(in_base64(random));
            made.insert(random.to_owned());
            let mut known = MADE.lock().unwrap();
            for form in made {
                // But for a number that has very few digits by chance.
                if let Some(beginning) = form.as_bytes().first_chunk() {
                    known.entry(*beginning).or_default().insert(form);
                }
            }
        }
    }
}

/// How a text stands in the base64 of a longer one, as in Basic credentials: in either alphabet, and wherever it begins.
fn in_base64(text: &str) -> impl Iterator<Item = String> {
    (0..3).flat_map(move |before| {
        let longer = ["x".repeat(before).as_bytes(), text.as_bytes()].concat();
        let (standard, url) =
            (Base64Unpadded::encode_string(&longer), Base64UrlUnpadded::encode_string(&longer));
        // Six bits a character; those at the ends also hold bits of what stands around it.
        let whole = (before * 8).div_ceil(6)..longer.len() * 8 / 6;
        [&standard, &url].map(|encoded| encoded[whole.clone()].to_owned())
    })
}

/// Whether a text holds a token, or the beginning of one, or one that was made here, whatever it looks like.
pub(crate) fn holds_token(text: &str) -> bool {
    text.split(TOKEN_PREFIX).skip(1).any(|behind| behind.starts_with(is_token_char))
        || holds_known_token(text)
}

/// Whether a text holds a token that was made here, with or without its prefix.
fn holds_known_token(text: &str) -> bool {
    let made = MADE.lock().unwrap();
    text.as_bytes().windows(BEGINNING).enumerate().any(|(at, beginning)| {
        let known = beginning.try_into().ok().and_then(|beginning: [u8; BEGINNING]| made.get(&beginning));
        known.is_some_and(|known| known.iter().any(|form| text.as_bytes()[at..].starts_with(form.as_bytes())))
    })
}

fn is_token_char(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_' || character == '-'
}

pub(crate) fn sha512_hex(text: &str) -> String {
    Sha512::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// A machine without past: an empty home directory, and no environment but what a test adds.
pub(crate) struct Machine {
    home: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where [`serve`](Self::serve) keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.home().join("data")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data_dir().join("tokens.db")
    }

    /// The version and the document of the stored catalog: what must not differ where nothing was changed.
    pub(crate) fn stored(&self) -> Option<(String, String)> {
        let store = rusqlite::Connection::open(self.store()).unwrap();
        store.busy_timeout(PATIENCE).unwrap();
        let mut query = store.prepare("SELECT version, document FROM catalog").unwrap();
        let mut rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.next().transpose().unwrap()
    }

    /// A file with this content in the home directory.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `influxdb3` with these arguments.
    pub(crate) fn influxdb3<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Cli {
        let mut command = Command::new(env!("CARGO_BIN_EXE_influxdb3"));
        command.env_clear().env("HOME", self.home()).current_dir(self.home()).args(args);
        log_as_told(&mut command);
        Cli { command, input: Vec::new(), stdout: Stdio::piped(), passed: None }
    }

    /// `influxdb3 serve` in the data directory, on a port that the system picks; not started yet.
    pub(crate) fn serve_with(&self, args: &[&str]) -> Cli {
        let cli = self.influxdb3(["serve", "--http-bind", "127.0.0.1:0"]);
        cli.arg("--data-dir").arg(self.data_dir()).args(args)
    }

    /// A running server.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        self.serve_with(args).start()
    }

    /// `influxdb3 create token --admin` against the server at `address`.
    pub(crate) fn create_token(&self, address: SocketAddr, args: &[&str]) -> Cli {
        let host = format!("http://{address}");
        self.influxdb3(["create", "token", "--admin", "--host", host.as_str()]).args(args)
    }
}

/// Lets a server log at the level that `OPTOKEN_TEST_LOG` says.
pub(crate) fn log_as_told(command: &mut Command) {
    if let Some(level) = env::var_os("OPTOKEN_TEST_LOG") {
        command.env("LOG_FILTER", level);
    }
}

/// A command line.
pub(crate) struct Cli {
    command: Command,
    input: Vec<u8>,
    stdout: Stdio,
    passed: Option<[OwnedFd; 2]>,
}

impl Cli {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Lets it run in this directory instead of the home directory.
    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// What is typed into it. Without this, its stdin is at its end.
    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = text.as_bytes().to_vec();
        self
    }

    /// Lets its stdout go there instead of into [`Ran`].
    pub(crate) fn stdout(mut self, to: File) -> Self {
        self.stdout = to.into();
        self
    }

    /// Lets another program run it, which takes its command line behind these arguments.
    pub(crate) fn under(mut self, program: &str, args: &[&str]) -> Self {
        let mut outer = Command::new(program);
        outer.args(args).arg(self.command.get_program()).args(self.command.get_args());
        outer.env_clear().envs(self.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        // Where it is found itself.
        outer.env("PATH", env::var_os("PATH").unwrap_or_default());
        outer.current_dir(self.command.get_current_dir().unwrap());
        self.command = outer;
        self
    }

    /// Passes it the first `count` of these sockets, as systemd does that has bound them for it.
    pub(crate) fn pass(mut self, count: usize, sockets: [OwnedFd; 2]) -> Self {
        // A shell, because only what `exec` starts has the process id that LISTEN_PID must name.
        self = self.in_shell(r#"export LISTEN_PID=$$; exec "$0" "$@" 3<&0 4<&1 </dev/null >/dev/null"#);
        self.command.env("LISTEN_FDS", count.to_string());
        self.passed = Some(sockets);
        self
    }

    /// Lets a shell do this first, in the same process.
    pub(crate) fn after(self, command: &str) -> Self {
        self.in_shell(&format!(r#"{command} && exec "$0" "$@""#))
    }

    /// Lets a shell run it with this script, which finds it in `"$0" "$@"`.
    pub(crate) fn in_shell(self, script: &str) -> Self {
        self.under("/bin/sh", &["-c", script])
    }

    fn spawn(&mut self, stdin: Stdio, stdout: Stdio) -> Child {
        match self.passed.take() {
            Some([first, second]) => self.command.stdin(first).stdout(second),
            None => self.command.stdin(stdin).stdout(stdout),
        };
        self.command.stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs it to its end. Whatever it has to say on stderr, a token is not in it.
    pub(crate) fn run(mut self) -> Ran {
        let stdout = std::mem::replace(&mut self.stdout, Stdio::null());
        let mut child = self.spawn(Stdio::piped(), stdout);
        if let Some(mut stdin) = child.stdin.take() {
            // It need not want to read it.
            let _ = stdin.write_all(&self.input);
        }
        let stdout = child.stdout.take().map(read_all);
        let stderr = read_all(child.stderr.take().unwrap());
        let status = wait(&mut child);
        let ran = Ran {
            command: format!("{:?}", self.command),
            code: status.and_then(|status| status.code()),
            stdout: stdout.map(|reader| reader.join().unwrap()).unwrap_or_default(),
            stderr: stderr.join().unwrap(),
        };
        assert!(status.is_some(), "it does not end: {ran:?}");
        remember_tokens(&ran.stdout);
        assert!(!holds_token(&ran.stderr), "a token on stderr: {ran:?}");
        ran
    }

    /// Starts it and does not wait for its end.
    #[allow(dead_code, reason = "for tests/fault_injection.rs")]
    pub(crate) fn begin(mut self) -> Child {
        self.spawn(Stdio::null(), Stdio::piped())
    }

    /// Starts it as a server.
    pub(crate) fn start(self) -> Server {
        self.start_and_read_until(None)
    }

    /// Starts it as a server and closes the other end of its stderr behind the line that holds `last`.
    pub(crate) fn start_and_read_until(mut self, last: Option<&'static str>) -> Server {
        let mut child = self.spawn(Stdio::null(), Stdio::piped());
        let log = Log::of(child.stderr.take().unwrap(), last);
        let stdout = child.stdout.take().map(read_all);
        let (address, redacts) = (SocketAddr::from(([0; 4], 0)), Cell::new(false));
        let mut server = Server { child, log, stdout, redacts, address };
        server.address = server.log.address("listening on ");
        server
    }
}

pub(crate) fn read_all(mut from: impl io::Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}

/// Waits for a process that should end by itself; ends it and gives `None` if it does not.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(LOOK_AGAIN);
    }
    child.kill().unwrap();
    None
}

/// What a command line has done.
#[derive(Debug)]
pub(crate) struct Ran {
    /// For the message of a test that fails.
    #[expect(dead_code, reason = "shown by Debug")]
    command: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The token in the text form, found as the official client's own tests find it (COMPAT 4.1).
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let token = self.stdout.lines().find_map(|line| line.strip_prefix("Token: ")).unwrap();
        assert_token_form(token);
        token.to_owned()
    }

    /// It failed, this way, saying all this, each thing once, and writing nothing to stdout.
    #[track_caller]
    pub(crate) fn assert_failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        for text in said {
            assert!(self.stderr.contains(text), "{text:?} is not in {}", self.stderr);
        }
        // As when an error repeats its source and is shown with its sources.
        let parts: Vec<_> = self.stderr.lines().flat_map(|line| line.split(": ")).collect();
        assert!(parts.windows(2).all(|pair| pair[0] != pair[1]), "said twice: {}", self.stderr);
    }
}

/// A running server; ended, and what it has written looked through for tokens, when dropped.
pub(crate) struct Server {
    child: Child,
    log: Log,
    stdout: Option<JoinHandle<String>>,
    redacts: Cell<bool>,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Where its recovery listener is.
    pub(crate) fn recovery(&self) -> SocketAddr {
        self.log.address("token recovery is open on ")
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        self.log.wait_for(text);
    }

    /// It gets a token, or what looks like one, where none belongs and where it is logged; it may take that out of its log.
    pub(crate) fn gets_misplaced_token(&self) {
        self.redacts.set(true);
    }

    /// Makes the operator token.
    pub(crate) fn create(&self) -> String {
        post(CREATE).send(self.address).token()
    }

    /// Replaces the operator token.
    pub(crate) fn regenerate(&self, token: &str) -> String {
        post(REGENERATE).bearer(token).send(self.address).token()
    }

    /// Whether it accepts this token.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        let answer = get("/health").bearer(token).send(self.address);
        match answer.status {
            200 => true,
            401 => false,
            _ => panic!("{answer:?}"),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Ends it without a warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The code it ended with, once it has.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let status = wait(&mut self.child);
        status.unwrap_or_else(|| panic!("it does not end: {}", self.log())).code()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.exit_code(), Some(0), "{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            self.log.wait_for_end();
            let log = self.log();
            assert!(!holds_token(&log), "a token in the log: {log}");
            assert!(self.redacts.get() || !log.contains(REDACTED), "a token was taken out of the log: {log}");
            let stdout = self.stdout.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
            assert!(!holds_token(&stdout), "a token on stdout: {stdout}");
        }
    }
}

/// What a server writes to stderr, collected while it runs.
struct Log {
    shared: Arc<(Mutex<Written>, Condvar)>,
}

#[derive(Default)]
struct Written {
    text: String,
    ended: bool,
}

impl Log {
    /// Reads until the end, or until a line that holds `last`.
    fn of(stderr: ChildStderr, last: Option<&'static str>) -> Self {
        let shared = Arc::<(Mutex<Written>, Condvar)>::default();
        let log = Self { shared: Arc::clone(&shared) };
        thread::spawn(move || {
            let (written, changed) = &*shared;
            let mut stderr = Some(BufReader::new(stderr));
            while let Some(reader) = &mut stderr {
                let mut line = String::new();
                let read = reader.read_line(&mut line).unwrap();
                if read == 0 || last.is_some_and(|last| line.contains(last)) {
                    // Closed before anybody can see that line.
                    stderr = None;
                }
                let mut written = written.lock().unwrap();
                written.text += &line;
                written.ended = stderr.is_none();
                changed.notify_all();
            }
        });
        log
    }

    fn text(&self) -> String {
        self.shared.0.lock().unwrap().text.clone()
    }

    fn wait_for(&self, text: &str) -> String {
        let written = self.wait_until(|written| written.ended || written.text.contains(text));
        assert!(written.contains(text), "the log does not say {text:?}: {written}");
        written
    }

    fn wait_for_end(&self) {
        self.wait_until(|written| written.ended);
    }

    fn wait_until(&self, condition: impl Fn(&Written) -> bool) -> String {
        let (written, changed) = &*self.shared;
        let (written, waited) = changed
            .wait_timeout_while(written.lock().unwrap(), PATIENCE, |written| !condition(written))
            .unwrap();
        assert!(!waited.timed_out(), "this is all that the log says: {}", written.text);
        written.text.clone()
    }

    /// The address in the URL that stands behind `text`, in a log of either format.
    fn address(&self, text: &str) -> SocketAddr {
        let written = self.wait_for(text);
        let (_, behind) = written.split_once(text).unwrap();
        let url = behind.split(['"', ' ', '\n']).next().unwrap();
        let (_, address) = url.split_once("://").unwrap();
        address.trim_end_matches(':').parse().unwrap()
    }
}

/// How a server is called whose port is not known yet.
const HOST: &str = "Host: localhost\r\n";

/// A request, down to the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    head: String,
    body: Vec<u8>,
}

pub(crate) fn request(method: &str, path: &str) -> Request {
    Request { head: format!("{method} {path} HTTP/1.1\r\n{HOST}"), body: Vec::new() }
}

pub(crate) fn get(path: &str) -> Request {
    request("GET", path)
}

pub(crate) fn post(path: &str) -> Request {
    request("POST", path)
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        write!(self.head, "{name}: {value}\r\n").unwrap();
        self
    }

    pub(crate) fn authorization(self, value: &str) -> Self {
        self.header("Authorization", value)
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.authorization(&format!("Bearer {token}"))
    }

    /// A body and its length.
    pub(crate) fn body(self, body: &[u8]) -> Self {
        let length = body.len().to_string();
        Self { body: body.to_vec(), ..self.header("Content-Length", &length) }
    }

    /// A body in chunks of this many bytes.
    pub(crate) fn chunked(self, body: &[u8], chunk: usize) -> Self {
        let mut chunks = Vec::new();
        for chunk in body.chunks(chunk) {
            write!(chunks, "{:x}\r\n", chunk.len()).unwrap();
            chunks.extend_from_slice(chunk);
            chunks.extend_from_slice(b"\r\n");
        }
        chunks.extend_from_slice(b"0\r\n\r\n");
        Self { body: chunks, ..self.header("Transfer-Encoding", "chunked") }
    }

    /// A body in one chunk, and a line behind it.
    pub(crate) fn chunked_with_trailer(self, body: &[u8], trailer: &str) -> Self {
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), body].concat();
        let body = [&chunk[..], format!("\r\n0\r\n{trailer}\r\n\r\n").as_bytes()].concat();
        Self { body, ..self.header("Transfer-Encoding", "chunked") }
    }

    /// Its method, and its path without the query string.
    pub(crate) fn target(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        (method, target.split('?').next().unwrap())
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// With the port in the name of the server, which matters to a recovery listener.
    pub(crate) fn to(&self, server: SocketAddr) -> Self {
        let host = format!("Host: localhost:{}\r\n", server.port());
        Self { head: self.head.replacen(HOST, &host, 1), ..self.clone() }
    }

    /// Sends it on a connection of its own.
    #[track_caller]
    pub(crate) fn send(&self, to: SocketAddr) -> Response {
        let mut connection = Connection::open(to).unwrap();
        connection.write(&self.to(to).to_bytes());
        connection.read().unwrap()
    }
}

/// A connection to a server.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes. That the other end may not want them shows when its answer is read.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        match self.stream.get_mut().write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("the server does not read"),
            _ => {}
        }
    }

    /// Says that nothing more will come.
    pub(crate) fn finish_writing(&self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Reads an answer. An error is a connection that the other end has closed; that it keeps silent is a failure
    /// of the test.
    pub(crate) fn read(&mut self) -> io::Result<Response> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if patiently(self.stream.read_line(&mut line))? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let (status_line, fields) = head.split_first().unwrap();
        let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let headers = fields.iter().map(|field| {
            let (name, value) = field.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        let mut response =
            Response { status: status.unwrap(), headers: headers.collect(), body: String::new() };
        if let Some(length) = response.header("content-length") {
            let mut body = vec![0; length.parse().unwrap()];
            patiently(self.stream.read_exact(&mut body))?;
            response.body = String::from_utf8(body).unwrap();
        }
        let cors = |(name, _): &(String, String)| name.starts_with("access-control-");
        assert!(!response.headers.iter().any(cors), "a CORS header: {response:?}");
        if response.status < 400 {
            remember_tokens(&response.body);
        } else {
            assert!(!holds_known_token(&format!("{response:?}")), "a token in a refusal: {response:?}");
        }
        Ok(response)
    }

    /// Reads exactly so many bytes.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        patiently(self.stream.read_exact(&mut bytes)).unwrap();
        bytes
    }
}

/// Passes on what a closed connection gives, and fails on a silent one.
fn patiently<T>(read: io::Result<T>) -> io::Result<T> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            panic!("the server neither answers nor closes")
        }
        read => read,
    }
}

/// An answer. The names of its headers are in lower case.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The new token that it shows.
    #[track_caller]
    pub(crate) fn token(&self) -> String {
        assert_eq!(self.status, 201, "{self:?}");
        let token = self.json()["token"].as_str().unwrap().to_owned();
        assert_token_form(&token);
        token
    }

    /// It says no, this way.
    #[track_caller]
    pub(crate) fn assert_is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body), "{self:?}");
    }
}

/// Sends all requests at one moment: each on its own connection, which is open, and has all of the request but its last
/// byte, before the first last byte leaves.
pub(crate) fn at_once(requests: Vec<(SocketAddr, Request)>) -> Vec<io::Result<Response>> {
    let ready = Arc::new(Barrier::new(requests.len()));
    let begun: Vec<_> = requests
        .into_iter()
        .map(|(to, request)| {
            let mut bytes = request.to(to).to_bytes();
            let last = bytes.pop().unwrap();
            let mut connection = Connection::open(to).unwrap();
            connection.write(&bytes);
            (connection, last)
        })
        .collect();
    let finish = |(mut connection, last): (Connection, u8)| {
        let ready = Arc::clone(&ready);
        thread::spawn(move || {
            ready.wait();
            connection.write(&[last]);
            connection.read()
        })
    };
    // All of them are started before the first is waited for.
    let senders: Vec<_> = begun.into_iter().map(finish).collect();
    senders.into_iter().map(|sender| sender.join().unwrap()).collect()
}
