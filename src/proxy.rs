//! The gateway: one request from its head to its end, a few lines per step, each calling a room.
//!
//! [`Gateway::serve`] → `answer` → `plan` (route, token, target) → `exchange::ask`, then either
//! `exchange::Answer::pass_back` or [`tunnel::start`]. Every error ends in `fail`, which asks
//! [`crate::respond`]; there is no other way to answer with an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Method, Version, header};
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession as Session;
use pingora::protocols::http::server::ReusableHttpStream;
use pingora::{Error as PingoraError, Result};
use tokio::time::timeout;

use crate::admission::pressure::Level;
use crate::admission::{Admission, TunnelSeat};
use crate::auth::revoked::Revoked;
use crate::auth::token::{locate, without_token};
use crate::auth::{self, Authenticator, Desktop};
use crate::config::{Lifetime, Listen};
use crate::error::Error;
use crate::files::Root;
use crate::respond::{self, Stamp};
use crate::route::{Destination, Found, NormalPath, Table};
use crate::telemetry::access_log::InFlight;
use crate::transport::SocketPolicy;
use crate::tunnel::ends::End;
use crate::tunnel::registry::{Info, Registry};
use crate::tunnel::{self, Opening};
use crate::upstream::desktops::{Desktops, Found as Pod, Wanted};
use crate::upstream::pool::Pool;
use crate::upstream::{self, Upstreams};

mod client;
pub(crate) mod clock;
mod cold;
mod compression;
mod context;
mod exchange;
mod headers;
mod location;
mod page;
mod record;
pub(crate) mod redirect;
mod renew;
#[doc(hidden)]
pub mod seam;
mod static_files;
mod tarpit;
pub(crate) mod trail;

pub use cold::Cold;

use client::Client;
use context::{Context, Plan, Way};
use exchange::Answer;

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

/// Longest wait for the end of a connection to be written.
const CUT: Duration = Duration::from_secs(1);

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
    /// Tokens that operators have withdrawn.
    pub revoked: Revoked,
}

impl Gateway {
    /// A gateway with these rooms.
    #[must_use]
    pub fn new(rooms: Rooms, desktops: Desktops, tunnels: Registry, in_flight: InFlight) -> Self {
        Self {
            rooms: Arc::new(ArcSwap::from_pointee(rooms)),
            in_flight,
            desktops,
            tunnels,
            revoked: Revoked::default(),
        }
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
        if !headers::connection_is_sound(head) {
            return Err(Error::InvalidRequest);
        }
        let (path, query) = path_and_query(head)?;
        let found = self.table.find(&path);
        self.count(found.as_ref(), &client)?;
        let found = found.ok_or(Error::NoRoute)?;
        ctx.route = Some(Arc::clone(found.route));
        if let Some(record) = &mut ctx.record {
            record.route.clone_from(&found.route.row.name);
        }
        let desktop = self.authenticate(&found, head, query, ctx).await;
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
        let upgrade = match headers::is_websocket_upgrade(head) {
            Some(valid) if found.route.row.websocket => {
                if !valid {
                    return Err(Error::InvalidUpgrade);
                }
                true
            }
            // An upgrade that a route does not take is ignored, as RFC 9110 §7.8 allows.
            Some(_) | None => false,
        };
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
        ctx: &mut Context,
    ) -> Result<Option<Arc<Desktop>>, Error> {
        let Some(place) = found.route.row.token else { return Ok(None) };
        let header = head.headers.get(headers::TOKEN_HEADER).map(|value| value.as_bytes());
        let token = locate(place, query, header, found.captures.token)?;
        if let Some(record) = &mut ctx.record {
            record.token = Some(token.fingerprint());
        }
        let open = |sealed| self.cold.open(sealed);
        let desktop = self.authenticator.authenticate_by(token, clock::now(), open).await?;
        if let Some(record) = &ctx.record {
            record.accepted();
        }
        Ok(Some(desktop))
    }

    /// Counts a request under its client's address. A fixed text, such as a health check's, is never
    /// too much.
    fn count(&self, found: Option<&Found<'_, '_>>, client: &Client) -> Result<(), Error> {
        if found.is_some_and(|found| found.route.is_text()) {
            return Ok(());
        }
        Ok(self.admission.request(client.address, clock::now().mono)?)
    }

    /// Whether a tunnel may be opened now, for the page that asks for one.
    fn may_open(&self, head: &RequestHeader, plan: &Plan) -> Result<(), Error> {
        if plan.desktop.is_some() {
            page::judge(head, self.admission.origins())?;
        }
        Ok(self.admission.tunnels()?)
    }

