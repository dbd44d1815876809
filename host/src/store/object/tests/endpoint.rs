//! An endpoint of the S3 API (and the part of Google's that differs) in this process, which fails
//! as a test wants it to. It has one bucket, whatever its name.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to the next request.
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Carries it out, and answers this status.
    DoneButStatus(u16),
    /// Carries it out, does this, and closes the connection.
    DoneThen(Box<dyn FnOnce() + Send>),
    /// Carries it out, and answers never.
    DoneWithoutAnswer,
    /// Carries it out twice, and answers the second time.
    Twice,
    /// Refuses it, and carries it out a moment later.
    RefusedThenDone,
    /// Answers this status and error code only.
    Status(u16, &'static str),
    /// Does this, and then answers this status.
    ThenStatus(Box<dyn FnOnce() + Send>, u16),
    /// Answers a page that is none of an object store.
    Page(u16),
    /// Closes the connection only.
    Closed,
    /// Answers never.
    Silent,
}

/// How the endpoint treats conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// It checks and writes in one step.
    Atomic,
    /// The same, for tags without quotes only.
    Bare,
    /// It refuses every tag.
    Refused,
    /// It checks, and writes a little later.
    CheckedThenWritten,
    /// It accepts every write.
    Ignored,
}

pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

struct State {
    conditions: Conditions,
    objects: Mutex<HashMap<String, Object>>,
    written: AtomicUsize,
    write_faults: Mutex<VecDeque<Fault>>,
    read_faults: Mutex<VecDeque<Fault>>,
    /// Headers of every answer.
    headers: Mutex<String>,
    /// The heads of all requests.
    heads: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Object {
    tag: String,
    generation: usize,
    bytes: Vec<u8>,
}

#[derive(Clone)]
struct Request {
    head: String,
    method: String,
    path: String,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: String,
    body: Vec<u8>,
}

impl Endpoint {
    pub(crate) fn start(conditions: Conditions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            conditions,
            objects: Mutex::default(),
            written: AtomicUsize::new(0),
            write_faults: Mutex::default(),
            read_faults: Mutex::default(),
            headers: Mutex::default(),
            heads: Mutex::default(),
        });
        let address = listener.local_addr().unwrap();
        let of_threads = Arc::clone(&state);
        // Both threads end with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&of_threads);
                thread::spawn(move || state.serve(&stream));
            }
        });
        Self { address, state }
    }

    pub(crate) fn next_write(&self, fault: Fault) {
        self.state.write_faults.lock().unwrap().push_back(fault);
    }

    pub(crate) fn next_read(&self, fault: Fault) {
        self.state.read_faults.lock().unwrap().push_back(fault);
    }

    /// Drops the faults that are not due yet.
    pub(crate) fn forget_faults(&self) {
        self.state.write_faults.lock().unwrap().clear();
        self.state.read_faults.lock().unwrap().clear();
    }

    /// Adds lines to the head of every answer.
    pub(crate) fn add_headers(&self, lines: &str) {
        self.state.headers.lock().unwrap().push_str(lines);
    }

    /// The heads of the requests so far with this method.
    pub(crate) fn heads(&self, method: &str) -> Vec<String> {
        let heads = self.state.heads.lock().unwrap();
        heads.iter().filter(|head| head.starts_with(method)).cloned().collect()
    }

    /// The objects by their names below the bucket.
    pub(crate) fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let objects = self.state.objects.lock().unwrap();
        objects.iter().map(|(name, object)| (name.clone(), object.bytes.clone())).collect()
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        self.state.write(name, bytes);
    }
}

impl State {
    fn serve(self: &Arc<Self>, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read(&mut reader) {
            self.heads.lock().unwrap().push(request.head.clone());
            let faults = if request.method == "PUT" { &self.write_faults } else { &self.read_faults };
            let fault = if request.method == "DELETE" { None } else { faults.lock().unwrap().pop_front() };
            let answer = match fault {
                None | Some(Fault::None) => self.carry_out(&request),
                Some(Fault::DoneButStatus(status)) => {
                    self.carry_out(&request);
                    error(status, "InternalError")
                }
                Some(Fault::DoneThen(then)) => {
                    self.carry_out(&request);
                    then();
                    return;
                }
                Some(Fault::DoneWithoutAnswer) => {
                    self.carry_out(&request);
                    return silence(&mut reader);
                }
                Some(Fault::Twice) => {
                    self.carry_out(&request);
                    self.carry_out(&request)
                }
                Some(Fault::RefusedThenDone) => {
                    let (state, request) = (Arc::clone(self), request.clone());
                    thread::spawn(move || {
                        thread::sleep(Duration::from_millis(150));
                        state.carry_out(&request);
                    });
                    error(412, "PreconditionFailed")
                }
                Some(Fault::Status(status, code)) => error(status, code),
                Some(Fault::ThenStatus(before, status)) => {
                    before();
                    error(status, "InternalError")
                }
                Some(Fault::Page(status)) => {
                    Answer { status, headers: String::new(), body: b"<h1>Not here</h1>".to_vec() }
                }
                Some(Fault::Closed) => return,
                Some(Fault::Silent) => return silence(&mut reader),
            };
            let head = format!(
                "HTTP/1.1 {} X\r\n{}{}content-length: {}\r\n\r\n",
                answer.status,
                answer.headers,
                self.headers.lock().unwrap(),
                answer.body.len(),
            );
            // A body would be the begin of the next answer.
            let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
            let mut stream = stream;
            if stream.write_all(&[head.as_bytes(), body].concat()).is_err() {
                return;
            }
        }
    }

