//! The public address, with whatever proxies stand before deskgate: D17 to D20.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::World;
use super::ask::{Answer, Failure, Question, ask, without_port};
use super::files::dates;
use super::finding::{
    Code, FRONT, FRONT_CERTIFICATE, FRONT_SCHEME, FRONT_UPGRADE, Finding, Status,
};
use super::trust::{Noting, Seen};
use crate::proxy::clock;
use crate::tls::describe;

/// All that is found here.
pub(super) const CODES: [Code; 4] = [FRONT, FRONT_UPGRADE, FRONT_SCHEME, FRONT_CERTIFICATE];

/// What to do where deskgate is reached and answers otherwise than it should.
const ITS_LOG: &str = "look into its access log: the field `reason` says why";

/// Where a web server may send a browser on to: folders of the web client and of the console.
const FOLDERS: [&str; 4] = ["/js", "/img", "/console", "/"];

/// The public address.
struct Front {
    secure: bool,
    /// With its port, as `Host` is.
    authority: String,
    places: Vec<SocketAddr>,
    tls: Option<Arc<Noting>>,
}

impl Front {
    async fn ask(&self, world: &World, target: &str, upgrade: bool) -> Result<Answer, Failure> {
        let question = Question { host: &self.authority, target, upgrade, tls: self.tls.as_ref() };
        Box::pin(ask(&self.places, &question, world.options.timeout)).await
    }
}

/// Looks through the public address, if there is one.
pub(super) async fn examine(world: Arc<World>) -> Vec<Finding> {
    let Some(url) = &world.options.url else {
        return CODES.map(|code| Finding::skipped(code, "no --url is given")).into();
    };
    let secure = url.scheme_str() == Some("https");
    let authority = url.authority().map(|all| all.as_str()).unwrap_or_default();
    let host = without_port(authority);
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let places = match world.places(host, port).await {
        Ok(places) => places,
        Err(error) => {
            let remedy = "register the name, or ask from where users are";
            let rest = CODES.into_iter().skip(1);
            return std::iter::once(Finding::problem(FRONT, format!("{host}: {error}"), remedy))
                .chain(rest.map(|code| Finding::skipped(code, "see D17")))
                .collect();
        }
    };
    let tls = secure.then(|| Noting::new(world.authorities.clone()));
    let front = Front { secure, authority: authority.to_owned(), places, tls };
    let health = front.ask(&world, "/healthz", false).await;
    let reached = health.is_ok();
    let mut findings = vec![reachable(health)];
    findings.push(certificate(&front));
    if !reached {
        let rest = [FRONT_UPGRADE, FRONT_SCHEME];
        findings.extend(rest.map(|code| Finding::skipped(code, "it does not answer: see D17")));
        return findings;
    }
    let (asked, scheme) =
        tokio::join!(front.ask(&world, "/websockify", true), scheme(&world, &front));
    findings.extend([upgrade(asked), scheme]);
    findings
}

fn reachable(health: Result<Answer, Failure>) -> Finding {
    let answer = match health {
        Ok(answer) => answer,
        Err(failure) => {
            let remedy = "open the port up to the front proxy or the NodePort, and look there; from \
                          within a cluster a public address may not be reachable at all";
            return Finding::problem(FRONT, failure.to_string(), remedy);
        }
    };
    if answer.status == 200 && answer.is_ours() {
        return Finding::ok(FRONT, "a deskgate answers /healthz");
    }
    let server = server(&answer);
    match answer.status {
        301..=308 => {
            let to = answer.header("location").unwrap_or_default();
            let said = format!("/healthz is redirected{server} to {to:.100}");
            Finding::warning(FRONT, said, "examine that address: --url")
        }
        status if is_failure(&answer) => {
            Finding::problem(FRONT, format!("deskgate itself answers /healthz {status}"), ITS_LOG)
        }
        200 => {
            let said = format!("/healthz is answered 200{server}, not as deskgate does");
            let remedy = "send every path to deskgate unchanged, /healthz included, and its headers \
                          back";
            Finding::warning(FRONT, said, remedy)
        }
        502..=504 => {
            let said = format!("/healthz is answered {}{server}", answer.status);
            let remedy = "the front proxy does not reach deskgate: set its upstream to the Service \
                          of the edge (NodePort 30443 speaks plain HTTP)";
            Finding::problem(FRONT, said, remedy)
        }
        status => {
            let said = format!("/healthz is answered {status}{server}");
            let remedy = "something else answers: send every path to deskgate, without a prefix and \
                          without a log-in of its own";
            Finding::problem(FRONT, said, remedy)
        }
    }
}

