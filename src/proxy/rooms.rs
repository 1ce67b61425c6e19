//! The rooms of one configuration, and what they decide about a request before anything is connected: its
//! route, whose desktop its token opens, and where that is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Version, header};
use pingora::http::RequestHeader;

use super::client::Client;
use super::cold::Cold;
use super::context::{Context, Plan, Way};
use super::{clock, cold, headers, page, tarpit};
use crate::admission::{Admission, TunnelSeat};
use crate::auth::token::{locate, without_token};
use crate::auth::{self, Authenticator, Desktop, Now};
use crate::config::{self, Listen, WebSocket};
use crate::error::Error;
use crate::files::Root;
use crate::route::{Destination, Found, NormalPath, Table};
use crate::transport::SocketPolicy;
use crate::upstream::desktops::{Found as Pod, Wanted};
use crate::upstream::{self, Upstreams};

/// The rooms that a request goes through, as one configuration built them.
#[derive(Debug)]
pub struct Rooms {
    /// The routes.
    pub table: Table,
    /// Token to desktop.
    pub authenticator: Arc<Authenticator>,
    /// Where the costly step of that is taken.
    pub cold: Cold,
    /// Names to addresses.
    pub upstreams: Arc<Upstreams>,
    /// Folders of files, by the name of the row that serves them.
    pub roots: BTreeMap<String, Root>,
    /// What is taken on.
    pub admission: Arc<Admission>,
    /// Settings of the client's side.
    pub listen: Listen,
    /// How the sockets of tunnels are set.
    pub sockets: SocketPolicy,
    /// When the keys in use were loaded, in Unix seconds.
    pub keys_since: u64,
    /// What the rooms that remember something were built from.
    pub marks: Marks,
}

/// Digests of the settings of rooms that remember something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Of the authenticator's.
    pub auth: [u8; 32],
    /// Of the resolver's.
    pub upstreams: [u8; 32],
    /// Of the issuers of clients' certificates.
    pub authorities: [u8; 32],
}

impl Rooms {
    /// Decides what becomes of a request before anything is connected: path, route, who led a browser
    /// here, token, target, in this order.
    pub(super) async fn plan(
        &self,
        head: &RequestHeader,
        client: Client,
        ctx: &mut Context,
        now: Now,
    ) -> Result<Plan, Error> {
        if head.method == Method::TRACE {
            return Err(Error::MethodRefused);
        }
        let host = headers::host_of(head);
        let valid = host.as_ref().is_some_and(|host| headers::is_valid_host(host));
        if !valid && (host.is_some() || head.version == Version::HTTP_11) {
            return Err(Error::InvalidRequest); // RFC 9112 section 3.2
        }
        if !headers::connection_is_sound(head) {
            return Err(Error::InvalidRequest);
        }
        let (path, query) = path_and_query(head)?;
        let found = self.table.find(&path);
        if let Some(found) = &found {
            if let Some(record) = &mut ctx.record {
                record.route = Some(Arc::clone(&found.route.name));
            }
            // Before all else: a page of ours that tells of another refusal may lead the browser here again.
            page::judge_visit(head, found.route, self.admission.origins())?;
        }
        self.count(found.as_ref(), &client, now)?;
        let found = found.ok_or(Error::NoRoute)?;
        ctx.route = Some(Arc::clone(found.route));
        let desktop = self.authenticate(&found, head, query, (ctx, now)).await;
        let desktop = tarpit::judge(&self.admission, client.address, desktop).await?;
        let port = match &found.route.backend {
            Destination::Files(_) | Destination::Renew | Destination::Text(_) => 0,
            Destination::Desktop(_) | Destination::DesktopPorts(_) | Destination::Upstream(_) => {
                found.port().ok_or(Error::PortRefused)?
            }
        };
        let limit = found.route.row.limits.body.as_u64();
        if content_length(head).is_some_and(|length| length > limit) {
            return Err(Error::BodyTooLarge);
        }
        let upgrade = asks_for_a_tunnel(head, &found.route.row)?;
        let query = match (found.route.row.token, query) {
            (Some(place), Some(query)) => without_token(place, query),
            (None, query) => query.map(ToOwned::to_owned),
            (Some(_), None) => None,
        };
        let host = host.as_ref().and_then(|host| host.to_str().ok());
        let public = headers::public_host(head, client.trusted);
        Ok(Plan {
            desktop,
            target: found.upstream_target(&path, query.as_deref()),
            port,
            sent: headers::upstream_host(found.route, port, host),
            public: public.and_then(|host| host.to_str().map(ToOwned::to_owned).ok()),
            prefix: found.public_prefix(&path).map(ToOwned::to_owned),
            route: Arc::clone(found.route),
            client,
            upgrade,
        })
    }

