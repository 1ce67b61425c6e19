//! The gateway on pingora's phases: a few lines per phase, each calling a room.
//!
//! A request goes `request_filter` → `plan` (route, token, target) → either
//! `open_tunnel` or pingora's own way through `upstream_peer`,
//! `upstream_request_filter` and `response_filter`. Every error ends in `fail_to_proxy`, which
//! asks [`crate::respond`]; there is no other way to answer with an error.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::modules::http::compression::ResponseCompressionBuilder;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error as PingoraError, Result};

use crate::auth::token::{locate, without_token};
use crate::auth::{Authenticator, Desktop};
use crate::config::{Lifetime, Listen};
use crate::error::Error;
use crate::files::Root;
use crate::respond;
use crate::route::{Destination, Found, NormalPath, Table};
use crate::telemetry::access_log::InFlight;
use crate::transport::SocketPolicy;
use crate::tunnel::ends::End;
use crate::tunnel::registry::{Info, Registry};
use crate::tunnel::{self, Opening};
use crate::upstream::desktops::{Desktops, Found as Pod, Wanted};
use crate::upstream::{self, Upstreams};

mod client;
pub(crate) mod clock;
mod compression;
mod context;
mod headers;
mod location;
mod record;
mod refusal;
mod renew;
mod static_files;

pub use context::Context;

use client::Client;
use context::Plan;

/// The rooms that a request goes through, as one configuration built them.
#[derive(Debug)]
pub struct Rooms {
    /// The routes.
    pub table: Table,
    /// Token to desktop.
    pub authenticator: Arc<Authenticator>,
    /// Names to addresses.
    pub upstreams: Arc<Upstreams>,
    /// Folders of files, by the name of the row that serves them.
    pub roots: BTreeMap<String, Root>,
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

/// The gateway: the rooms of now, and what outlives them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Gateway {
    rooms: Arc<ArcSwap<Rooms>>,
    /// Requests and tunnels under way.
    pub in_flight: InFlight,
    /// Where desktops are found.
    pub desktops: Desktops,
    /// The open tunnels.
    pub tunnels: Registry,
}

impl Gateway {
    /// A gateway with these rooms.
    #[must_use]
    pub fn new(rooms: Rooms, desktops: Desktops, tunnels: Registry, in_flight: InFlight) -> Self {
        Self { rooms: Arc::new(ArcSwap::from_pointee(rooms)), in_flight, desktops, tunnels }
    }

    /// Takes new rooms into use.
    pub fn swap(&self, rooms: Rooms) {
        self.rooms.store(Arc::new(rooms));
    }

    /// The rooms of now. A request keeps those that it began with.
    #[must_use]
    pub fn rooms(&self) -> Arc<Rooms> {
        self.rooms.load_full()
    }
}

impl Rooms {
    /// Decides what becomes of a request before anything is connected: path, route, token, target,
    /// in this order.
    async fn plan(
        &self,
        head: &RequestHeader,
        client: Client,
        ctx: &mut Context,
    ) -> Result<Plan, Error> {
        if head.method == Method::TRACE {
            return Err(Error::MethodRefused);
        }
        let public = headers::host_of(head);
        let valid = public.as_ref().is_some_and(headers::is_valid_host);
        if !valid && (public.is_some() || head.version == Version::HTTP_11) {
            return Err(Error::InvalidRequest); // RFC 9112 section 3.2
        }
        let (path, query) = path_and_query(head)?;
        let found = self.table.find(&path).ok_or(Error::NoRoute)?;
        ctx.route = Some(Arc::clone(found.route));
        if let Some(record) = &mut ctx.record {
            record.route.clone_from(&found.route.row.name);
        }
        let desktop = self.authenticate(&found, head, query, ctx).await?;
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
        let query = match (found.route.row.token, query) {
            (Some(place), Some(query)) => without_token(place, query),
            (None, query) => query.map(ToOwned::to_owned),
            (Some(_), None) => None,
        };
        let public = public.and_then(|host| host.to_str().map(ToOwned::to_owned).ok());
        Ok(Plan {
            desktop,
            target: found.upstream_target(&path, query.as_deref()),
            port,
            sent: headers::upstream_host(found.route, port, public.as_deref()),
            public,
            prefix: found.public_prefix(&path).map(ToOwned::to_owned),
            scheme: client.scheme.clone(),
            route: Arc::clone(found.route),
            client,
            addresses: Vec::new(),
            uid: None,
            attempt: 0,
            received: 0,
        })
    }