    fn carry_out(&self, request: &Request) -> Answer {
        match request.method.as_str() {
            "PUT" => self.put(request),
            "GET" | "HEAD" => self.get(request),
            "DELETE" => {
                self.objects.lock().unwrap().remove(&request.path);
                Answer { status: 204, headers: String::new(), body: Vec::new() }
            }
            _ => error(405, "MethodNotAllowed"),
        }
    }

    fn put(&self, request: &Request) -> Answer {
        if self.conditions == Conditions::CheckedThenWritten {
            if !self.holds(request, self.objects.lock().unwrap().get(&request.path)) {
                return error(412, "PreconditionFailed");
            }
            thread::sleep(Duration::from_millis(50));
            return stored(&self.write(&request.path, &request.body));
        }
        let mut objects = self.objects.lock().unwrap();
        if !self.holds(request, objects.get(&request.path)) {
            return error(412, "PreconditionFailed");
        }
        let object = self.object(&request.body);
        objects.insert(request.path.clone(), object.clone());
        stored(&object)
    }

    fn holds(&self, request: &Request, found: Option<&Object>) -> bool {
        if self.conditions == Conditions::Ignored {
            return true;
        }
        if request.header("if-none-match") == Some("*") {
            return found.is_none();
        }
        if let Some(generation) = request.header("x-goog-if-generation-match") {
            return generation == found.map_or(0, |object| object.generation).to_string();
        }
        let Some(tag) = request.header("if-match") else { return true };
        found.is_some_and(|object| match self.conditions {
            Conditions::Bare => tag == object.tag,
            Conditions::Refused => false,
            _ => tag.trim_matches('"') == object.tag,
        })
    }

    fn write(&self, path: &str, bytes: &[u8]) -> Object {
        let object = self.object(bytes);
        self.objects.lock().unwrap().insert(path.to_owned(), object.clone());
        object
    }

    /// As in S3, the tag is a hash of the bytes.
    fn object(&self, bytes: &[u8]) -> Object {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let generation = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        Object { tag: format!("{:016x}", hasher.finish()), generation, bytes: bytes.to_vec() }
    }

    fn get(&self, request: &Request) -> Answer {
        let objects = self.objects.lock().unwrap();
        let Some(object) = objects.get(&request.path) else { return error(404, "NoSuchKey") };
        let mut answer = stored(object);
        let size = object.bytes.len();
        let end = request.header("range").and_then(|range| range.strip_prefix("bytes=0-")?.parse().ok());
        match end {
            None => answer.body.clone_from(&object.bytes),
            Some(_) if size == 0 => return error(416, "InvalidRange"),
            Some(last) => {
                let last = usize::min(last, size - 1);
                answer.status = 206;
                let range = format!("content-range: bytes 0-{last}/{size}\r\n");
                answer.headers.push_str(&range);
                answer.body = object.bytes[..=last].to_vec();
            }
        }
        answer
    }
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let mut words = head.split(' ');
    let method = words.next()?.to_owned();
    let path = words.next()?.split('?').next()?;
    let path = path.strip_prefix('/')?.split_once('/').map_or("", |(_bucket, name)| name).to_owned();
    let mut request = Request { method, path, body: Vec::new(), head };
    let length = request.header("content-length").map_or(Some(0), |length| length.parse().ok())?;
    request.body = vec![0; length];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// Waits until the client has closed the connection.
fn silence(reader: &mut BufReader<&TcpStream>) {
    let _ = reader.read_to_end(&mut Vec::new());
}

fn stored(object: &Object) -> Answer {
    let Object { tag, generation, .. } = object;
    Answer {
        status: 200,
        headers: format!(
            "etag: \"{tag}\"\r\nx-goog-generation: {generation}\r\n\
             last-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        ),
        body: Vec::new(),
    }
}

fn error(status: u16, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>because</Message></Error>");
    Answer { status, headers: String::new(), body: body.into_bytes() }
}
