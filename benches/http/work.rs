//! The works: what is asked of a proxy, of which candidates, and how many workers do it.

use crate::keys::Mode;
use crate::stand::Candidate;

/// What browsers accept.
pub(crate) const BROWSER: &str = "Accept-Encoding: gzip, deflate, br, zstd";

/// Connections of the ordinary loads.
pub(crate) const FEW: usize = 16;

/// One row of the comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// What `--only` looks at.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) workers: usize,
    pub(crate) candidates: &'static [Candidate],
    pub(crate) load: Load,
}

impl Work {
    /// Whether each measurement wants a process of its own.
    pub(crate) fn fresh(&self) -> bool {
        match self.load {
            Load::Cold { .. }
            | Load::Crowd { .. }
            | Load::Idle { .. }
            | Load::Start
            | Load::Tokens { .. } => true,
            Load::Handshakes { .. } | Load::Requests { .. } | Load::Token | Load::Upload { .. } => {
                false
            }
        }
    }

    /// The keys of the gateway, where there are tokens: as released pyos has them, unless they are the
    /// point.
    pub(crate) fn keys(&self) -> (usize, Mode) {
        match self.load {
            Load::Cold { bits, mode, .. } => (bits, mode),
            // Many are made in reasonable time; what is remembered of them is as large.
            Load::Tokens { .. } => (1024, Mode::B),
            Load::Crowd { .. }
            | Load::Handshakes { .. }
            | Load::Idle { .. }
            | Load::Requests { .. }
            | Load::Start
            | Load::Token
            | Load::Upload { .. } => (2048, Mode::B),
        }
    }

    /// What the report calls it.
    pub(crate) fn title(&self) -> String {
        let s = if self.workers == 1 { "" } else { "s" };
        format!("{}, {} worker{s}", self.title, self.workers)
    }