    /// The desktop that the request's token opens, for routes that take a token.
    async fn authenticate(
        &self,
        found: &Found<'_, '_>,
        head: &RequestHeader,
        query: Option<&str>,
        ctx: &mut Context,
    ) -> Result<Option<Arc<Desktop>>, Error> {
        let Some(place) = found.route.row.token else { return Ok(None) };
        let header = head.headers.get(headers::TOKEN_HEADER).map(|value| value.as_bytes());
        let token = locate(place, query, header, found.captures.token)?;
        if let Some(record) = &mut ctx.record {
            record.token = Some(token.fingerprint());
        }
        let desktop = self.authenticator.authenticate(token, clock::now()).await?;
        if let Some(record) = &ctx.record {
            record.accepted();
        }
        Ok(Some(desktop))
    }

    /// What is behind a plan's route.
    async fn find(&self, plan: &Plan, desktops: &Desktops) -> Result<Pod, Error> {
        let found = match (&plan.route.backend, &plan.desktop) {
            (Destination::Upstream(upstream), _) => {
                let addresses = self.upstreams.fixed(upstream).await?;
                return Ok(Pod { addresses, label: Arc::clone(&plan.route.name), uid: None });
            }
            (_, Some(desktop)) => {
                let permits = |address| self.authenticator.permits(address);
                let wanted = Wanted { desktop, port: plan.port, now: clock::now().wall };
                desktops.find(&self.upstreams, wanted, permits).await
            }
            (_, None) => Err(upstream::Error::NoSuchName),
        };
        Ok(found?)
    }