/// Whether deskgate itself answers, and neither serves nor asks for a token.
fn is_failure(answer: &Answer) -> bool {
    answer.is_ours() && !matches!(answer.status, 200 | 401)
}

fn server(answer: &Answer) -> String {
    let name = answer.header("server").filter(|name| !name.is_empty());
    name.map(|name| format!(" by {name:.40}")).unwrap_or_default()
}

/// A request without a token is refused by deskgate in its own words; that it was an upgrade when it
/// came there, the answer tells by naming the WebSocket version.
fn upgrade(asked: Result<Answer, Failure>) -> Finding {
    let pass = "let the front proxy pass upgrades on: in nginx, proxy_http_version 1.1 and the \
                headers Upgrade $http_upgrade and Connection \"upgrade\"; in HAProxy nothing, but a \
                long `timeout tunnel`; in Apache mod_proxy_wstunnel or upgrade=websocket";
    let answer = match asked {
        Ok(answer) => answer,
        Err(failure) => return Finding::problem(FRONT_UPGRADE, failure.to_string(), pass),
    };
    let told = answer.header("sec-websocket-version").is_some();
    match (answer.status, answer.close) {
        (401, _) if is_refusal(&answer) && told => {
            Finding::ok(FRONT_UPGRADE, "the upgrade reaches deskgate, which asks for a token")
        }
        (101, Some(4401 | 4403)) => {
            Finding::ok(FRONT_UPGRADE, "the upgrade reaches deskgate, which closes without a token")
        }
        (401, _) if is_refusal(&answer) => {
            let said = "deskgate is reached, but the upgrade is lost on the way: no desktop opens";
            Finding::problem(FRONT_UPGRADE, said, pass)
        }
        (101, _) => {
            let said = "a WebSocket opens without a token: this is not deskgate";
            let remedy = "send /websockify to deskgate, not to a pod or a websockify of its own";
            Finding::problem(FRONT_UPGRADE, said, remedy)
        }
        (301..=308, _) => Finding::skipped(FRONT_UPGRADE, "it is redirected: see D17"),
        (status, _) if is_failure(&answer) => {
            let remedy = if status == 400 { pass } else { ITS_LOG };
            Finding::problem(FRONT_UPGRADE, format!("deskgate itself answers {status}"), remedy)
        }
        (400 | 426, _) => {
            let said = format!("answered {}{}", answer.status, server(&answer));
            Finding::problem(FRONT_UPGRADE, said, pass)
        }
        (status, _) => {
            let said = format!("answered {status}{}, not by deskgate", server(&answer));
            let remedy = "send /websockify to deskgate with its query unchanged";
            Finding::problem(FRONT_UPGRADE, said, remedy)
        }
    }
}

/// Whether these are deskgate's words for a token that is missing.
fn is_refusal(answer: &Answer) -> bool {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let is = |key: &str, value: Value| body.get(key) == Some(&value);
    is("status", 401.into()) && is("error", "unauthorized".into())
}

