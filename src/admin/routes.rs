//! What each address of the interface does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;
use tracing::info;

use super::answer::{Answer, Problem, faults, json as answer_json, with_type};
use super::listeners::Rules;
use super::model::{Closing, LogLevel, MAX_FAULTS, Revocation, Tunnel};
use super::page::{Page, description};
use super::{Operations, guard};
use crate::telemetry::metrics::CONTENT_TYPE;

/// Largest body of a request.
const MAX_BODY: usize = 64 * 1024;

/// Time for a body to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// Time for an operation.
const OPERATION_LIMIT: Duration = Duration::from_secs(15);

/// What of a body that nobody wants is read, so that the client comes to read the answer.
const MAX_WASTE: usize = 1024 * 1024;

/// Time for that.
const WASTE_LIMIT: Duration = Duration::from_secs(2);

/// Most tunnels in an answer, and how many if nothing else is asked.
const MAX_TUNNELS: usize = 10_000;
const SOME_TUNNELS: usize = 100;

/// Most characters of a query.
const MAX_QUERY: usize = 1024;

/// Everything that answering a request needs.
pub(super) struct Room<O> {
    pub(super) operations: Arc<O>,
    pub(super) page: Arc<Page>,
    pub(super) rules: Rules,
}

impl<O> Clone for Room<O> {
    fn clone(&self) -> Self {
        Self {
            operations: Arc::clone(&self.operations),
            page: Arc::clone(&self.page),
            rules: self.rules.clone(),
        }
    }
}

/// What an address stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Live,
    Ready,
    Metrics,
    Page,
    Description,
    Overview,
    Tunnels,
    Tunnel(u64),
    Revoke,
    Drain,
    Level,
    Config,
    Reload,
}

impl Place {
    fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Live,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/" => Self::Page,
            "/openapi.json" => Self::Description,
            "/admin/overview" => Self::Overview,
            "/admin/tunnels" => Self::Tunnels,
            "/admin/revoke" => Self::Revoke,
            "/admin/drain" => Self::Drain,
            "/admin/loglevel" => Self::Level,
            "/admin/config" => Self::Config,
            "/admin/reload" => Self::Reload,
            _ => {
                let id = path.strip_prefix("/admin/tunnels/")?;
                let digits = id.bytes().all(|byte| byte.is_ascii_digit());
                Self::Tunnel(id.parse().ok().filter(|_| digits)?)
            }
        })
    }

    fn allow(self) -> &'static str {
        match self {
            Self::Live | Self::Ready | Self::Metrics | Self::Page | Self::Description => {
                "GET, HEAD"
            }
            Self::Overview | Self::Tunnels | Self::Config => "GET, HEAD",
            Self::Tunnel(_) => "GET, HEAD, DELETE",
            Self::Revoke | Self::Drain | Self::Reload => "POST",
            Self::Level => "GET, HEAD, PUT",
        }
    }

    /// Whether it is for everybody who reaches the server.
    fn is_open(self) -> bool {
        matches!(self, Self::Live | Self::Ready | Self::Metrics | Self::Page)
    }
}