    /// A place for the tunnel that a request asks for, if it does.
    fn seat(&self, plan: &Plan, pod: &Pod) -> Result<TunnelSeat, Error> {
        let desktop = plan.desktop.as_ref().filter(|_| plan.upgrade);
        let token = desktop.map(|desktop| desktop.fingerprint);
        Ok(self.admission.tunnel(token, &pod.label, clock::now().mono)?)
    }

    /// What is behind a plan's route.
    async fn find(&self, plan: &Plan, way: &Way<'_>) -> Result<Pod, Error> {
        let found = match (&plan.route.backend, &plan.desktop) {
            (Destination::Upstream(upstream), _) => {
                let addresses = self.upstreams.fixed(upstream).await?;
                return Ok(Pod { addresses, label: Arc::clone(&plan.route.name), uid: None });
            }
            (_, Some(desktop)) => {
                let permits = |address| self.authenticator.permits(address);
                let wanted = Wanted { desktop, port: plan.port, now: clock::now().wall };
                let found = way.desktops.find(&self.upstreams, wanted, permits).await;
                if found.as_ref().is_ok_and(|found| way.revoked.holds(desktop, &found.label)) {
                    return Err(auth::Error::Revoked.into());
                }
                found
            }
            (_, None) => Err(upstream::Error::NoSuchName),
        };
        Ok(found?)
    }
}

/// A request whose pod has agreed to a tunnel.
struct Upgrade {
    plan: Plan,
    answer: Answer,
}

impl Gateway {
    /// Serves one request. Returns the connection if another request may follow on it.
    pub async fn serve(&self, mut session: Session, pool: &Pool) -> Option<ReusableHttpStream> {
        let rooms = self.rooms();
        self.prepare(&mut session, &rooms);
        let client = Client::new(&session, &rooms.listen.trusted_proxies);
        let trail = trail::settle(session.req_header(), client.trusted);
        let record = record::open(&session, client.address, &trail, &self.in_flight);
        let stamp = Stamp { id: trail.id.clone(), hsts: client.hsts(&rooms.listen) };
        respond::prepare(session.req_header_mut(), stamp);
        let mut ctx = Context { record: Some(record), route: None };
        let (desktops, revoked) = (&self.desktops, &self.revoked);
        let way = Way { rooms: &rooms, desktops, revoked, pool, trail: &trail };
        match self.answer(&mut session, client, &mut ctx, &way).await {
            Ok(None) => {}
            Ok(Some(upgrade)) => {
                // The record goes along; a client that has gone needs no answer. Boxed, as what is
                // rare or long: each request moves the memory of its future.
                drop(Box::pin(self.open_tunnel(session, upgrade, &mut ctx, &rooms)).await);
                return None;
            }
            Err(error) => session = self.fail(session, &error, &mut ctx).await?,
        }
        if let Some(record) = &mut ctx.record {
            record::close(record, &session);
        }
        // What is buffered leaves now, within the time that a client has to take something.
        match timeout(rooms.listen.write_timeout, session.finish()).await {
            Ok(Ok(next)) => next,
            Ok(Err(_)) | Err(_) => {
                record::note(&mut ctx, "client_gone");
                None
            }
        }
    }

    /// Sets how long each side of a session may take.
    fn prepare(&self, session: &mut Session, rooms: &Rooms) {
        let listen = &rooms.listen;
        // Only where pingora would keep the connection: it knows HTTP/1.0, and what must close. Of
        // several `Connection` lines it reads the first.
        if session.get_keepalive().is_some() {
            let keepalive = listen.keepalive.as_secs().max(1);
            let spare = rooms.admission.pressure() < Level::NoKeepalive;
            let kept = spare
                && !self.in_flight.is_leaving()
                && !headers::asks_to_close(session.req_header());
            session.set_keepalive(kept.then_some(keepalive));
        }
        session.set_pipelining_enabled(true);
        session.set_read_timeout(Some(listen.read_timeout));
        session.set_write_timeout(Some(listen.write_timeout));
        session.set_total_drain_timeout(Some(listen.read_timeout));
    }