/// deskgate writes the scheme that it believes into redirects of its services. Where none redirects, the
/// certificate tells something, or nothing does.
async fn scheme(world: &World, front: &Front) -> Finding {
    if !front.secure {
        return Finding::skipped(FRONT_SCHEME, "the public address is plain HTTP");
    }
    let remedy = "let the front proxy set X-Forwarded-Proto (and -For), and name its network in \
                  listen.trusted_proxies";
    let own = |scheme: &str| format!("{scheme}://{}/", front.authority);
    for folder in FOLDERS {
        let Ok(answer) = front.ask(world, folder, false).await else { break };
        let location = answer.header("location").unwrap_or_default();
        if location.starts_with(&own("https")) {
            let said = "redirects keep https: deskgate is told, or the front proxy corrects them";
            return Finding::ok(FRONT_SCHEME, said);
        }
        let host = without_port(&front.authority);
        let plain =
            location.starts_with(&own("http")) || location.starts_with(&format!("http://{host}/"));
        if plain {
            let said = format!("{folder} is redirected to plain http");
            return Finding::problem(FRONT_SCHEME, said, remedy);
        }
    }
    if ends_here(world, front) {
        let said = "TLS ends in deskgate itself, where there is nothing to tell, or in a proxy with \
                    the same certificate";
        return Finding::ok(FRONT_SCHEME, said);
    }
    if world.layered.config.listen.trusted_proxies.is_empty() {
        let said = "TLS ends before deskgate, and listen.trusted_proxies is empty: no header of the \
                    front proxy is believed, every user has its address";
        return Finding::warning(FRONT_SCHEME, said, remedy);
    }
    let why = "cannot be told from outside: no service redirects; X-Forwarded-Proto reaches pyos as \
               deskgate believes it";
    Finding::skipped(FRONT_SCHEME, why)
}

/// Whether the certificate of the public address is one of deskgate's own.
fn ends_here(world: &World, front: &Front) -> bool {
    let Some(seen) = front.tls.as_ref().and_then(|tls| tls.seen()) else { return false };
    let first = |text: &[u8]| {
        let blocks = pem::parse_many(text).ok()?;
        let block = blocks.into_iter().find(|block| block.tag() == "CERTIFICATE")?;
        Some(block.into_contents())
    };
    let own = &world.texts.certificates;
    own.iter().any(|[(_, chain), _]| first(chain).is_some_and(|own| own == seen.der))
}

fn certificate(front: &Front) -> Finding {
    let Some(tls) = &front.tls else {
        let remedy = "serve HTTPS: tokens and pictures travel in the clear; browsers give pages \
                      without it neither clipboard nor microphone";
        let said = "the public address is plain HTTP";
        return match is_local(&front.places) {
            true => Finding::skipped(FRONT_CERTIFICATE, said),
            false => Finding::warning(FRONT_CERTIFICATE, said, remedy),
        };
    };
    let Some(Seen { der, verdict }) = tls.seen() else {
        return Finding::skipped(FRONT_CERTIFICATE, "none was shown: see D17");
    };
    let now = clock::now().wall.as_secs();
    let Some(description) = describe(&der, "", now) else {
        let remedy = "replace it: it is no X.509 certificate that browsers take";
        return Finding::problem(FRONT_CERTIFICATE, "it cannot be read", remedy);
    };
    let finding = dates(FRONT_CERTIFICATE, &description, now);
    match verdict {
        _ if finding.status == Status::Problem => finding,
        Some(Ok(())) => finding.and(["trusted by this system, for this name".to_owned()]),
        None => finding.and(["this system has no list of authorities: not verified".to_owned()]),
        Some(Err(error)) => {
            let host = without_port(&front.authority);
            let remedy = format!(
                "serve a certificate for {host} with its chain, from an issuer that browsers trust \
                 (SSL_CERT_FILE names an issuer of your own)"
            );
            let problem = Finding::problem(FRONT_CERTIFICATE, error, remedy);
            problem.and(finding.details)
        }
    }
}

fn is_local(places: &[SocketAddr]) -> bool {
    places.iter().all(|place| place.ip().is_loopback())
}