    /// The desktop that the request's token opens, for routes that take a token.
    async fn authenticate(
        &self,
        found: &Found<'_, '_>,
        head: &RequestHeader,
        query: Option<&str>,
        (ctx, now): (&mut Context, Now),
    ) -> Result<Option<Arc<Desktop>>, Error> {
        let Some(place) = found.route.row.token else { return Ok(None) };
        let header = head.headers.get(headers::TOKEN_HEADER).map(|value| value.as_bytes());
        let token = locate(place, query, header, found.captures.token)?;
        if let Some(record) = &mut ctx.record {
            record.token = Some(token.fingerprint());
        }
        let open = |sealed| self.cold.open(sealed);
        let desktop = self.authenticator.authenticate_by(token, now, cold::turn(), open).await?;
        if let Some(record) = &mut ctx.record {
            record.accepted();
        }
        Ok(Some(desktop))
    }

    /// Counts a request under its client's address. A fixed text, such as a health check's, is never
    /// too much.
    fn count(&self, found: Option<&Found<'_, '_>>, client: &Client, now: Now) -> Result<(), Error> {
        if found.is_some_and(|found| found.route.is_text()) {
            return Ok(());
        }
        Ok(self.admission.request(client.address, now.mono)?)
    }

    /// Whether a tunnel may be opened now, for the page that asks for one.
    pub(super) fn may_open(&self, head: &RequestHeader, plan: &Plan) -> Result<(), Error> {
        if plan.desktop.is_some() {
            page::judge(head, self.admission.origins())?;
        }
        Ok(self.admission.tunnels()?)
    }

    /// A place for the tunnel that a request asks for, if it does.
    pub(super) fn seat(&self, plan: &Plan, pod: &Pod) -> Result<TunnelSeat, Error> {
        let Some(desktop) = plan.desktop.as_ref().filter(|_| plan.upgrade) else {
            return Ok(TunnelSeat::default());
        };
        Ok(self.admission.tunnel(desktop.fingerprint, &pod.label, Instant::now())?)
    }

    /// What is behind a plan's route.
    pub(super) async fn find(&self, plan: &Plan, way: &Way<'_>) -> Result<Pod, Error> {
        let found = match (&plan.route.backend, &plan.desktop) {
            (Destination::Upstream(upstream), _) => {
                let addresses = self.upstreams.fixed(upstream).await?;
                let label = Arc::clone(&plan.route.name);
                return Ok(Pod { addresses, label, uid: None, alone: false });
            }
            (_, Some(desktop)) => {
                let permits = |address| self.authenticator.permits(address);
                let wanted = Wanted { desktop, port: plan.port, now: clock::now() };
                let found = way.desktops.find(&self.upstreams, wanted, permits).await;
                // What was judged before the wait for a pod may have changed in it.
                if found.as_ref().is_ok_and(|found| way.revoked.holds(desktop, &found.label)) {
                    return Err(auth::Error::Revoked.into());
                }
                if Duration::from_secs(desktop.expires) <= clock::now().wall {
                    return Err(auth::Error::Expired.into());
                }
                found
            }
            (_, None) => Err(upstream::Error::NoSuchName),
        };
        Ok(found?)
    }
}

/// The normalised path and the raw query of a request.
pub(super) fn path_and_query(head: &RequestHeader) -> Result<(NormalPath, Option<&str>), Error> {
    let raw = head.raw_path();
    // The absolute form (RFC 9112 §3.2.2) holds a scheme and a host first.
    let begins = |scheme: &[u8]| {
        raw.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let raw = if begins(b"http://") || begins(b"https://") {
        head.uri.path_and_query().map_or(raw, |target| target.as_str().as_bytes())
    } else {
        raw
    };
    let (path, query) = match memchr::memchr(b'?', raw) {
        Some(mark) => (raw.get(..mark).unwrap_or(raw), raw.get(mark + 1..)),
        None => (raw, None),
    };
    // A query that is no text carries no token and goes nowhere.
    let query = query.and_then(|query| std::str::from_utf8(query).ok());
    Ok((NormalPath::parse(path)?, query))
}

/// Whether a request asks for a tunnel, on a row that has tunnels.
fn asks_for_a_tunnel(head: &RequestHeader, row: &config::Route) -> Result<bool, Error> {
    match (headers::is_websocket_upgrade(head), row.websocket) {
        (Some(true), WebSocket::Allowed | WebSocket::Only) => Ok(true),
        (Some(false), WebSocket::Allowed | WebSocket::Only) => Err(Error::InvalidUpgrade),
        (None, WebSocket::Only) => Err(Error::UpgradeRequired),
        // An upgrade that a route does not take is ignored, as RFC 9110 §7.8 allows.
        (None, WebSocket::Allowed) | (_, WebSocket::Never) => Ok(false),
    }
}

fn content_length(head: &RequestHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