    /// Answers a request, or returns the pod's answer with which a tunnel begins.
    async fn answer(
        &self,
        session: &mut Session,
        client: Client,
        ctx: &mut Context,
        way: &Way<'_>,
    ) -> Result<Option<Upgrade>> {
        if session.is_http2() {
            judge_http2(session.req_header(), &way.rooms.listen)?;
        }
        if let Some(to) = redirect::to_https(way.rooms, session.req_header(), &client) {
            record::note_route(ctx, to.route);
            respond::write_redirect(session, &to.address).await?;
            return Ok(None);
        }
        let plan = way.rooms.plan(session.req_header(), client, ctx).await?;
        match &plan.route.backend {
            Destination::Text(text) => respond::write_text(session, text).await?,
            Destination::Files(_) => {
                static_files::serve(session, &plan, &way.rooms.roots).await?;
            }
            Destination::Renew => {
                let found = way.rooms.find(&plan, way).await?;
                renew::serve(session, &plan, &found.label, &self.tunnels).await?;
            }
            Destination::Desktop(_) | Destination::DesktopPorts(_) | Destination::Upstream(_) => {
                if plan.upgrade && self.in_flight.is_draining() {
                    return Err(Error::Draining.into());
                }
                if plan.upgrade {
                    way.rooms.may_open(session.req_header(), &plan)?;
                }
                if plan.upgrade {
                    // What the client sent after its request is nobody's HTTP.
                    session.set_keepalive(None);
                }
                let answer = exchange::ask(session, &plan, way).await?;
                if answer.head()?.status == http::StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(Some(Upgrade { plan, answer }));
                }
                answer.pass_back(session, &plan, way).await?;
            }
        }
        Ok(None)
    }

    /// Hands the client's and the pod's streams to the relay.
    async fn open_tunnel(
        &self,
        session: Session,
        upgrade: Upgrade,
        ctx: &mut Context,
        rooms: &Rooms,
    ) -> Result<()> {
        let Upgrade { plan, answer } = upgrade;
        let mut head = answer.head()?.clone();
        headers::to_client(&mut head, &plan.answer())?;
        respond::stamp(&mut head, session.req_header())?;
        let Some(mut record) = ctx.record.take() else { return Ok(()) };
        record.status = 101;
        let settings = &plan.route.row.tunnel;
        let desktop = plan.desktop.as_deref();
        let found = answer.found;
        let info = Info {
            route: Arc::clone(&plan.route.name),
            token: record.token.map(|token| token.to_string().into()),
            pod: Arc::clone(&found.label),
            uid: found.uid.clone(),
            client: plan.client.address,
            deadline: desktop
                .filter(|_| settings.lifetime == Lifetime::Token)
                .map(|desktop| renew::expiry(desktop) + settings.grace),
            grace: settings.grace,
        };
        let opening = Opening {
            info,
            registry: &self.tunnels,
            timeouts: &plan.route.row.timeouts,
            ping: settings.ping,
            sockets: rooms.sockets,
            seat: answer.seat,
            record,
        };
        let id = tunnel::start(session, answer.upstream.http, &head, opening).await?;
        // The pod may have gone before its tunnel was listed.
        if found.uid.is_some_and(|uid| !self.desktops.lists(&uid)) {
            let _told = self.tunnels.close(id, End::DesktopGone);
        }
        // So may an operator have withdrawn its token.
        if desktop.is_some_and(|desktop| self.revoked.holds(desktop, &found.label)) {
            let _told = self.tunnels.close(id, End::Revoked);
        }
        // The drain may have looked before it, too.
        if self.in_flight.is_draining() {
            let _told = self.tunnels.close(id, End::Drain);
        }
        Ok(())
    }

    /// Answers a request that failed, if anybody is left to answer. Returns the session unless its
    /// connection must end as it is.
    async fn fail(
        &self,
        mut session: Session,
        error: &PingoraError,
        ctx: &mut Context,
    ) -> Option<Session> {
        let Some(problem) = respond::classify(error) else {
            record::note(ctx, "client_gone");
            self.cut(session, ctx).await;
            return None;
        };
        record::note(ctx, problem.reason);
        if ctx.explains(&session) {
            let (code, text) = respond::close_of(&problem);
            let id = ctx.record.as_ref().map_or_else(trail::fresh, |record| record.id.clone());
            if Box::pin(tunnel::accept_and_close(session, &id, code, &text)).await.is_ok() {
                record::note_status(ctx, 101);
            }
            return None;
        }
        match respond::write(&mut session, &problem).await {
            Ok(true) => Some(session),
            Ok(false) | Err(_) => {
                self.cut(session, ctx).await;
                None
            }
        }
    }

    /// Ends a connection in the middle of a response, visibly: no last chunk is written.
    async fn cut(&self, mut session: Session, ctx: &mut Context) {
        if let Some(record) = &mut ctx.record {
            record::close(record, &session);
        }
        let limit = session.get_write_timeout().unwrap_or(CUT);
        drop(timeout(limit.min(CUT), session.shutdown()).await);
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