impl<O: Operations> Room<O> {
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let mut body = Limited::new(body, MAX_WASTE);
        match self.serve(&head, &mut body).await {
            Ok(answer) => answer,
            Err(problem) => {
                waste(body).await;
                problem.answer()
            }
        }
    }

    async fn serve(
        &self,
        head: &http::request::Parts,
        body: &mut Limited<Incoming>,
    ) -> Result<Answer, Problem> {
        let place = Place::find(head.uri.path());
        guard::origin(&self.rules, &head.method, &head.headers, place == Some(Place::Page))?;
        let place = place.ok_or(Problem::NotFound)?;
        let allow = place.allow();
        if !allow.split(", ").any(|method| method == head.method.as_str()) {
            return Err(Problem::Method(allow));
        }
        if !place.is_open() {
            guard::token(&self.rules, &head.headers)?;
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            guard::media_type(&head.headers, !body.is_end_stream())?;
        }
        let query = head.uri.query().unwrap_or_default();
        let body = read(body).await?;
        let done = timeout(OPERATION_LIMIT, self.operate(place, &head.method, query, &body));
        done.await.map_err(|_| Problem::Timeout)?
    }

    async fn operate(
        &self,
        place: Place,
        method: &Method,
        query: &str,
        body: &Bytes,
    ) -> Result<Answer, Problem> {
        let operations = &*self.operations;
        Ok(match place {
            Place::Live if operations.is_alive() => ok(&json!({ "status": "alive" })),
            Place::Live => {
                answer_json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "stuck" }))
            }
            Place::Ready => ready(&operations.missing()),
            Place::Metrics => {
                let media = HeaderValue::from_static(CONTENT_TYPE);
                with_type(StatusCode::OK, media, operations.metrics().into())
            }
            Place::Page => self.page.answer(),
            Place::Description => description(),
            Place::Overview => ok(&operations.overview().bounded()),
            Place::Tunnels => ok(&list(operations.tunnels(), query)?),
            Place::Tunnel(id) if method == Method::DELETE => self.close(id)?,
            Place::Tunnel(id) => ok(&operations.tunnel(id).ok_or(Problem::NotFound)?),
            Place::Revoke => {
                let what: Revocation = parse(body)?;
                if !what.is_valid() {
                    return Err(Problem::BadRequest("This is no fingerprint or label."));
                }
                let closed = operations.revoke(&what);
                info!(?what, closed, "revoked by an operator");
                ok(&json!({ "closed": closed }))
            }
            Place::Drain => {
                info!("draining, asked by an operator");
                operations.drain();
                answer_json(StatusCode::ACCEPTED, &json!({ "draining": true }))
            }
            Place::Level if method == Method::PUT => {
                let Level { level } = parse(body)?;
                operations.set_level(level);
                info!(?level, "log level set by an operator");
                ok(&Level { level })
            }
            Place::Level => ok(&Level { level: operations.level() }),
            Place::Config => ok(&json!({ "settings": operations.config() })),
            Place::Reload => match operations.reload().await {
                Ok(()) => ok(&json!({ "taken": true })),
                Err(mut why) => {
                    why.truncate(MAX_FAULTS);
                    faults(&why)
                }
            },
        })
    }

    fn close(&self, id: u64) -> Result<Answer, Problem> {
        let closed = match self.operations.close(id) {
            Closing::Told => 1,
            Closing::Already => 0,
            Closing::Unknown => return Err(Problem::NotFound),
        };
        info!(id, closed, "tunnel closed by an operator");
        Ok(answer_json(StatusCode::ACCEPTED, &json!({ "closed": closed })))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: LogLevel,
}

#[derive(Serialize)]
struct Tunnels {
    total: usize,
    tunnels: Vec<Tunnel>,
}

fn ok(value: &impl Serialize) -> Answer {
    answer_json(StatusCode::OK, value)
}

fn ready(missing: &[String]) -> Answer {
    if missing.is_empty() {
        return ok(&json!({ "status": "ready" }));
    }
    let body = json!({ "status": "not ready", "missing": missing });
    answer_json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|_| Problem::BadRequest("The body is not what the description asks for."))
}

/// The tunnels that a query asks for.
fn list(mut tunnels: Vec<Tunnel>, query: &str) -> Result<Tunnels, Problem> {
    const WRONG: Problem = Problem::BadRequest("The query is not what the description asks for.");
    if query.len() > MAX_QUERY {
        return Err(WRONG);
    }
    let (mut limit, mut sort) = (SOME_TUNNELS, "id");
    let (mut limits, mut sorts) = (0, 0);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", number)) => {
                let number = Some(number).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
                limit = number.and_then(|text| text.parse().ok()).ok_or(WRONG)?;
                limits += 1;
            }
            Some(("sort", key)) => {
                sort = key;
                sorts += 1;
            }
            _ => return Err(WRONG),
        }
    }
    if limits > 1 || sorts > 1 || !(1..=MAX_TUNNELS).contains(&limit) {
        return Err(WRONG);
    }
    let number = |value: Option<f64>| value.unwrap_or(f64::INFINITY);
    match sort {
        "id" => tunnels.sort_unstable_by_key(|tunnel| tunnel.id),
        "age" => tunnels.sort_by(|a, b| b.age.total_cmp(&a.age)),
        "bytes" => tunnels.sort_by_key(|tunnel| std::cmp::Reverse(tunnel.bytes())),
        "rtt" => {
            let known = |tunnel: &Tunnel| tunnel.rtt.unwrap_or(-1.0);
            tunnels.sort_by(|a, b| known(b).total_cmp(&known(a)));
        }
        "last_input" => {
            tunnels.sort_by(|a, b| number(a.last_input).total_cmp(&number(b.last_input)));
        }
        "route" => tunnels.sort_by(|a, b| a.route.cmp(&b.route)),
        "pod" => tunnels.sort_by(|a, b| a.pod.cmp(&b.pod)),
        _ => return Err(WRONG),
    }
    let total = tunnels.len();
    tunnels.truncate(limit);
    Ok(Tunnels { total, tunnels })
}

async fn read(body: &mut Limited<Incoming>) -> Result<Bytes, Problem> {
    let limited = Limited::new(body, MAX_BODY);
    match timeout(BODY_LIMIT, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::TooLarge),
        Ok(Err(_)) => Err(Problem::BadRequest("The body broke off.")),
        Err(_) => Err(Problem::SlowBody),
    }
}

/// Reads what the client still sends, within limits.
async fn waste(mut body: Limited<Incoming>) {
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    drop(timeout(WASTE_LIMIT, all).await);
}