    /// Connects an upgrade to its pod and hands both streams to the relay, or passes on the pod's
    /// refusal.
    async fn open_tunnel(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        plan: &Plan,
        gateway: &Gateway,
    ) -> Result<()> {
        let mut head = session.req_header().clone();
        headers::to_upstream(&mut head, &plan.rules(true))?;
        let found = self.find(plan, &gateway.desktops).await?;
        let timeouts = &plan.route.row.timeouts;
        let pod =
            upstream::send_head(&found.addresses, timeouts, head).await.map_err(Error::from)?;
        let Some(mut answer) = pod.resp_header().cloned() else {
            return Err(Error::from(upstream::Error::InvalidResponse).into());
        };
        headers::to_client(&mut answer, &plan.answer())?;
        if answer.status != http::StatusCode::SWITCHING_PROTOCOLS {
            compression::judge(session, &mut answer, plan.route.row.compress)?;
            return refusal::pass_on(session, pod, answer).await;
        }
        let Some(mut record) = ctx.record.take() else { return Ok(()) };
        record.status = 101;
        let settings = &plan.route.row.tunnel;
        let desktop = plan.desktop.as_deref();
        let info = Info {
            route: Arc::clone(&plan.route.name),
            token: record.token.map(|token| token.to_string().into()),
            pod: found.label,
            uid: found.uid.clone(),
            client: plan.client.address,
            deadline: desktop
                .filter(|_| settings.lifetime == Lifetime::Token)
                .map(|desktop| renew::expiry(desktop) + settings.grace),
            grace: settings.grace,
        };
        let opening = Opening {
            info,
            registry: &gateway.tunnels,
            timeouts,
            ping: settings.ping,
            sockets: self.sockets,
            record,
        };
        let id = tunnel::start(session, pod, &answer, opening).await?;
        // The pod may have gone before its tunnel was listed.
        if found.uid.is_some_and(|uid| !gateway.desktops.lists(&uid)) {
            let _told = gateway.tunnels.close(id, End::DesktopGone);
        }
        // The drain may have looked before it, too.
        if gateway.in_flight.is_draining() {
            let _told = gateway.tunnels.close(id, End::Drain);
        }
        Ok(())
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(ResponseCompressionBuilder::enable(compression::LEVEL));
    }

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        ctx.accepts = compression::offer(session.req_header_mut());
        let rooms = self.rooms();
        let listen = &rooms.listen;
        // Only where pingora would keep the connection: it knows HTTP/1.0, and what must close.
        if session.get_keepalive().is_some() {
            let keepalive = listen.keepalive.as_secs().max(1);
            session.set_keepalive((!self.in_flight.is_leaving()).then_some(keepalive));
        }
        if session.req_header().version == Version::HTTP_2 {
            judge_http2(session.req_header(), listen)?;
        }
        session.set_pipelining_enabled(true);
        session.set_read_timeout(Some(listen.read_timeout));
        session.set_write_timeout(Some(listen.write_timeout));
        session.set_total_drain_timeout(Some(listen.read_timeout));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        compression::restore(session.req_header_mut(), ctx.accepts.take());
        let rooms = Arc::clone(ctx.rooms.insert(self.rooms()));
        let client = Client::new(session, &rooms.listen.trusted_proxies);
        let record = record::open(session, client.address, &self.in_flight);
        ctx.record = Some(record);
        let plan = rooms.plan(session.req_header(), client, ctx).await?;
        match &plan.route.backend {
            Destination::Text(text) => {
                respond::write_text(session, text).await?;
                return Ok(true);
            }
            Destination::Files(_) => {
                static_files::serve(session, &plan, &rooms.roots).await?;
                return Ok(true);
            }
            Destination::Renew => {
                let found = rooms.find(&plan, &self.desktops).await?;
                renew::serve(session, &plan, &found.label, &self.tunnels).await?;
                return Ok(true);
            }
            Destination::Desktop(_) | Destination::DesktopPorts(_) | Destination::Upstream(_) => {}
        }
        match headers::is_websocket_upgrade(session.req_header()) {
            Some(valid) if plan.route.row.websocket => {
                if !valid {
                    return Err(Error::InvalidUpgrade.into());
                }
                if self.in_flight.is_draining() {
                    return Err(Error::Draining.into());
                }
                rooms.open_tunnel(session, ctx, &plan, self).await?;
                return Ok(true);
            }
            // An upgrade that a route does not take is ignored, as RFC 9110 §7.8 allows.
            Some(_) | None => ctx.plan = Some(plan),
        }
        Ok(false)
    }

    async fn upstream_peer(&self, _: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let plan = ctx.plan.as_mut().ok_or(Error::NoRoute)?;
        plan.received = 0; // A second try sends the body again.
        if plan.addresses.is_empty() {
            let rooms = ctx.rooms.as_ref().ok_or(Error::NoRoute)?;
            let found = rooms.find(plan, &self.desktops).await?;
            plan.addresses = found.addresses;
            plan.uid = found.uid;
        }
        let address = plan.addresses.get(plan.attempt).copied();
        let address = address.ok_or(Error::Upstream(upstream::Error::ConnectFailed))?;
        Ok(Box::new(upstream::peer(address, &plan.route.row.timeouts, plan.uid.as_deref())))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<PingoraError>,
    ) -> Box<PingoraError> {
        // Nothing was sent, so the next address may be tried whatever the method.
        if let Some(plan) = &mut ctx.plan {
            plan.attempt += 1;
            error.set_retry(plan.attempt < plan.addresses.len());
        }
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<PingoraError>,
        ctx: &mut Context,
        reused: bool,
    ) -> Box<PingoraError> {
        // pingora's default rule, without writing the peer's address into the error.
        if session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated()
        {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        // Time has passed: whose address this is now is judged anew.
        if let Some(plan) = &mut ctx.plan {
            plan.addresses.clear();
            plan.attempt = 0;
        }
        error
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let plan = ctx.plan.as_ref().ok_or(Error::NoRoute)?;
        headers::to_upstream(head, &plan.rules(false))
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        let (Some(plan), Some(body)) = (&mut ctx.plan, body) else { return Ok(()) };
        plan.received += body.len() as u64;
        if plan.received > plan.route.row.limits.body.as_u64() {
            return Err(Error::BodyTooLarge.into());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let plan = ctx.plan.as_ref().ok_or(Error::NoRoute)?;
        headers::to_client(head, &plan.answer())?;
        if head.status.is_informational() {
            return Ok(());
        }
        if session.req_header().version == Version::HTTP_10 {
            // It knows no chunks: the end of the connection is the end of the body.
            if head.remove_header(&header::TRANSFER_ENCODING).is_some() {
                session.set_keepalive(None);
            }
        }
        compression::judge(session, head, plan.route.row.compress)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &PingoraError,
        ctx: &mut Context,
    ) -> FailToProxy {
        let Some(problem) = respond::classify(error) else {
            record::note(ctx, "client_gone");
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        record::note(ctx, problem.reason);
        if ctx.explains(session) {
            let (code, text) = respond::close_of(&problem);
            if tunnel::accept_and_close(session, code, &text).await.is_ok() {
                record::note_status(ctx, 101);
            }
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        // pingora closes the connection after a failure of the upstream's side, whatever we say.
        let may_keep = ctx.plan.is_none();
        let kept = respond::write(session, &problem, may_keep).await.unwrap_or(false);
        FailToProxy { error_code: problem.status.as_u16(), can_reuse_downstream: kept }
    }

    async fn logging(&self, session: &mut Session, _: Option<&PingoraError>, ctx: &mut Context) {
        // A tunnel has taken the record along, and the session with it.
        if let Some(record) = &mut ctx.record {
            record::close(record, session);
        }
        ctx.record = None;
    }

    fn request_summary(&self, _: &Session, _: &Context) -> String {
        String::new() // The default prints the request target, tokens included.
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &PingoraError) -> bool {
        true // The access log has it.
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Context,
        _: &PingoraError,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// The limits of a head that `server::connection` holds for HTTP/1.
fn judge_http2(head: &RequestHeader, listen: &Listen) -> Result<(), Error> {
    let line = usize::try_from(listen.max_line.as_u64()).unwrap_or(usize::MAX);
    if head.raw_path().len() > line {
        return Err(Error::TargetTooLong);
    }
    let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    if head.headers.len() > listen.max_headers || lines.max().is_some_and(|longest| longest > line)
    {
        return Err(Error::HeadTooLarge);
    }
    Ok(())
}

/// The normalised path and the raw query of a request.
fn path_and_query(head: &RequestHeader) -> Result<(NormalPath, Option<&str>), Error> {
    let raw = head.raw_path();
    // The absolute form (RFC 9112 §3.2.2) holds a scheme and a host first.
    let lower = raw.get(..8).unwrap_or(raw).to_ascii_lowercase();
    let raw = if lower.starts_with(b"http://") || lower.starts_with(b"https://") {
        head.uri.path_and_query().map_or(raw, |target| target.as_str().as_bytes())
    } else {
        raw
    };
    let (path, query) = match raw.iter().position(|byte| *byte == b'?') {
        Some(mark) => (raw.get(..mark).unwrap_or(raw), raw.get(mark + 1..)),
        None => (raw, None),
    };
    // A query that is no text carries no token and goes nowhere.
    let query = query.and_then(|query| std::str::from_utf8(query).ok());
    Ok((NormalPath::parse(path)?, query))
}

fn content_length(head: &RequestHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}