    /// How often it is measured, of so many rounds: what takes long, less often.
    pub(crate) fn rounds(&self, rounds: usize) -> usize {
        match self.load {
            Load::Upload { .. } | Load::Tokens { .. } => rounds.div_ceil(4),
            Load::Crowd { .. } | Load::Idle { .. } | Load::Start => rounds.div_ceil(2),
            Load::Cold { .. } | Load::Handshakes { .. } | Load::Requests { .. } | Load::Token => {
                rounds
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Requests on kept connections, or a new one for each.
    Requests { path: &'static str, wire: Wire, connections: usize, header: Header },
    /// Connections with TLS, each for one request.
    Handshakes { resumed: bool },
    /// Requests on so many open connections, a few at once.
    Crowd { connections: usize },
    /// Idle connections.
    Idle { tls: bool },
    /// The same request without and with a token seen before: what the token costs.
    Token,
    /// So many tokens, all seen before, in no order.
    Tokens { tokens: usize },
    /// New tokens of keys of this size, sealed this way.
    Cold { bits: usize, mode: Mode, tokens: usize },
    /// A body of so many GiB, streamed.
    Upload { gib: u64 },
    /// A process that has just been started.
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Plain,
    Tls,
    /// HTTP/2 over TLS, so many streams in each connection.
    Http2 {
        streams: usize,
    },
}

/// What a request carries beside the usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Nothing,
    /// A token that was seen before.
    Token,
    /// The wish to end the connection.
    Close,
    /// The wish for a compressed answer.
    Compressed,
}

use Candidate::{Deskgate, Haproxy, Nginx, NginxBuffers, NginxIncumbent};

const ALL: &[Candidate] = &[Deskgate, Nginx, NginxIncumbent, Haproxy];
const BUFFERED: &[Candidate] = &[Deskgate, Nginx, NginxBuffers, NginxIncumbent, Haproxy];
const TUNED: &[Candidate] = &[Deskgate, Nginx, Haproxy];
const FILES: &[Candidate] = &[Deskgate, Nginx];

const fn requests(path: &'static str) -> Load {
    Load::Requests { path, wire: Wire::Plain, connections: FEW, header: Header::Nothing }
}

const fn over(path: &'static str, wire: Wire) -> Load {
    Load::Requests { path, wire, connections: FEW, header: Header::Nothing }
}

const fn with(path: &'static str, header: Header) -> Load {
    Load::Requests { path, wire: Wire::Plain, connections: FEW, header }
}

const fn work(
    name: &'static str,
    title: &'static str,
    workers: usize,
    candidates: &'static [Candidate],
    load: Load,
) -> Work {
    Work { name, title, workers, candidates, load }
}

const fn cold(
    name: &'static str,
    title: &'static str,
    bits: usize,
    mode: Mode,
    tokens: usize,
) -> Work {
    work(name, title, 1, &[Deskgate], Load::Cold { bits, mode, tokens })
}

const fn scale(
    name: &'static str,
    title: &'static str,
    workers: usize,
    connections: usize,
) -> Work {
    work(name, title, workers, TUNED, Load::Crowd { connections })
}

const fn tokens(name: &'static str, title: &'static str, tokens: usize) -> Work {
    work(name, title, 1, &[Deskgate], Load::Tokens { tokens })
}

pub(crate) const WORKS: &[Work] = &[
    work("api-1", "API GET, small, kept connections", 1, ALL, requests("/API/small")),
    work("api-2", "API GET, small, kept connections", 2, ALL, requests("/API/small")),
    work("pod-1", "pod route, token seen before", 1, ALL, with("/filer/small", Header::Token)),
    work("token", "a token seen before", 1, &[Deskgate], Load::Token),
    work("bodies", "64 KiB bodies", 1, BUFFERED, requests("/API/64k")),
    work("connections", "new connection per request", 1, ALL, with("/API/small", Header::Close)),
    work("tls-api", "API GET, small, TLS", 1, ALL, over("/API/small", Wire::Tls)),
    work("tls-full", "full TLS handshake", 1, TUNED, Load::Handshakes { resumed: false }),
    work("tls-resumed", "resumed TLS handshake", 1, TUNED, Load::Handshakes { resumed: true }),
    work(
        "http2",
        "API GET, small, HTTP/2",
        1,
        TUNED,
        over("/API/small", Wire::Http2 { streams: 8 }),
    ),
    work("static-1k", "file of 1 KiB", 1, FILES, requests("/static/1k.js")),
    work("static-20k", "file of 20 KiB", 1, FILES, requests("/static/20k.js")),
    work("static-200k", "file of 200 KiB", 1, FILES, requests("/static/200k.js")),
    work("static-tls-20k", "file of 20 KiB, TLS", 1, FILES, over("/static/20k.js", Wire::Tls)),
    work("static-tls-200k", "file of 200 KiB, TLS", 1, FILES, over("/static/200k.js", Wire::Tls)),
    work(
        "static-compressed",
        "compressible file of 200 KiB",
        1,
        FILES,
        with("/static/200k.js", Header::Compressed),
    ),
    work("idle", "idle connection", 1, TUNED, Load::Idle { tls: false }),
    work("idle-tls", "idle connection, TLS", 1, TUNED, Load::Idle { tls: true }),
    cold("cold-1024-a", "new tokens, 1024 bits, mode A", 1024, Mode::A, 400),
    cold("cold-1024-b", "new tokens, 1024 bits, mode B", 1024, Mode::B, 400),
    cold("cold-2048-a", "new tokens, 2048 bits, mode A", 2048, Mode::A, 300),
    cold("cold-2048-b", "new tokens, 2048 bits, mode B", 2048, Mode::B, 300),
    cold("cold-4096-a", "new tokens, 4096 bits, mode A", 4096, Mode::A, 120),
    cold("cold-4096-b", "new tokens, 4096 bits, mode B", 4096, Mode::B, 120),
    work("upload", "upload of 8 GiB", 1, TUNED, Load::Upload { gib: 8 }),
    work("start", "start", 2, TUNED, Load::Start),
    scale("scale-1x10", "10 connections", 1, 10),
    scale("scale-1x100", "100 connections", 1, 100),
    scale("scale-1x1000", "1000 connections", 1, 1000),
    scale("scale-1x9000", "9000 connections", 1, 9000),
    scale("scale-2x10", "10 connections", 2, 10),
    scale("scale-2x100", "100 connections", 2, 100),
    scale("scale-2x1000", "1000 connections", 2, 1000),
    scale("scale-2x9000", "9000 connections", 2, 9000),
    tokens("tokens-100", "100 tokens", 100),
    tokens("tokens-1000", "1000 tokens", 1000),
    tokens("tokens-10000", "10000 tokens", 10_000),
    tokens("tokens-100000", "100000 tokens", 100_000),
];

/// Numbers of connections, for the plot of them: HAProxy wants two descriptors for each.
pub(crate) const CONNECTIONS: [usize; 4] = [10, 100, 1000, 9000];

/// Numbers of tokens, for the plot of them. deskgate remembers 65,536.
pub(crate) const TOKENS: [usize; 4] = [100, 1000, 10_000, 100_000];

/// The title of a work by its name, for the goals.
pub(crate) fn title(name: &str) -> Option<String> {
    WORKS.iter().find(|work| work.name == name).map(Work::title)
}
