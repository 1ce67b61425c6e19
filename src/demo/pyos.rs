//! Plays pyos: logs users in, launches their desktop and hands out desktop tokens; assumes that
//! anyone may be any demo user, so it must never face a network.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, HOST, HeaderMap, ORIGIN};
use hyper::{Method, Request, StatusCode, Uri};
use serde_json::{Value, json};

use super::reply::{Reply, cached, collect, json, refusal};
use super::{Mint, RESIDENTS, Resident, launch};

const BODY_LIMIT: usize = 64 * 1024;
/// Logins remembered; the oldest is forgotten first.
const LOGIN_LIMIT: usize = 1024;
const REFRESH_POLICY: &str = "no-cache, private";

/// The logins and what is needed to mint tokens.
pub(super) struct Pyos {
    mint: Arc<dyn Mint>,
    token_life: Duration,
    vnc_port: u16,
    logins: Mutex<VecDeque<(String, Resident)>>,
}

impl Pyos {
    pub(super) fn new(mint: Arc<dyn Mint>, token_life: Duration, vnc_port: u16) -> Self {
        Self { mint, token_life, vnc_port, logins: Mutex::default() }
    }

    fn log_in(&self, resident: Resident) -> String {
        // Each RandomState has its own keys, so two of them make a string nobody else can guess.
        let half = || RandomState::new().hash_one(resident.user);
        let token = format!("demo-{}-{:016x}{:016x}", resident.user, half(), half());
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        if logins.len() >= LOGIN_LIMIT {
            logins.pop_front();
        }
        logins.push_back((token.clone(), resident));
        token
    }

    /// Who the user token in `ABCAuthorization` belongs to.
    fn caller(&self, headers: &HeaderMap) -> Option<Resident> {
        let token = headers.get("abcauthorization")?.to_str().ok()?.strip_prefix("Bearer ")?.trim();
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.iter().find(|(known, _)| known == token).map(|(_, resident)| *resident)
    }

    /// The fields a client needs to keep its desktop open.
    pub(super) fn ticket(&self, resident: Resident) -> Option<Value> {
        let token = self.mint.mint(&resident.address.to_string(), self.token_life)?;
        Some(json!({"authorization": token, "expire_in": self.token_life.as_secs()}))
    }

    /// The fields a client needs to open its desktop.
    pub(super) fn launched(&self, resident: Resident, target_ip: &str) -> Option<Value> {
        let mut result = self.ticket(resident)?;
        let fields = result.as_object_mut()?;
        fields.insert("target_ip".to_owned(), target_ip.into());
        fields.insert("vncpassword".to_owned(), "".into());
        fields.insert("websocketrouting".to_owned(), "http_origin".into());
        fields.insert("websockettcpport".to_owned(), self.vnc_port.into());
        Some(result)
    }
}

/// Routes one call.
pub(super) async fn answer(pyos: Arc<Pyos>, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let body = match collect(body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(fault) => return fault.into(),
    };
    let post = parts.method == Method::POST;
    let named = serde_json::from_slice::<Value>(&body).ok().and_then(|body| user_field(&body));
    match parts.uri.path().trim_end_matches('/') {
        "/API/auth/auth" if post => log_in(&pyos, named.as_deref()),
        "/API/composer/launchdesktop" if post => {
            with_caller(&pyos, &parts.headers, named.as_deref(), |resident| {
                let target_ip = target_ip(&parts.headers);
                if wants_events(&parts.headers) {
                    return launch::events(Arc::clone(&pyos), resident, target_ip);
                }
                minted(pyos.launched(resident, &target_ip))
            })
        }
        "/API/composer/refreshdesktoptoken" if post => {
            with_caller(&pyos, &parts.headers, named.as_deref(), |resident| {
                minted(pyos.ticket(resident))
            })
        }
        "/API/core/getmessageinfo" => {
            json(StatusCode::OK, &json!({"status": 200, "message": "desktop is ready"}))
        }
        "/API/healthz" => {
            json(StatusCode::OK, &json!({"status": 200, "service": "pyos", "message": "ok"}))
        }
        "/API/auth/auth" | "/API/composer/launchdesktop" | "/API/composer/refreshdesktoptoken" => {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "use POST")
        }
        _ => refusal(StatusCode::NOT_FOUND, "no such controller"),
    }
}

fn user_field(body: &Value) -> Option<String> {
    body.get("user")?.as_str().map(str::to_owned)
}

fn log_in(pyos: &Pyos, user: Option<&str>) -> Reply {
    let Some(resident) = RESIDENTS.into_iter().find(|resident| Some(resident.user) == user) else {
        return refusal(StatusCode::UNAUTHORIZED, "the demo knows ada and bob");
    };
    let result = json!({"user": resident.user, "jwt_user_token": pyos.log_in(resident)});
    cached(json(StatusCode::OK, &json!({"status": 200, "result": result})), REFRESH_POLICY)
}

/// Runs `call` for whoever the user token names; a body that names somebody else is refused.
fn with_caller(
    pyos: &Pyos,
    headers: &HeaderMap,
    named: Option<&str>,
    call: impl FnOnce(Resident) -> Reply,
) -> Reply {
    let Some(resident) = pyos.caller(headers) else {
        return refusal(StatusCode::UNAUTHORIZED, "a user token is needed in ABCAuthorization");
    };
    if named.is_some_and(|user| user != resident.user) {
        return refusal(StatusCode::FORBIDDEN, "this user token belongs to somebody else");
    }
    call(resident)
}

fn minted(result: Option<Value>) -> Reply {
    match result {
        Some(result) => {
            cached(json(StatusCode::OK, &json!({"status": 200, "result": result})), REFRESH_POLICY)
        }
        None => refusal(StatusCode::INTERNAL_SERVER_ERROR, "no desktop token could be made"),
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/event-stream"))
}

/// The host the browser is to use: where its page came from, else what it called, without port.
fn target_ip(headers: &HeaderMap) -> String {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text(ORIGIN)
        .and_then(|origin| origin.parse::<Uri>().ok())
        .filter(|uri| uri.scheme().is_some());
    let host = || text(HOST).and_then(|host| host.parse::<http::uri::Authority>().ok());
    origin
        .as_ref()
        .and_then(Uri::host)
        .map(str::to_owned)
        .or_else(|| host().map(|host| host.host().to_owned()))
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{HOST, HeaderMap, ORIGIN, target_ip};
    use hyper::header::{self, HeaderValue};

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn target_is_the_origin_else_the_host() {
        let both = [(ORIGIN, "https://desk.example:8443"), (HOST, "inner:80")];
        assert_eq!(target_ip(&headers(&both)), "desk.example");
        assert_eq!(target_ip(&headers(&[(ORIGIN, "null"), (HOST, "inner:80")])), "inner");
        assert_eq!(target_ip(&headers(&[(HOST, "[::1]:80")])), "[::1]");
        assert_eq!(target_ip(&HeaderMap::new()), "localhost");
    }
}
