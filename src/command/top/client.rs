//! Asks a running instance, with a limit on every wait and every answer.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use deskgate::admin::Overview;

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Time for a whole request.
const WHOLE: Duration = Duration::from_secs(10);

/// Largest answer.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Longest message of the instance's that is shown.
const MAX_MESSAGE: usize = 200;

/// Where an instance's admin interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = io::Error;

    fn from_str(text: &str) -> Result<Self, io::Error> {
        let wrong = || io::Error::other("the admin address is HOST:PORT or unix:PATH");
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let authority: http::uri::Authority = address.parse().map_err(|_| wrong())?;
        if authority.port_u16().is_none() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        Ok(Self::Tcp(authority.to_string()))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("the admin token is missing or wrong")]
    Token,
    #[error("answered {0}: {1}")]
    Status(u16, String),
    #[error("the answer broke off, is too large or is not understood")]
    Answer,
}

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// A client of one instance.
pub(super) struct Client {
    address: Address,
    token: Option<HeaderValue>,
}

impl Client {
    pub(super) fn new(address: Address, token: Option<&str>) -> io::Result<Self> {
        let header = |token| HeaderValue::try_from(format!("Bearer {token}"));
        let token = token.map(header).transpose();
        let mut token = token.map_err(|_| io::Error::other("the token cannot be sent"))?;
        token.iter_mut().for_each(|token| token.set_sensitive(true));
        Ok(Self { address, token })
    }

    pub(super) async fn overview(&self) -> Result<Overview, Error> {
        let body = self.ask(Method::GET, "/admin/overview").await?;
        serde_json::from_slice(&body).map_err(|_| Error::Answer)
    }

    pub(super) async fn close(&self, id: u64) -> Result<(), Error> {
        self.ask(Method::DELETE, &format!("/admin/tunnels/{id}")).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, Error> {
        let asked = async {
            match &self.address {
                Address::Tcp(address) => {
                    let stream = connected(TcpStream::connect(address)).await?;
                    self.talk(stream, address, method, path).await
                }
                Address::Unix(file) => {
                    let stream = connected(UnixStream::connect(file)).await?;
                    self.talk(stream, "localhost", method, path).await
                }
            }
        };
        timeout(WHOLE, asked).await.map_err(|_| Error::Timeout)?
    }

    async fn talk<S>(
        &self,
        stream: S,
        host: &str,
        method: Method,
        path: &str,
    ) -> Result<Bytes, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| Error::Answer)?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| Error::Answer)?;
        let answered = async {
            let answer = sender.send_request(request).await.map_err(|_| Error::Answer)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|_| Error::Answer)?.to_bytes()))
        };
        // The connection is driven here, so it ends with the request.
        let connection = async {
            drop(connection.await);
            std::future::pending::<()>().await;
        };
        let (status, body) = tokio::select! {
            biased;
            answered = answered => answered?,
            () = connection => return Err(Error::Answer),
        };
        if status.is_success() {
            return Ok(body);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(Error::Token);
        }
        let refusal = serde_json::from_slice::<Refusal>(&body);
        let message = refusal.map(|refusal| refusal.message).unwrap_or_default();
        Err(Error::Status(status.as_u16(), message.chars().take(MAX_MESSAGE).collect()))
    }
}

async fn connected<S>(connecting: impl Future<Output = io::Result<S>>) -> Result<S, Error> {
    timeout(CONNECT, connecting).await.map_err(|_| Error::Timeout)?.map_err(Error::Connect)
}
