//! Clients that send exactly the bytes they are given.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::SOON;

/// A response as it came over the wire, its body without framing.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// A header's values, joined as they may be (RFC 9110 §5.3).
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error word of an answer that the gateway itself made.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.header("content-type").as_deref(), Some("application/json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{self:?}");
        json["error"].as_str().unwrap().to_owned()
    }
}

/// The values of a header in a head, joined.
pub(super) fn header(head: &str, name: &str) -> Option<String> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let values: Vec<_> = fields
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// Reads up to and including the empty line; nothing at a clean end.
pub(super) fn read_head(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    loop {
        let start = head.len();
        if from.read_until(b'\n', &mut head)? == 0 {
            return match head.len() {
                0 => Ok(None),
                _ => Err(io::Error::new(ErrorKind::UnexpectedEof, "the head broke off")),
            };
        }
        if matches!(&head[start..], b"\r\n" | b"\n") && start > 0 {
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
    }
}

/// One chunk of a chunked body; nothing for the last.
pub(super) fn read_chunk(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let broken = |what: &str| io::Error::new(ErrorKind::UnexpectedEof, what.to_owned());
    let size = line.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(size, 16).map_err(|_| broken("the chunks broke off"))?;
    let mut chunk = vec![0; size + 2];
    if size == 0 {
        // Trailers, then an empty line.
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Err(broken("the trailers broke off"));
            }
            if line.trim().is_empty() {
                return Ok(None);
            }
        }
    }
    from.read_exact(&mut chunk)?;
    chunk.truncate(size);
    Ok(Some(chunk))
}

/// A client connection.
pub(crate) struct Client {
    pub(crate) from: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(Self { from: BufReader::new(stream) })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.from.get_ref()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.from.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Ends the client's half of the connection.
    pub(crate) fn finish(&self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }

    /// The next response head, interim ones included.
    pub(crate) fn head(&mut self) -> io::Result<Response> {
        let head = read_head(&mut self.from)?;
        let head = head.ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, "no response"))?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status: {head}"));
        Ok(Response { status, head, body: Vec::new() })
    }

    /// The next response to a request of this method.
    pub(crate) fn try_response(&mut self, method: &str) -> io::Result<Response> {
        let mut response = self.head()?;
        if method == "HEAD" || matches!(response.status, 100..200 | 204 | 304) {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some() {
            while let Some(chunk) = read_chunk(&mut self.from)? {
                response.body.extend(chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse().unwrap()];
            self.from.read_exact(&mut response.body)?;
        } else {
            self.from.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    pub(crate) fn response(&mut self) -> Response {
        self.try_response("GET").unwrap()
    }

    /// Sends a request of these bytes and reads its response.
    pub(crate) fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Response {
        let bytes = bytes.as_ref();
        self.send(bytes);
        self.try_response(method(bytes)).unwrap()
    }

    /// Reads exactly this many bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.from.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads to the end of the connection. One that is reset has ended, too.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.from.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("no end: {error}"),
            _ => bytes,
        }
    }
}

fn method(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == b' ').unwrap_or(0);
    std::str::from_utf8(&bytes[..end]).unwrap()
}

/// One connection, one request, one response.
pub(crate) fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> io::Result<Response> {
    let mut client = Client::try_connect(address)?;
    // A refusal may come, and the connection end, before everything was sent.
    drop(client.stream().write_all(bytes.as_ref()));
    client.try_response(method(bytes.as_ref()))
}
