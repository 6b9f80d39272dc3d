//! An OpenTelemetry collector that only listens: it takes OTLP over HTTP on loopback and keeps what it is sent.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What was posted, by path.
#[derive(Debug, Clone, Default)]
pub struct Posted(Arc<Mutex<Vec<Request>>>);

/// A request: its path and its body.
type Request = (String, Vec<u8>);

impl Posted {
    /// Whether a request to `path` holds these bytes. Names of spans, metrics and labels stand in Protobuf as they are.
    pub fn holds(&self, path: &str, text: &str) -> bool {
        let requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = |body: &Vec<u8>| body.windows(text.len()).any(|window| window == text.as_bytes());
        requests.iter().any(|(to, body)| to == path && found(body))
    }
}

/// Listens on a free port until the test process ends; the endpoint, and what it is sent.
///
/// # Panics
/// When no port can be had.
pub fn listen() -> (String, Posted) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("the address of the listener"));
    let posted = Posted::default();
    let kept = posted.clone();
    let _detached = std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let kept = kept.clone();
            let _detached = std::thread::spawn(move || while take(&stream, &kept).is_some() {});
        }
    });
    (endpoint, posted)
}

/// Takes one request and answers it; none when the connection ends.
fn take(mut stream: &TcpStream, kept: &Posted) -> Option<()> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1 << 13];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let whole = end + 4 + length.unwrap_or(0);
            if bytes.len() >= whole {
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                kept.0.lock().unwrap_or_else(PoisonError::into_inner).push((path, bytes[end + 4..whole].to_vec()));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                return stream.write_all(answer).ok();
            }
        }
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
    }
}
